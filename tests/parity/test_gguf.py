"""GGUF files against transformers' loader: logits, and token ids on hard lines."""

import re

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from tests.checkpoints.gguf_files import (
    ARCHITECTURES,
    D_FF,
    HEADS,
    LAYERS,
    LENGTH,
    TYPES,
    D,
    byte_level,
    pieces,
    write,
)
from tests.parity.causal import compare_logits
from tests.parity.hard_lines import hard_lines
from tokenizers import pre_tokenizers

import qkv
from qkv.data.tokenizers.gguf import SPLITTINGS

LINES = hard_lines()
GPT2 = {
    "vocab_size": 301,
    "n_positions": LENGTH,
    "n_embd": D,
    "n_inner": D_FF,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "layer_norm_epsilon": float(np.float32(1e-5)),  # the file has float32
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", TYPES)
def test_logits(tmp_path, architecture, kind):
    path = tmp_path / "model.gguf"
    tokenizer = byte_level("gpt-2", size=301)
    write(path, architecture, kind, tokenizer=tokenizer)
    loaded = qkv.load(path, dtype=torch.float32)
    # Their loader knows neither the length nor the inner width of a GPT-2.
    given = {"config": transformers.GPT2Config(**GPT2)} if architecture == "gpt2" else {}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, local_files_only=True, **given
    ).eval()
    compare_logits(loaded.model, theirs, torch.randint(301, (3, LENGTH)))


def tokenizers_of(path, pre):
    tokenizer = byte_level(pre)
    write(path, tokenizer=tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, local_files_only=True
    )
    theirs.model_max_length = 10**6
    return qkv.load(path).tokenizer, theirs, tokenizer


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2"])
def test_ids_of_byte_level_vocabularies(tmp_path, pre):
    ours, theirs, _ = tokenizers_of(tmp_path / "model.gguf", pre)
    reference = theirs.backend_tokenizer
    reference.encode_special_tokens = True  # as text is never parsed as a special token here
    for line in LINES:
        ids = ours.encode(line)
        assert ids == reference.encode(line, add_special_tokens=False).ids, line
        assert ours.decode(ids) == line or "\ufffd" in line


def test_digits_are_split_as_by_the_published_tokenizer_of_smollm(tmp_path):
    """The loader of transformers leaves numbers whole, which SmolLM's tokenizer.json does not."""
    ours, theirs, _ = tokenizers_of(tmp_path / "model.gguf", "smollm")
    reference = tokenizers.Tokenizer.from_str(theirs.backend_tokenizer.to_str())
    reference.encode_special_tokens = True
    reference.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    for line in [*LINES, "12 345", "a1b22c333"]:
        assert ours.encode(line) == reference.encode(line, add_special_tokens=False).ids, line
    assert ours.encode("12") == [ours.id_of("1"), ours.id_of("2")]


@pytest.mark.parametrize("pre", SPLITTINGS)
def test_the_start_token(tmp_path, pre):
    tokenizer = byte_level(pre, size=301)
    path = tmp_path / "model.gguf"
    write(path, tokenizer=tokenizer)
    row = qkv.load(path).tokenizer.add_special_tokens([7], [8])
    first = [1] if "llama" in pre and pre != "llama" else []
    assert row.ids == [*first, 7, *first, 8]
    write(path, tokenizer=tokenizer | {"add_bos_token": not first, "add_eos_token": True})
    first = [] if first else [1]
    assert qkv.load(path).tokenizer.add_special_tokens([7]).ids == [*first, 7, 2]


def test_ids_of_sentencepiece(tmp_path):
    tokenizer, model = pieces()
    path = tmp_path / "model.gguf"
    write(path, tokenizer=tokenizer)
    ours = qkv.load(path).tokenizer
    for line in LINES:
        assert ours.encode(line) == model.encode(line), line
        assert ours.decode(ours.encode(line)) == model.decode(model.encode(line)), line
    assert (ours.start, ours.stop, ours.unknown) == (1, 2, 0)
    assert ours.add_special_tokens([7]).ids == [1, 7]


def test_ids_of_sentencepiece_in_transformers(tmp_path):
    """Left out: lines that begin with a space, to which theirs adds no other one."""
    tokenizer, _ = pieces()
    path = tmp_path / "model.gguf"
    write(path, tokenizer=tokenizer)
    ours = qkv.load(path).tokenizer
    theirs = transformers.AutoTokenizer.from_pretrained(
        tmp_path, gguf_file=path.name, local_files_only=True
    ).backend_tokenizer
    theirs.encode_special_tokens = True
    lines = [line for line in LINES if not line.startswith((" ", "▁"))]
    assert len(lines) > 900
    for line in lines:
        assert ours.encode(line) == theirs.encode(line, add_special_tokens=False).ids, line


def test_special_tokens_in_a_text_of_sentencepiece(tmp_path):
    """They are parsed only on request, and what follows them gets no space of its own."""
    tokenizer, model = pieces()
    path = tmp_path / "model.gguf"
    write(path, tokenizer=tokenizer)
    ours = qkv.load(path).tokenizer
    for first, second in zip(LINES[::7], LINES[3::7], strict=False):
        first, second = (re.sub("</?s>|<unk>", "", line) for line in (first, second))
        text = f"{first}</s>{second}<s>"
        ids, spans = ours.parse(text)
        at = ids.index(2)
        assert (ids[:at], ids[-1]) == (model.encode(first), 1)
        assert text[slice(*spans[at])] == "</s>"
        assert [end for _, end in spans] == sorted(end for _, end in spans)
        together = model.decode(ids[at + 1 : -1])
        assert together.strip() == model.decode(model.encode(second)).strip()
        if second and not second.startswith(" "):
            assert not model.id_to_piece(ids[at + 1]).startswith("\u2581")
        assert 2 not in ours.encode(text)
