import gguf
import pytest
import torch

from qkv.errors import ConfigError
from qkv.inference.packed import PACKINGS, from_blocks, pack

KINDS = [(packing, groups) for packing in PACKINGS for groups in (False, True)]


@pytest.mark.parametrize(("packing", "groups"), KINDS)
def test_what_was_expanded_is_packed_again_without_loss(packing, groups):
    once = pack(torch.randn(7, 96), packing, groups=groups)
    again = pack(once.expand(), packing, groups=groups)
    torch.testing.assert_close(again.expand(), once.expand(), rtol=0, atol=0)
    assert torch.equal(again.weight, once.weight)


@pytest.mark.parametrize(
    ("packing", "groups", "largest"),
    [
        ("float32", False, 0.0),
        ("bfloat16", False, 2**-8),
        ("int8", False, 0.5 / 127),
        ("int8", True, 0.501 / 127),
        ("int4", False, 0.51 * 2 / 15),
    ],
)
def test_an_error_is_at_most_half_a_step(packing, groups, largest):
    matrix = torch.randn(11, 64)
    error = (pack(matrix, packing, groups=groups).expand() - matrix).abs()
    assert (error <= largest * matrix.abs().amax(1, keepdim=True)).all()


@pytest.mark.parametrize(("packing", "groups"), KINDS)
def test_rows_of_zeros_and_of_one_number_stay(packing, groups):
    matrix = torch.randn(5, 64)
    matrix[1], matrix[3] = 0.0, 0.25
    expanded = pack(matrix, packing, groups=groups).expand()
    assert torch.equal(expanded[1], matrix[1])
    half = groups and packing == "int8"  # the scales are float16
    torch.testing.assert_close(expanded[3], matrix[3], rtol=2**-11 if half else 1e-6, atol=0)


@pytest.mark.parametrize(
    ("packing", "bytes_"), [("float32", 4), ("bfloat16", 2), ("int8", 1), ("int4", 5 / 8)]
)
def test_it_takes_as_many_bytes_as_its_name_says(packing, bytes_):
    scales = 13 * 4 if packing == "int8" else 0
    assert pack(torch.randn(13, 96), packing).n_bytes == 13 * 96 * bytes_ + scales


def test_a_width_that_no_group_divides_has_a_scale_per_row():
    for packing, width in (("int8", 33), ("int4", 33), ("int8", 32_800), ("int4", 32_800)):
        matrix = pack(torch.randn(3, width), packing, groups=True)
        assert matrix.weight.dtype == torch.int8
        assert matrix.scales.shape == (3,)


def test_rows_are_a_part_of_the_matrix():
    for packing, groups in KINDS:
        matrix = pack(torch.randn(7, 64), packing, groups=groups)
        assert torch.equal(matrix[2:5].expand(), matrix.expand()[2:5])
        assert torch.equal(matrix[torch.tensor([6, 0])].expand(), matrix.expand()[[6, 0]])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(value):
    matrix = torch.randn(3, 32)
    matrix[1, 5] = value
    with pytest.raises(ConfigError, match="not finite; expected numbers"):
        pack(matrix, "int8")


def test_weights_beyond_float16_are_refused_in_groups():
    matrix = torch.randn(3, 32)
    matrix[1, 5] = 1e8
    with pytest.raises(ConfigError, match=r'at most 65,504\); expected.* "int8"'):
        pack(matrix, "int4")
    assert pack(matrix, "int8").expand().isfinite().all()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_blocks_of_llama_cpp_are_the_same_numbers(kind):
    theirs = gguf.GGMLQuantizationType[kind]
    blocks = gguf.quantize(torch.randn(7, 96).numpy(), theirs)
    matrix = from_blocks(kind, torch.from_numpy(blocks))
    assert torch.equal(matrix.expand(), torch.from_numpy(gguf.dequantize(blocks, theirs)))
    again = pack(matrix.expand(), "int8" if kind == "Q8_0" else "int4", groups=True)
    assert again.weight.dtype == matrix.weight.dtype
    if kind != "Q4_0":  # whose blocks need not have the lowest and the highest level
        assert torch.equal(again.weight, matrix.weight)
        assert torch.equal(again.scales, matrix.scales)


def test_every_byte_of_a_block_counts():
    for kind, n_bytes in (("Q4_0", 18), ("Q4_1", 20), ("Q8_0", 34)):
        blocks = torch.randint(256, (5, 3 * n_bytes), dtype=torch.uint8)
        blocks.view(5, 3, -1)[..., 1:4:2] &= 0xBB  # exponents of finite scales
        expected = gguf.dequantize(blocks.numpy(), gguf.GGMLQuantizationType[kind])
        assert torch.equal(from_blocks(kind, blocks).expand(), torch.from_numpy(expected))


def test_blocks_that_are_not_packed_like_this():
    assert from_blocks("Q6_K", torch.zeros(3, 210, dtype=torch.uint8)) is None
    assert from_blocks("Q4_0", torch.zeros(1, 1025 * 18, dtype=torch.uint8)) is None
    assert from_blocks("Q4_1", torch.full((1, 20), 255, dtype=torch.uint8)) is None  # NaN
    assert from_blocks("Q4_0", torch.tensor([[0, 0x78, *[0] * 16]], dtype=torch.uint8)) is None
