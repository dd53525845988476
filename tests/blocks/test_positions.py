"""Golden values of positions; their laws are in tests/laws/test_positions.py."""

import math

import pytest
import torch
from tests.helpers import assert_close, unchecked

from qkv.blocks.positions import (
    ALiBi,
    LearnedPositions,
    RelativeBias,
    Rotary,
    SinusoidalPositions,
    alibi_slopes,
    relative_buckets,
    rotate,
    sinusoids,
)
from qkv.errors import ConfigError, LengthError
from qkv.models.transformer import Transformer, TransformerConfig


def wave(place, **options):
    return sinusoids(torch.tensor([place]), 4, dtype=torch.float64, **options)[0]


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_sinusoids_by_hand():
    # D = 4: angles pos / 10000^(0/4) = pos and pos / 10000^(2/4) = pos / 100
    sin, cos = math.sin, math.cos
    assert_close(wave(3), numbers(sin(3), cos(3), sin(0.03), cos(0.03)))
    assert_close(wave(3, layout="halves"), numbers(sin(3), sin(0.03), cos(3), cos(0.03)))
    # the divisor of tensor2tensor is D / 2 - 1 = 1: the last angle is pos / 10000
    assert_close(wave(3, divisor=1.0), numbers(sin(3), cos(3), sin(3e-4), cos(3e-4)))
    assert_close(wave(2, first=1), wave(3))
    assert wave(0).tolist() == [0, 1, 0, 1]


def test_sinusoids_are_computed_in_float32_at_least_and_rounded():
    places = torch.tensor([2047])
    half = sinusoids(places, 4, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, sinusoids(places, 4).bfloat16())


def test_sinusoidal_positions_are_added():
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    module = SinusoidalPositions(4, layout="halves", divisor=1.0, first=1)
    table = sinusoids(
        torch.arange(5), 4, layout="halves", divisor=1.0, first=1, dtype=torch.float64
    )
    assert_close(module(x, torch.arange(5)), x + table)
    each = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2]])
    assert_close(module(x, each)[1], x[1] + table[each[1]])


def test_learned_positions_are_added_from_the_offset_on():
    module = LearnedPositions(7, 3, offset=2).double()
    assert module.table.weight.shape == (9, 3)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    assert_close(module(x, torch.arange(5)), x + module.table.weight[2:7])


def test_a_sequence_over_the_learned_positions_is_refused():
    module = LearnedPositions(7, 3, offset=2)
    message = "got position 10, but only positions 0 to 6 .* cut the input to 7 tokens"
    with pytest.raises(LengthError, match=message):
        module(torch.randn(2, 11, 3), torch.arange(11))


def test_rotation_by_hand():
    # D = 4, base 100: angles pos and pos / 10; at 2 the pairs (1, 0) and (0, 1) turn by 2 and 0.2
    c, s, c2, s2 = math.cos(2), math.sin(2), math.cos(0.2), math.sin(0.2)
    x = numbers(1, 0, 0, 1)[None, None, None]
    turned = rotate(x, torch.tensor([2]), base=100.0, layout="interleaved")
    assert_close(turned, numbers(c, s, -s2, c2)[None, None, None])
    # halves pair 0 with 2 and 1 with 3: (1, 0) turns by 2, (0, 1) by 0.2
    turned = rotate(x, torch.tensor([2]), base=100.0, layout="halves")
    assert_close(turned, numbers(c, -s2, s, c2)[None, None, None])


def test_rotary_is_rotate_with_its_constants():
    x, places = torch.randn(2, 3, 5, 22).double(), torch.arange(5)
    rotary = Rotary(22, base=50.0, layout="interleaved")
    assert_close(rotary(x, places), rotate(x, places, base=50.0, layout="interleaved"))


def test_scaling_changes_frequencies_and_magnitude():
    x = numbers(1, 0, 0, 1)[None, None, None]

    def scaling(frequencies, base, positions):
        assert_close(frequencies, numbers(1, 0.1))
        assert (base, positions.tolist()) == (100.0, [2])
        return frequencies * numbers(0.5, 3), 7.0

    c, s, c2, s2 = math.cos(1), math.sin(1), math.cos(0.6), math.sin(0.6)
    expected = 7 * numbers(c, -s2, s, c2)[None, None, None]
    assert_close(rotate(x, torch.tensor([2]), base=100.0, scaling=scaling), expected)
    assert_close(Rotary(4, base=100.0, scaling=scaling)(x, torch.tensor([2])), expected)


