"""What `qkv convert` writes in the Hugging Face layout, run by transformers: the same numbers.

vLLM and other servers of this layout read the same files.
"""

import json

import pytest
import torch
import transformers
from tests.checkpoints.gguf_files import ARCHITECTURES, byte_level, write
from tests.parity.causal import compare_logits

import qkv
from qkv.generation.sampling import Sampling
from qkv.tasks.conversion import convert_model
from qkv.tasks.generation import Generator

LOCAL = {"local_files_only": True}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_decoder_from_gguf(architecture, tmp_path):
    tokenizer = byte_level("gpt-2", size=301)
    write(tmp_path / "model.gguf", architecture, "F32", tokenizer=tokenizer)
    convert_model(tmp_path / "model.gguf", tmp_path / "new")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "new", output_loading_info=True, **LOCAL
    )
    assert not any(report.values())
    ours = qkv.load(tmp_path / "new")
    compare_logits(ours.model, theirs.eval(), torch.randint(301, (3, 7)))
    # What servers look up before they load a weight.
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["architectures"] == [type(theirs).__name__]
    assert transformers.AutoConfig.from_pretrained(tmp_path / "new", **LOCAL).vocab_size == 301
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "new", **LOCAL)
    for text in ("Hello world, it's 12345", "naïve café"):
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.tokenizer.encode(text)


def test_a_shipped_model_writes_the_same_text(tmp_path):
    convert_model("generator", tmp_path / "new")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "new", **LOCAL).eval()
    generator = Generator.load("generator")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "new", **LOCAL)
    prompt = "Return the number of"
    ids = torch.tensor([generator.encode(prompt)])
    assert tokenizer(prompt)["input_ids"] == ids[0].tolist()
    compare_logits(generator.model, theirs, ids)
    found = generator(prompt, max_length=17, sampling=Sampling(temperature=0.0))
    out = theirs.generate(ids, max_new_tokens=17, do_sample=False)[0, ids.shape[1] :]
    assert generator.tokenizer.tokens(out.tolist())[: len(found.tokens)] == found.tokens
