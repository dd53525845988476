"""Attention against torch.nn: outputs and gradients, by the design's measure."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import right_mask
from tests.parity.reference import agree
from tests.parity.weights import compare, copy, pairs
from torch import nn

from qkv.attention.core import attention, explicit_attention
from qkv.attention.masks import attention_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.record import record_attention
from qkv.blocks.norms import LayerNorm, RMSNorm

B, Q, K, D, H = 3, 7, 11, 15, 5
LENGTHS = [7, 4, 2]


def attention_pairs(ours, theirs):
    return pairs(ours, theirs, "attention")


def modules(**options):
    theirs = nn.MultiheadAttention(D, H, batch_first=True)
    ours = MultiHeadAttention(D, H, **options)
    copy(attention_pairs(ours, theirs), ours)
    return ours, theirs


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention(causal, padded):
    tokens = right_mask(LENGTHS, Q) if padded else None
    # True = may not attend: the opposite of ours.
    future = torch.ones(Q, Q, dtype=torch.bool).triu(1) if causal else None
    masks = {"attn_mask": future, "key_padding_mask": ~tokens if padded else None}

    def run(ours, theirs, x):
        reference, _ = theirs(x, x, x, **masks, need_weights=False)
        return ours(x, mask=attention_mask(tokens)), reference

    compare(run, *modules(causal=causal), attention_pairs, [torch.randn(B, Q, D)])


@pytest.mark.parametrize("padded", [False, True])
def test_cross_attention(padded):
    tokens = right_mask([K, 5, 2], K) if padded else None
    padding = ~tokens if padded else None

    def run(ours, theirs, x, memory):
        reference, _ = theirs(x, memory, memory, key_padding_mask=padding, need_weights=False)
        return ours(x, memory, mask=attention_mask(tokens)), reference

    inputs = [torch.randn(B, Q, D), torch.randn(B, K, D)]
    compare(run, *modules(), attention_pairs, inputs)


def test_recorded_weights():
    tokens = right_mask(LENGTHS, Q)

    def numbers(ours, theirs, dtype):
        x = torch.randn(B, Q, D).to(dtype)
        _, weights = theirs(x, x, x, key_padding_mask=~tokens, average_attn_weights=False)
        with record_attention(ours) as record:
            ours(x, mask=attention_mask(tokens))
        return {"weights": (record["attention"], weights)}

    agree(numbers, *modules())


@pytest.mark.parametrize("function", [explicit_attention, attention])
@pytest.mark.parametrize("kind", ["none", "causal", "mask", "bias", "scale", "grouped"])
def test_scaled_dot_product_attention(function, kind):
    n_heads, n_keys = (2 if kind == "grouped" else 6), (Q if kind == "causal" else K)
    inputs = [torch.randn(B, 6, Q, 5), *(torch.randn(B, n_heads, n_keys, d) for d in (5, 13))]
    if kind == "bias":
        inputs.append(torch.randn(6, Q, n_keys))
    mask = torch.rand(B, 1, Q, n_keys) < 0.6
    mask[..., 0] = True

    def run(_, __, queries, keys, values, bias=None):
        our_options, options = {
            "none": ({}, {}),
            "causal": ({"causal": True}, {"is_causal": True}),
            "mask": ({"mask": mask}, {"attn_mask": mask}),
            "bias": ({"bias": bias}, {"attn_mask": bias if bias is None else bias[None]}),
            "scale": ({"scale": 0.7}, {"scale": 0.7}),
            "grouped": ({}, {"enable_gqa": True}),
        }[kind]
        ours = function(queries, keys, values, **our_options)
        return ours, F.scaled_dot_product_attention(queries, keys, values, **options)

    compare(run, nn.Identity(), nn.Identity(), lambda *_: [], inputs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LayerNorm(D, eps=1e-3), nn.LayerNorm(D, eps=1e-3)),
        (LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)),
        (RMSNorm(D, eps=1e-3), nn.RMSNorm(D, eps=1e-3)),
    ],
    ids=["layer", "layer without bias", "rms"],
)
def test_norms(ours, theirs):
    def norm_pairs(ours, theirs):
        names = [name for name, _ in theirs.named_parameters()]
        return [([ours.get_parameter(name)], theirs.get_parameter(name)) for name in names]

    copy(norm_pairs(ours, theirs), ours)
    compare(
        lambda ours, theirs, x: (ours(x), theirs(x)),
        ours,
        theirs,
        norm_pairs,
        [torch.randn(B, Q, D)],
    )
