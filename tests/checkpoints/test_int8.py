"""Weights as 8-bit integers with one scale per row."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints.folders import write

from qkv.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from qkv.checkpoints.int8 import MARK, SCALES, expand_rows, quantize_rows, quantized
from qkv.checkpoints.reader import open_weights
from qkv.errors import DataError

METADATA = {"format": "pt"}


@pytest.fixture
def matrix():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(7, 13, generator=generator) * torch.logspace(-6, 6, 7)[:, None]
    rows[3] = 0
    return rows


def test_the_error_is_at_most_half_a_scale(matrix):
    integers, scales = quantize_rows(matrix)
    error = (expand_rows(integers, scales, "") - matrix).abs()
    assert (error <= scales[:, None] / 2 * (1 + 1e-5)).all()
    assert (integers.abs().amax(1)[[0, 1, 2, 4, 5, 6]] == 127).all()
    assert not integers[3].any()


def test_integers_times_a_scale_are_stored_exactly(matrix):
    integers, scales = quantize_rows(matrix)
    again = quantize_rows(expand_rows(integers, scales, ""))
    assert torch.equal(again[0], integers)


def test_a_folder_in_8_bits_loads_as_its_expanded_weights_and_is_saved_in_full(tmp_path):
    write(tmp_path / "bert")
    file = tmp_path / "bert" / "model.safetensors"
    full = load_file(file)
    stored = quantized(full)
    save_file(stored, file, METADATA | MARK)
    weights = open_weights(file)
    assert set(weights) == set(full)
    for name, tensor in full.items():
        expected = tensor
        if tensor.ndim == 2:
            expected = stored[name].float() * stored[name + SCALES][:, None]
        assert torch.equal(weights[name], expected)
    loaded = load_checkpoint(tmp_path / "bert")
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    save_checkpoint(loaded, tmp_path / "again")
    again = open_weights(tmp_path / "again" / "model.safetensors")
    assert set(again) == set(full)
    assert MARK.items().isdisjoint((again.shards[0].metadata or {}).items())
    assert all(torch.equal(again[name], weights[name]) for name in full)


def test_scales_count_only_in_a_file_that_says_so(tmp_path, matrix):
    save_file(quantized({"a": matrix}), tmp_path / "x.safetensors", METADATA)
    assert set(open_weights(tmp_path / "x.safetensors")) == {"a", "a" + SCALES}


def test_hostile_scales_and_weights(tmp_path, matrix):
    integers, scales = quantize_rows(matrix)
    file = tmp_path / "x.safetensors"
    for wrong in (float("nan"), float("inf"), 3e38, 0.0, -1.0):
        broken = scales.clone()
        broken[2] = wrong
        save_file({"a": integers, "a" + SCALES: broken}, file, METADATA | MARK)
        with pytest.raises(DataError, match=r"a scale is not above 0, or too large; expected fin"):
            open_weights(file)["a"]
    for shape in ((7,), (7, 1, 1)):
        flat = torch.ones(shape, dtype=torch.int8)
        save_file({"a": flat, "a" + SCALES: scales}, file, METADATA | MARK)
        with pytest.raises(DataError, match=r"a in .*: int8 weights of shape \(7,"):
            open_weights(file)["a"]
    save_file({"b" + SCALES: scales}, file, METADATA | MARK)
    with pytest.raises(DataError, match=r"has b\.row_scales without the matrix that it scales"):
        open_weights(file)
    with pytest.raises(DataError, match="a has weights that are not finite"):
        quantized({"a": matrix / 0})


def test_scales_that_do_not_fit(tmp_path, matrix):
    integers, scales = quantize_rows(matrix)
    for broken in ({"a": integers, "a" + SCALES: scales[:5]}, {"a": matrix, "a" + SCALES: scales}):
        save_file(broken, tmp_path / "x.safetensors", METADATA | MARK)
        with pytest.raises(DataError, match=r"a in .*x\.safetensors: int8 weights of shape"):
            open_weights(tmp_path / "x.safetensors")["a"]
