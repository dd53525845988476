"""Blocks, stacks and the whole against torch.nn's Transformer: outputs and gradients."""

import pytest
import torch
from tests.helpers import right_mask
from tests.parity.reference import BOTH
from tests.parity.weights import block_pairs, compare, copy, stack_pairs
from torch import nn

from qkv.attention.masks import attention_mask
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.stack import Stack

B, S, T, D, H, FF = 3, 11, 7, 15, 5, 13
SOURCE, TARGET = right_mask([11, 4, 9], S), right_mask([7, 5, 2], T)
# True = may not attend in torch.nn: the opposite of ours.
FUTURE = torch.ones(T, T, dtype=torch.bool).triu(1)

orders = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
kinds = pytest.mark.parametrize("feed_forward", ["relu", "gelu"])
maskings = pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])


def config(norm_first, feed_forward, **options):
    return BlockConfig(
        d_model=D, n_heads=H, d_ff=FF, norm_first=norm_first, feed_forward=feed_forward, **options
    )


def options(norm_first, feed_forward):
    return {
        "d_model": D,
        "nhead": H,
        "dim_feedforward": FF,
        "dropout": 0.0,
        "activation": feed_forward,
        "batch_first": True,
        "norm_first": norm_first,
    }


def encoder(n, norm_first, feed_forward):
    layer = nn.TransformerEncoderLayer(**options(norm_first, feed_forward))
    norm = nn.LayerNorm(D) if norm_first else None
    return nn.TransformerEncoder(layer, n, norm=norm, enable_nested_tensor=False)


def decoder(n, norm_first, feed_forward):
    layer = nn.TransformerDecoderLayer(**options(norm_first, feed_forward))
    return nn.TransformerDecoder(layer, n, norm=nn.LayerNorm(D) if norm_first else None)


def compare_encoders(ours, theirs, pairs, padded, precisions=BOTH):
    copy(pairs(ours, theirs), ours)
    real = SOURCE if padded else None

    def run(ours, theirs, x):
        reference = theirs(x, src_key_padding_mask=~real if padded else None)
        return ours(x, mask=attention_mask(real)), reference

    compare(run, ours, theirs, pairs, [torch.randn(B, S, D)], real, precisions)


def compare_decoders(ours, theirs, pairs, padded):
    copy(pairs(ours, theirs), ours)
    source, target = (SOURCE, TARGET) if padded else (None, None)

    def run(ours, theirs, x, memory):
        masks = {"mask": attention_mask(target), "memory_mask": attention_mask(source)}
        reference = theirs(
            x,
            memory,
            tgt_mask=FUTURE,
            tgt_key_padding_mask=~target if padded else None,
            memory_key_padding_mask=~source if padded else None,
        )
        return ours(x, memory, **masks), reference

    inputs = [torch.randn(B, T, D), torch.randn(B, S, D)]
    compare(run, ours, theirs, pairs, inputs, target)


@orders
@kinds
@maskings
def test_encoder_layer(norm_first, feed_forward, padded):
    theirs = nn.TransformerEncoderLayer(**options(norm_first, feed_forward))
    compare_encoders(Block(config(norm_first, feed_forward)), theirs, block_pairs, padded)


@orders
@kinds
@maskings
def test_decoder_layer(norm_first, feed_forward, padded):
    theirs = nn.TransformerDecoderLayer(**options(norm_first, feed_forward))
    ours = Block(config(norm_first, feed_forward, causal=True, cross_attention=True))
    compare_decoders(ours, theirs, block_pairs, padded)


@orders
@kinds
@maskings
def test_encoder(norm_first, feed_forward, padded):
    ours = Stack(config(norm_first, feed_forward), 2)
    compare_encoders(ours, encoder(2, norm_first, feed_forward), stack_pairs, padded)


@orders
@kinds
@maskings
def test_decoder(norm_first, feed_forward, padded):
    ours = Stack(config(norm_first, feed_forward, causal=True, cross_attention=True), 2)
    compare_decoders(ours, decoder(2, norm_first, feed_forward), stack_pairs, padded)


@orders
@kinds
@maskings
def test_the_whole(norm_first, feed_forward, padded):
    kind = (norm_first, feed_forward)
    # Its own stacks would close with a norm after post-norm blocks too, which the paper has not.
    theirs = nn.Transformer(
        **options(*kind), custom_encoder=encoder(2, *kind), custom_decoder=decoder(2, *kind)
    )
    ours = nn.ModuleList(
        (
            Stack(config(*kind), 2),
            Stack(config(*kind, causal=True, cross_attention=True), 2),
        )
    )
    source, target = (SOURCE, TARGET) if padded else (None, None)

    def pairs(ours, theirs):
        return stack_pairs(ours[0], theirs.encoder) + stack_pairs(ours[1], theirs.decoder)

    def run(ours, theirs, x, y):
        memory = ours[0](x, mask=attention_mask(source))
        masks = {"mask": attention_mask(target), "memory_mask": attention_mask(source)}
        reference = theirs(
            x,
            y,
            tgt_mask=FUTURE,
            src_key_padding_mask=~source if padded else None,
            tgt_key_padding_mask=~target if padded else None,
            memory_key_padding_mask=~source if padded else None,
        )
        return ours[1](y, memory, **masks), reference

    copy(pairs(ours, theirs), ours)
    compare(run, ours, theirs, pairs, [torch.randn(B, S, D), torch.randn(B, T, D)], target)
