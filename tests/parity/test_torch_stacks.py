"""Blocks, stacks and the whole against torch.nn's Transformer: outputs and gradients."""

import pytest
import torch
from tests.helpers import right_mask
from tests.parity.weights import BOUNDS, block_pairs, compare, copy, stack_pairs
from torch import nn

from qkv.attention.masks import attention_mask
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.stack import Stack

B, S, T, D, H, FF = 3, 11, 7, 15, 5, 13
SOURCE, TARGET = right_mask([11, 4, 9], S), right_mask([7, 5, 2], T)
# True = may not attend in torch.nn: the opposite of ours.
FUTURE = torch.ones(T, T, dtype=torch.bool).triu(1)

dtypes = pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
orders = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
kinds = pytest.mark.parametrize("feed_forward", ["relu", "gelu"])
maskings = pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])


def config(norm_first, feed_forward, **options):
    return BlockConfig(
        d_model=D, n_heads=H, d_ff=FF, norm_first=norm_first, feed_forward=feed_forward, **options
    )


def options(norm_first, feed_forward, dtype):
    return {
        "d_model": D,
        "nhead": H,
        "dim_feedforward": FF,
        "dropout": 0.0,
        "activation": feed_forward,
        "batch_first": True,
        "norm_first": norm_first,
        "dtype": dtype,
    }


def leaf(length, dtype):
    return torch.randn(B, length, D, dtype=dtype, requires_grad=True)


def closing_norm(norm_first, dtype):
    return nn.LayerNorm(D, dtype=dtype) if norm_first else None


def encoder(n, norm_first, feed_forward, dtype):
    layer = nn.TransformerEncoderLayer(**options(norm_first, feed_forward, dtype))
    norm = closing_norm(norm_first, dtype)
    return nn.TransformerEncoder(layer, n, norm=norm, enable_nested_tensor=False)


def decoder(n, norm_first, feed_forward, dtype):
    layer = nn.TransformerDecoderLayer(**options(norm_first, feed_forward, dtype))
    return nn.TransformerDecoder(layer, n, norm=closing_norm(norm_first, dtype))


@dtypes
@orders
@kinds
@maskings
def test_encoder_layer(dtype, norm_first, feed_forward, padded):
    theirs = nn.TransformerEncoderLayer(**options(norm_first, feed_forward, dtype))
    ours = Block(config(norm_first, feed_forward)).to(dtype)
    found = block_pairs(ours, theirs)
    copy(found, ours)
    x, real = leaf(S, dtype), SOURCE if padded else None
    reference = theirs(x, src_key_padding_mask=~real if padded else None)
    compare(ours(x, mask=attention_mask(real)), reference, found, [x], real)


@dtypes
@orders
@kinds
@maskings
def test_decoder_layer(dtype, norm_first, feed_forward, padded):
    theirs = nn.TransformerDecoderLayer(**options(norm_first, feed_forward, dtype))
    ours = Block(config(norm_first, feed_forward, causal=True, cross_attention=True)).to(dtype)
    found = block_pairs(ours, theirs)
    copy(found, ours)
    x, memory = leaf(T, dtype), leaf(S, dtype)
    source, target = (SOURCE, TARGET) if padded else (None, None)
    reference = theirs(
        x,
        memory,
        tgt_mask=FUTURE,
        tgt_key_padding_mask=~target if padded else None,
        memory_key_padding_mask=~source if padded else None,
    )
    out = ours(x, memory, mask=attention_mask(target), memory_mask=attention_mask(source))
    compare(out, reference, found, [x, memory], target)


def whole(norm_first, feed_forward, dtype):
    """Their whole, our two stacks, and the pairs of their weights, copied."""
    kind = (norm_first, feed_forward, dtype)
    # Its own stacks would close with a norm after post-norm blocks too, which the paper has not.
    theirs = nn.Transformer(
        **options(*kind), custom_encoder=encoder(2, *kind), custom_decoder=decoder(2, *kind)
    )
    ours = [
        Stack(config(norm_first, feed_forward), 2).to(dtype),
        Stack(config(norm_first, feed_forward, causal=True, cross_attention=True), 2).to(dtype),
    ]
    found = [
        stack_pairs(*pair) for pair in zip(ours, (theirs.encoder, theirs.decoder), strict=True)
    ]
    for pairs, stack in zip(found, ours, strict=True):
        copy(pairs, stack)
    return theirs, ours, found


@dtypes
@orders
@kinds
@maskings
def test_encoder(dtype, norm_first, feed_forward, padded):
    theirs, (ours, _), (found, _) = whole(norm_first, feed_forward, dtype)
    x, real = leaf(S, dtype), SOURCE if padded else None
    reference = theirs.encoder(x, src_key_padding_mask=~real if padded else None)
    compare(ours(x, mask=attention_mask(real)), reference, found, [x], real)


@dtypes
@orders
@kinds
@maskings
def test_decoder(dtype, norm_first, feed_forward, padded):
    theirs, (_, ours), (_, found) = whole(norm_first, feed_forward, dtype)
    x, memory = leaf(T, dtype), leaf(S, dtype)
    source, target = (SOURCE, TARGET) if padded else (None, None)
    out = ours(x, memory, mask=attention_mask(target), memory_mask=attention_mask(source))
    reference = theirs.decoder(
        x,
        memory,
        tgt_mask=FUTURE,
        tgt_key_padding_mask=~target if padded else None,
        memory_key_padding_mask=~source if padded else None,
    )
    compare(out, reference, found, [x, memory], target)


@dtypes
@orders
@kinds
@maskings
def test_the_whole(dtype, norm_first, feed_forward, padded):
    theirs, (our_encoder, our_decoder), found = whole(norm_first, feed_forward, dtype)
    x, y = leaf(S, dtype), leaf(T, dtype)
    source, target = (SOURCE, TARGET) if padded else (None, None)
    memory = our_encoder(x, mask=attention_mask(source))
    out = our_decoder(y, memory, mask=attention_mask(target), memory_mask=attention_mask(source))
    reference = theirs(
        x,
        y,
        tgt_mask=FUTURE,
        src_key_padding_mask=~source if padded else None,
        tgt_key_padding_mask=~target if padded else None,
        memory_key_padding_mask=~source if padded else None,
    )
    compare(out, reference, found[0] + found[1], [x, y], target)
