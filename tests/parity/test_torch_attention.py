"""Attention against torch.nn: outputs and gradients, by the design's measure."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import right_mask
from tests.parity.weights import BOUNDS, compare, copy, measure, pairs
from torch import nn

from qkv.attention.core import attention, explicit_attention
from qkv.attention.masks import attention_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.blocks.norms import LayerNorm, RMSNorm

B, Q, K, D, H = 3, 7, 11, 15, 5
LENGTHS = [7, 4, 2]

dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)


def leaf(*shape, dtype):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def modules(dtype, **options):
    theirs = nn.MultiheadAttention(D, H, batch_first=True, dtype=dtype)
    ours = MultiHeadAttention(D, H, **options).to(dtype)
    found = pairs(ours, theirs, "attention")
    copy(found, ours)
    return ours, theirs, found


@dtypes
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(dtype, causal, padded):
    ours, theirs, found = modules(dtype, causal=causal)
    x, tokens = leaf(B, Q, D, dtype=dtype), right_mask(LENGTHS, Q) if padded else None
    # True = may not attend: the opposite of ours.
    future = torch.ones(Q, Q, dtype=torch.bool).triu(1) if causal else None
    reference, _ = theirs(
        x,
        x,
        x,
        attn_mask=future,
        key_padding_mask=~tokens if padded else None,
        need_weights=False,
    )
    compare(ours(x, mask=attention_mask(tokens)), reference, found, [x])


@dtypes
@pytest.mark.parametrize("padded", [False, True])
def test_cross_attention(dtype, padded):
    ours, theirs, found = modules(dtype)
    x, memory = leaf(B, Q, D, dtype=dtype), leaf(B, K, D, dtype=dtype)
    tokens = right_mask([K, 5, 2], K) if padded else None
    padding = ~tokens if padded else None
    reference, _ = theirs(x, memory, memory, key_padding_mask=padding, need_weights=False)
    compare(ours(x, memory, mask=attention_mask(tokens)), reference, found, [x, memory])


@dtypes
def test_recorded_weights(dtype):
    ours, theirs, _ = modules(dtype)
    x, tokens = leaf(B, Q, D, dtype=dtype), right_mask(LENGTHS, Q)
    _, weights = theirs(x, x, x, key_padding_mask=~tokens, average_attn_weights=False)
    with record_attention(ours) as record:
        ours(x, mask=attention_mask(tokens))
    assert measure(record["attention"], weights) <= BOUNDS[dtype]


@dtypes
@pytest.mark.parametrize("function", [explicit_attention, attention])
@pytest.mark.parametrize("kind", ["none", "causal", "mask", "bias", "scale", "grouped"])
def test_scaled_dot_product_attention(dtype, function, kind):
    n_heads, n_keys = (2 if kind == "grouped" else 6), (Q if kind == "causal" else K)
    queries = leaf(B, 6, Q, 5, dtype=dtype)
    keys, values = (leaf(B, n_heads, n_keys, d, dtype=dtype) for d in (5, 13))
    mask, bias = torch.rand(B, 1, Q, n_keys) < 0.6, leaf(6, Q, n_keys, dtype=dtype)
    mask[..., 0] = True
    our_options, options = {
        "none": ({}, {}),
        "causal": ({"causal": True}, {"is_causal": True}),
        "mask": ({"mask": mask}, {"attn_mask": mask}),
        "bias": ({"bias": bias}, {"attn_mask": bias.expand(B, 6, Q, n_keys)}),
        "scale": ({"scale": 0.7}, {"scale": 0.7}),
        "grouped": ({}, {"enable_gqa": True}),
    }[kind]
    inputs = [queries, keys, values, *([bias] if kind == "bias" else [])]
    ours = function(queries, keys, values, **our_options)
    theirs = F.scaled_dot_product_attention(queries, keys, values, **options)
    compare(ours, theirs, [], inputs)


@dtypes
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LayerNorm(D, eps=1e-3), nn.LayerNorm(D, eps=1e-3)),
        (LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)),
        (RMSNorm(D, eps=1e-3), nn.RMSNorm(D, eps=1e-3)),
    ],
    ids=["layer", "layer without bias", "rms"],
)
def test_norms(dtype, ours, theirs):
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    found = [([ours.weight], theirs.weight)]
    if getattr(ours, "bias", None) is not None:
        found.append(([ours.bias], theirs.bias))
    copy(found, ours)
    x = leaf(B, Q, D, dtype=dtype)
    compare(ours(x), theirs(x), found, [x])
