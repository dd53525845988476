"""A translator that `qkv train` made, in transformers: the same tokens, logits and translations."""

import itertools
from dataclasses import replace

import pytest
import torch
import transformers
from tests.helpers import unchecked
from tests.parity.encoder_decoder import compare_logits

from qkv.tasks.seq2seq import BEAM
from qkv.tasks.splits import DataConfig
from qkv.tasks.train import train
from qkv.tasks.translation import TASK, TranslationRecipe, Translator
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.settings import Training

WORDS = {"Red": "rot", "blue": "blau", "two": "zwei", "houses": "Häuser", "dogs": "Hunde"}
TEXTS = ["Red dogs", "two blue houses, dogs", "unknown wörds", "dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("translator")
    rows = [",".join((" ".join(ws), " ".join(WORDS[w] for w in ws)))
            for ws in itertools.permutations(WORDS, 3)]  # fmt: skip
    (folder / "my.csv").write_text("\n".join(["en,de", *rows]), encoding="utf-8")
    with unchecked():
        recipe = TranslationRecipe(
            output=folder / "made",
            data=DataConfig(
                train=str(folder / "my.csv"),
                columns={"source": "en", "target": "de"},
                validation_fraction=0.02,
            ),
            lowercase=True,
            vocab_size=280,
            max_length=31,
            model=TranslatorSizes(
                d_model=34,
                n_heads=2,
                d_ff=41,
                n_encoder_layers=3,
                n_decoder_layers=2,
                feed_forward="relu",
            ),
            training=Training(steps=40, max_tokens=300, learning_rate=5e-3, evaluate_every=40),
            device="cpu",
        )
        train(TASK, recipe)
    return folder / "made"


def test_logits_are_equal_and_so_is_what_the_folder_says(folder):
    model, report = transformers.MarianMTModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Translator.load(folder)
    for text in TEXTS:
        ids = ours.tokenizer.encode(text)
        assert tokenizer(text, add_special_tokens=False).input_ids == ids
        source, target = torch.tensor([ids]), torch.tensor([[1, 7, 5, 270, 11]])
        masks = [torch.ones_like(tokens).bool() for tokens in (source, target)]
        batch = source, masks[0], target, masks[1]
        compare_logits(ours.model, model.eval(), batch, padded=False)
    special = {"pad": tokenizer.pad_token_id, "start": tokenizer.bos_token_id}
    special |= {"stop": tokenizer.eos_token_id, "unknown": tokenizer.unk_token_id}
    assert special == {name: getattr(ours.tokenizer, name) for name in special}


@pytest.mark.parametrize("size", [1, 5])
def test_translations_are_theirs(folder, size):
    model = transformers.MarianMTModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Translator.load(folder)
    assert ours.beam == BEAM
    assert model.generation_config.num_beams == 5
    ours = replace(ours, beam=replace(ours.beam, size=size))
    for text in TEXTS:
        batch = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        options = {} if size == 5 else {"num_beams": 1, "early_stopping": False}
        said = model.generate(batch.input_ids, max_length=32, **options)
        assert str(ours(text)) == tokenizer.decode(said[0], skip_special_tokens=True)
