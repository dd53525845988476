"""Folders of published translators, with small random weights: transformers' own words."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from tests.helpers import unchecked

from qkv.generation.ranking import Beam
from qkv.tasks.translation import Translator

TEXTS = ["A man sleeps.", "Der Vertrag, der gestern galt, gilt nicht mehr.", "wörds"]
LENGTH = 7
# Their Marian wants a package that only normalizes punctuation.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
MARIAN = {
    "d_model": 22,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_hidden_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 31,
    "decoder_ffn_dim": 31,
}
T5 = {"d_model": 22, "d_kv": 7, "num_heads": 3, "d_ff": 31, "num_layers": 2} | {
    "num_decoder_layers": 2
}
FOLDERS = {  # class, sizes, beam, tokens of an input (T5 has no last position)
    "opus-mt-en-mg": (transformers.MarianMTModel, MARIAN, (4, 512)),
    "legal-t5-small-fr-en": (transformers.T5ForConditionalGeneration, T5, (1, None)),
}


@pytest.fixture(params=list(FOLDERS))
def published(request, tmp_path):
    """Their model, their tokenizer, and the folder of both; what it says."""
    data = os.environ.get("QKV_DATA")
    if not data:
        pytest.skip("needs the published vocabularies: set QKV_DATA to their folder")
    kind, sizes, said_so = FOLDERS[request.param]
    folder = tmp_path / "published"
    shutil.copytree(Path(data, "tokenizers", request.param), folder)
    config = json.loads((folder / "config.json").read_text()) | sizes
    torch.manual_seed(1)
    model = kind(kind.config_class(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
        if "marian" in config["model_type"]:
            model.final_logits_bias[0, config["pad_token_id"]] = 1e4  # only a ban keeps it out
    model.save_pretrained(folder)
    # As it was published: their new version parts it in two files.
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").unlink()
    model.generation_config.bad_words_ids = config.get("bad_words_ids")
    return model, transformers.AutoTokenizer.from_pretrained(folder), folder, said_so


@pytest.mark.parametrize("size", [1, 3])
def test_translations_are_theirs(published, size):
    model, tokenizer, folder, said_so = published
    with unchecked():
        ours = Translator.load(folder, max_length=LENGTH)
        assert (ours.beam.size, ours.limit) == said_so
        how = Beam(size=size, length_penalty=1.0, length_rule="power")
        ours = Translator.load(folder, max_length=LENGTH, beam=how)
        early = {"early_stopping": "never"} if size > 1 else {}
        for text in TEXTS:
            batch = tokenizer(text, return_tensors="pt")
            assert (
                ours.tokenizer.add_special_tokens(ours.tokenizer.encode(text)).ids
                == batch.input_ids[0].tolist()
            )
            said = model.generate(
                batch.input_ids, num_beams=size, max_length=LENGTH + 1, max_new_tokens=None,
                forced_eos_token_id=None, **early,
            )  # fmt: skip
            expected = tokenizer.decode(said[0], skip_special_tokens=True)
            assert str(ours(text)).strip() == expected.strip()
            assert expected.strip()


def test_what_was_published_is_saved_as_it_was_read(published, tmp_path):
    """A Marian has two vocabularies in one folder."""
    folder = published[2]
    with unchecked():
        ours = Translator.load(folder)
        ours.save(tmp_path / "saved")
        again = Translator.load(tmp_path / "saved")
        assert [str(one) for one in again(TEXTS)] == [str(one) for one in ours(TEXTS)]
    assert (again.beam, again.max_length) == (ours.beam, ours.max_length)
    configs = [
        json.loads((one / "config.json").read_text()) for one in (folder, tmp_path / "saved")
    ]
    assert configs[0] == configs[1]
