"""GGUF files that `qkv convert` writes, run by llama.cpp: the same logits and tokens."""

import numpy as np
import pytest
import torch
from tests.checkpoints.gguf_files import ARCHITECTURES, byte_level, write
from tests.helpers import distance

import qkv
from qkv.generation.greedy import greedy
from qkv.tasks.conversion import convert_model

llama_cpp = pytest.importorskip("llama_cpp")

# Sums have another order there, and GPT-2's GELU is a table of float16.
BOUNDS = {"llama": 2e-5, "qwen2": 2e-5, "gpt2": 2e-3}
GREEDY = {"temp": 0.0, "top_k": 1, "repeat_penalty": 1.0, "reset": True}


@pytest.fixture
def engine():
    """A function that opens a file, with keys and values in float32, as here."""
    opened = []

    def open_file(path):
        options = {"n_ctx": 64, "n_threads": 1, "n_threads_batch": 1, "logits_all": True}
        types = {"type_k": 0, "type_v": 0, "flash_attn": False}
        opened.append(llama_cpp.Llama(str(path), **options, **types, verbose=False))
        return opened[-1]

    yield open_file
    for one in opened:
        one.close()


def logits_of(engine, ids):
    engine.reset()
    engine.eval(ids)
    return torch.from_numpy(np.array(engine.scores[: len(ids)]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_the_same_logits(architecture, tmp_path, engine):
    write(tmp_path / "source.gguf", architecture, tokenizer=byte_level("gpt-2", size=301))
    convert_model(tmp_path / "source.gguf", tmp_path / "folder")
    convert_model(tmp_path / "folder", tmp_path / "new.gguf", format="gguf", dtype="float32")
    ours = qkv.load(tmp_path / "folder").model
    theirs = engine(tmp_path / "new.gguf")
    for length in (1, 7, 23):
        ids = torch.randint(301, (length,), generator=torch.Generator().manual_seed(length))
        expected = ours(ids[None])[0]
        found = logits_of(theirs, ids.tolist())
        assert distance(found, expected) <= BOUNDS[architecture]


def test_a_shipped_model_writes_the_same_tokens(tmp_path, engine):
    convert_model("generator", tmp_path / "new.gguf", dtype="float32")
    loaded = qkv.load("generator", dtype=torch.float32)
    theirs = engine(tmp_path / "new.gguf")
    for prompt in ("Return the number of", "def"):
        ids = theirs.tokenize(prompt.encode(), add_bos=True, special=False)
        tokenizer = loaded.tokenizer
        assert ids == tokenizer.add_special_tokens(tokenizer.encode(prompt)).ids
        found = []
        for token in theirs.generate(ids, **GREEDY):
            found.append(token)
            if len(found) == 17 or token == tokenizer.stop:
                break
        source = torch.tensor([ids[:-1]])
        ours = greedy(loaded.model, source, start=ids[-1], stop=tokenizer.stop, max_length=17)
        assert found == ours[0].tolist()
