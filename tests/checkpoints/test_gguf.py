"""GGUF files: weights as gguf dequantizes them, metadata, and files that are damaged."""

import random
import struct

import gguf
import numpy as np
import pytest
import torch
from tests.checkpoints import gguf_files
from tests.checkpoints.gguf_files import (
    ARCHITECTURES,
    KEY_HEADS,
    TYPES,
    byte_level,
    pieces,
    write,
)

import qkv
from qkv.blocks.rotary_scaling import TurnsScaling
from qkv.checkpoints import gguf as ours
from qkv.checkpoints.gguf_rotary import factors_of
from qkv.cli import main
from qkv.errors import ConfigError, DataError
from qkv.generation.greedy import greedy

GGUF = gguf.GGMLQuantizationType
MUTANTS = 127  # of each of five files


def test_the_table_of_types_is_that_of_gguf():
    theirs = {name: gguf.GGML_QUANT_SIZES[GGUF[name]] for name in TYPES}
    assert {one.name: (one.n_elements, one.n_bytes) for one in ours.TYPES.values()} == theirs
    assert {one.name: number for number, one in ours.TYPES.items()} == {n: GGUF[n] for n in TYPES}


@pytest.mark.parametrize("kind", TYPES)
def test_tensors_are_those_of_gguf(tmp_path, kind):
    path = tmp_path / "model.gguf"
    written = write(path, kind=kind)
    file = ours.GGUFFile(path)
    assert set(file) == set(written)
    for name, (raw, own) in written.items():
        expected = gguf.dequantize(raw, GGUF[own])
        assert np.array_equal(file[name].float().numpy(), expected), name
        assert file.blocks(name).numpy().tobytes() == np.ascontiguousarray(raw).tobytes()
        assert file.entries[name].kind.name == own


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_unquantized_matrices_stay_mapped(tmp_path, kind):
    path = tmp_path / "model.gguf"
    write(path, kind=kind)
    before = path.read_bytes()
    loaded = qkv.load(path)
    weight = loaded.model.stack.blocks[0].feed_forward.up.weight
    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    assert weight.dtype == dtype
    assert weight.untyped_storage().nbytes() == len(before)
    with torch.no_grad():
        weight.zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_quantized_matrices_are_float32_unless_a_dtype_is_named(tmp_path, dtype):
    path = tmp_path / "model.gguf"
    write(path, kind="Q4_1")
    model = qkv.load(path, dtype=dtype).model
    assert {parameter.dtype for parameter in model.parameters()} == {dtype or torch.float32}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_file_is_saved_as_a_folder(tmp_path, architecture):
    write(
        tmp_path / "model.gguf",
        architecture,
        "Q8_0",
        tokenizer=byte_level("qwen2"),
        extra={"tokenizer.chat_template": "{{ messages }}", "tokenizer.ggml.eot_token_id": 0},
    )
    loaded = qkv.load(tmp_path / "model.gguf")
    qkv.save(loaded, tmp_path / "folder")
    again = qkv.load(tmp_path / "folder")
    assert again.model.config == loaded.model.config
    for (name, one), (_, other) in zip(
        loaded.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    assert loaded.config["eos_token_id"] == again.config["eos_token_id"] == [2, 0]
    assert b'"chat_template": "{{ messages }}"' in again.files["tokenizer_config.json"]
    assert again.files == loaded.files
    text = "Don't 1234  ünïcode"
    assert again.tokenizer.encode(text) == loaded.tokenizer.encode(text)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    assert loaded.tokenizer.stop == 2


def test_generate_and_inspect_read_a_file(tmp_path, capsys):
    path = str(tmp_path / "model.gguf")
    write(path, tokenizer=byte_level("gpt-2"))
    for command in (["inspect", path], ["generate", "--model", path, "the", "--max-length", "3"]):
        main(command)
    output = capsys.readouterr().out
    assert "rotary, base 5,000" in output
    assert "701 tokens" in output
    assert "\nthe" in output


@pytest.mark.parametrize(
    ("architecture", "extra", "message"),
    [
        ("gemma3", {}, "architecture 'gemma3' of GGUF is not implemented; expected one of llama"),
        ("llama", {"llama.expert_count": 8}, "llama.expert_count = 8: unknown"),
        ("llama", {"llama.rope.scaling.type": "magic"}, "rotary scaling 'magic' with {}"),
        ("qwen2", {"qwen2.attention.key_length": 32}, "key_length = 32 is not implemented"),
        ("llama", {"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model = 'bert'"),
        ("llama", {"tokenizer.ggml.eos_token_id": "x"}, "eos_token_id = 'x'; expected"),
    ],
)
def test_what_is_not_implemented_is_named(tmp_path, architecture, extra, message):
    path = tmp_path / "model.gguf"
    write(path, architecture, extra=extra)
    with pytest.raises(ConfigError) as error:
        qkv.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_ignored_metadata(tmp_path):
    path = tmp_path / "model.gguf"
    write(path, extra={"llama.expert_count": 8})
    assert qkv.load(path, ignore="llama.expert_count").model.config.n_kv_heads == KEY_HEADS


def test_rotary_scaling(tmp_path):
    path = tmp_path / "model.gguf"
    extra = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}
    write(path, extra=extra)
    assert qkv.load(path).model.config.rotary_scaling.factor == 2.0


@pytest.mark.parametrize(
    ("number", "kind"), [(10, "quantization type Q2_K"), (99, "unknown quantization type 99")]
)
def test_unknown_types_of_tensors_are_named(tmp_path, number, kind):
    path = tmp_path / "model.gguf"
    write(path)
    content = path.read_bytes()
    name = b"blk.0.attn_q.weight"
    at = content.index(name) + len(name) + 4 + 2 * 8
    path.write_bytes(content[:at] + struct.pack("<I", number) + content[at + 4 :])
    with pytest.raises(ConfigError, match=rf"blk.0.attn_q.weight has the {kind}, which is not"):
        qkv.load(path)


@pytest.mark.parametrize("part", [0, 3, 20, 0.0001, 0.5, 0.999])
def test_truncated_files(tmp_path, part):
    path = tmp_path / "model.gguf"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: part if type(part) is int else int(part * len(content))])
    with pytest.raises(DataError, match=r"truncated|begins with|cannot be read"):
        qkv.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(60), "begins with b'PK"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(60), "it is big-endian"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(60), "version 1 of GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + bytes(60), "has 0 axes"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63), "are to be read from byte"),
    ],
)
def test_other_files(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        qkv.load(path)
    assert message in str(error.value)


def is_refused(path):
    """Whether loading raises an error of ours that names the file; what loads must run."""
    try:
        loaded = qkv.load(path)
    except (DataError, ConfigError) as error:
        return path.parent.name in str(error)
    greedy(loaded.model, torch.tensor([[5, 7]]), start=3, stop=-1, max_length=2)
    if loaded.tokenizer is not None:
        loaded.tokenizer.encode("Don't 12")
    return False


def change_bytes(content, places, rng):
    """Change a few bytes."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        changed[rng.choice(rng.choice(places))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
    return changed


def blow_up(content, places, rng):
    """Replace eight bytes, such as a length, by a large number."""
    at = rng.choice(rng.choice(places)) // 4 * 4
    number = rng.choice((2**63 - 1, 2**64 - 1, 2**40, 2**31, 2**20, len(content)))
    return content[:at] + struct.pack("<Q", number) + content[at + 8 :]


def cut_out(content, places, rng):
    """Remove a part, from the end or in the middle."""
    at = rng.choice(rng.choice(places))
    return content[:at] + rng.choice((b"", content[at + rng.choice((1, 4, 8, 1000)) :]))


MUTATIONS = (change_bytes, change_bytes, blow_up, cut_out)


@pytest.mark.parametrize("case", ["bytes", "pieces", "gpt2", "parts", "factors"])
def test_mutants_raise_errors_of_ours(tmp_path, case, monkeypatch):
    for name, size in {"D": 64, "D_FF": 96, "LAYERS": 2, "HEADS": 2, "KEY_HEADS": 1}.items():
        monkeypatch.setattr(gguf_files, name, size)
    path = tmp_path / "model.gguf"
    if case == "pieces":
        write(path, kind="Q4_0", tokenizer=pieces(size=701)[0])
    elif case == "gpt2":
        write(path, "gpt2", "F16", tokenizer=byte_level("gpt-2", size=307))
    else:
        turns = TurnsScaling(factor=8.0, original_length=64)
        factors = factors_of(turns, 5_000.0, 16).numpy() if case == "factors" else None
        tokenizer = byte_level("smollm", size=307) if case == "bytes" else None
        split = 11 if case == "parts" else 0
        write(path, kind="Q8_0", tokenizer=tokenizer, factors=factors, split=split)
    path = path if path.exists() else tmp_path / "model-00001-of-00002.gguf"
    assert not is_refused(path)
    whole = path.read_bytes()
    n_bytes, data = len(whole), min(one.start for one in ours._read(path)[1].values())
    # Most of the header is the vocabulary: half of the changes are before it, or after it.
    places = [range(data), range(600), range(max(0, data - 2000), data), range(n_bytes - 8)]
    rng = random.Random(5)
    refused = 0
    for _ in range(MUTANTS):
        path.write_bytes(rng.choice(MUTATIONS)(whole, places, rng))
        refused += is_refused(path)
    assert MUTANTS / 2 < refused < MUTANTS
