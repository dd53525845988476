"""What positions promise: rotary and biases know distances, sinusoids turn, none is order-blind."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import assert_close, randomized

from qkv.blocks.config import BlockConfig
from qkv.blocks.positions import ALiBi, RelativeBias, rotate, sinusoids
from qkv.blocks.stack import Stack

layouts = pytest.mark.parametrize("layout", ["interleaved", "halves"])
places = st.integers(0, 500)


@layouts
@settings(max_examples=20)
@given(query=places, key=places, shift=st.integers(0, 100), base=st.sampled_from([10.0, 1e4]))
def test_rotary_scores_depend_on_distance_only(layout, query, key, shift, base):
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 22, dtype=torch.float64)

    def score(query, key):
        turned = (
            rotate(x, torch.tensor([place]), base=base, layout=layout)
            for x, place in ((q, query), (k, key))
        )
        return torch.linalg.vecdot(*turned).item()

    assert score(query + shift, key + shift) == pytest.approx(score(query, key), abs=1e-10)
    turned = rotate(q, torch.tensor([query]), base=base, layout=layout)
    assert turned.norm().item() == pytest.approx(q.norm().item(), rel=1e-12)


@layouts
def test_rotary_at_place_zero_changes_nothing_and_elsewhere_something(layout):
    x = torch.randn(2, 3, 5, 22, dtype=torch.float64)
    assert torch.equal(rotate(x, torch.zeros(5, dtype=torch.long), layout=layout), x)
    turned = rotate(x, torch.arange(5), layout=layout)
    assert torch.equal(turned[:, :, 0], x[:, :, 0])
    assert (turned[:, :, 1:] != x[:, :, 1:]).all()
    each = torch.arange(5) + torch.tensor([[0], [7]])  # positions by row of the batch
    by_row = rotate(x, each, layout=layout)
    for row in range(2):
        assert torch.equal(by_row[row], rotate(x[row : row + 1], each[row], layout=layout)[0])


@layouts
@settings(max_examples=20)
@given(place=places, shift=st.integers(0, 100), divisor=st.sampled_from([None, 10.0]))
def test_a_shift_of_sinusoids_is_a_rotation(layout, place, shift, divisor):
    """PE(pos + k) = R_k PE(pos) with the same R_k for all pos (Vaswani et al. 2017, 3.5)."""
    d = 22

    def waves(at):
        table = sinusoids(
            torch.tensor([at]), d, layout=layout, divisor=divisor, dtype=torch.float64
        )[0]
        parts = table.view(-1, 2).T if layout == "interleaved" else table.view(2, -1)
        return parts  # sines, cosines

    sin, cos = waves(place)
    sin_k, cos_k = waves(shift)
    moved = torch.stack((sin * cos_k + cos * sin_k, cos * cos_k - sin * sin_k))
    torch.testing.assert_close(waves(place + shift), moved, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "bias",
    [ALiBi(3), RelativeBias(3, n_buckets=8, max_distance=11, bidirectional=True)],
    ids=["alibi", "relative"],
)
@settings(max_examples=20)
@given(shift=st.integers(0, 200))
def test_biases_depend_on_distance_only(bias, shift):
    queries, keys = torch.arange(4, 9), torch.arange(11)
    shifted = bias(queries + shift, keys + shift)
    assert shifted.shape == (3, 5, 11)
    assert torch.equal(bias(queries, keys), shifted)


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "n_kv_heads": 2}])
def test_without_positions_attention_is_permutation_equivariant(options):
    config = BlockConfig(d_model=24, n_heads=6, d_ff=13, **options)
    stack = randomized(Stack(config, 2))
    x, order = torch.randn(2, 7, 24, dtype=torch.float64), torch.randperm(7)
    assert_close(stack(x[:, order]), stack(x)[:, order])
    rotary = randomized(
        Stack(BlockConfig(d_model=24, n_heads=6, d_ff=13, rotary_base=100.0, **options), 2)
    )
    assert (rotary(x[:, order]) - rotary(x)[:, order]).abs().max() > 1e-3