def test_the_first_coordinates_turn_and_the_rest_stay():
    x, positions = torch.randn(3, 2, 5, 10, dtype=torch.float64), torch.arange(5)
    turned = Rotary(10, base=100.0, width=4)(x, positions)
    assert_close(turned[..., :4], rotate(x[..., :4], positions, base=100.0))
    assert torch.equal(turned[..., 4:], x[..., 4:])
    whole = Rotary(10, base=100.0, width=10)(x, positions)
    assert torch.equal(whole, Rotary(10, base=100.0)(x, positions))
    for width, message in ((3, "width = 3 is odd"), (0, "expected 2 to d_head"), (12, "= 10")):
        with pytest.raises(ConfigError, match=message):
            Rotary(10, width=width)


def test_alibi_slopes_by_hand():
    assert alibi_slopes(8).tolist() == [2**-i for i in range(1, 9)]
    assert alibi_slopes(4).tolist() == [2**-2, 2**-4, 2**-6, 2**-8]
    # six heads: the four of four, then the first and the third of eight
    assert alibi_slopes(6).tolist() == [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
    assert alibi_slopes(1).tolist() == [2**-8]


def test_alibi_by_hand():
    bias = ALiBi(4)(torch.tensor([2]), torch.arange(5))
    distances = torch.tensor([2, 1, 0, 1, 2])
    assert torch.equal(
        bias[:, 0], -torch.tensor([[1 / 4], [1 / 16], [1 / 64], [1 / 256]]) * distances
    )
    assert ALiBi(4).state_dict() == {}


def buckets(distances, **options):
    found = relative_buckets(torch.tensor([distances]), n_buckets=8, max_distance=16, **options)
    return found[0].tolist()


def test_buckets_by_hand():
    # Causal: 4 exact, then 4 + floor(4 ln(n / 4) / ln(16 / 4)):
    # n = 5: 0.64, 6: 1.17, 9: 2.34, 12: 3.17, 15: 3.81; from 16 on the last; later keys share 0
    back = [-0, -1, -2, -3, -4, -5, -6, -9, -12, -15, -100, 3]
    expected = [0, 1, 2, 3, 4, 4, 5, 6, 7, 7, 7, 0]
    assert buckets(back, bidirectional=False) == expected
    # Both ways, 4 each: 2 exact, then 2 + floor(2 ln(n / 2) / ln(16 / 2)):
    # n = 3: 0.39, 4: 0.67, 6: 1.06, 15: 1.94; later keys get 4 more
    assert buckets([0, -1, -2, -3, -4, -6, -15, -99], bidirectional=True) == [
        0,
        1,
        2,
        2,
        2,
        3,
        3,
        3,
    ]
    assert buckets([1, 2, 3, 4, 6, 15, 99], bidirectional=True) == [5, 6, 6, 6, 7, 7, 7]


def test_relative_bias_looks_its_buckets_up():
    bias = RelativeBias(3, n_buckets=8, max_distance=16, bidirectional=False)
    found = bias(torch.tensor([9, 10]), torch.arange(11))
    assert found.shape == (3, 2, 11)
    assert torch.equal(found[:, 0, 0], bias.table.weight[6])  # 9 back
    assert torch.equal(found[:, 1, 10], bias.table.weight[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: wave_of(7), "d_model = 7 is odd; sines and cosines come in pairs"),
        (lambda: Rotary(7), "d_head = 7 is odd; rotary positions rotate pairs"),
        (lambda: SinusoidalPositions(7), "d_model = 7 is odd"),
        (lambda: Transformer(config(d_model=21, n_heads=7)), "d_model = 21 is odd"),
        (lambda: Transformer(config(sinusoid_layout="half")), "sinusoid_layout = 'half'"),
    ],
    ids=["sinusoids", "rotary", "module", "model", "layout"],
)
def test_what_cannot_be_built_is_refused_when_it_is_built(build, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        build()


def wave_of(width):
    return sinusoids(torch.arange(5), width)


def config(**options):
    return TransformerConfig(source_vocab_size=17, target_vocab_size=19, **options)


def test_options_that_make_no_sense_are_refused():
    with unchecked(), pytest.raises(ConfigError, match="layout = 'x'; expected 'interleaved' or"):
        Rotary(8, layout="x")
    with pytest.raises(ConfigError, match="n_buckets = 2 makes 0 buckets"):
        RelativeBias(3, n_buckets=2, bidirectional=True)
    with pytest.raises(ConfigError, match="fewer than max_distance = 8"):
        RelativeBias(3, n_buckets=32, max_distance=8, bidirectional=True)


@pytest.mark.parametrize("base", [0.0, -1.0, float("nan"), float("inf")])
def test_a_base_that_turns_nothing_is_refused(base):
    with pytest.raises(ConfigError, match=f"base = {base} of rotary positions; expected a finite"):
        Rotary(6, base=base)
