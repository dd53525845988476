"""One residual rule, one block for every family, stacks of them."""

import pytest
import torch
from tests.helpers import assert_close, randomized, right_mask, unchecked
from torch import nn

from qkv.attention.masks import attention_mask
from qkv.blocks.block import Block, LayerCache, Residual
from qkv.blocks.config import FEED_FORWARD_KINDS, BlockConfig
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError, LengthError, ShapeError

SIZES = {"d_model": 22, "n_heads": 11, "d_ff": 13}


def config(**options):
    return BlockConfig(**{**SIZES, **options})


def tokens(n, d=22):
    return torch.randn(3, n, d, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_residual_rule(norm):
    x, f = tokens(5), torch.tanh
    post = randomized(Residual(config(norm=norm)))
    assert_close(post(x, f), post.norm(x + f(x)))
    pre = randomized(Residual(config(norm=norm, norm_first=True)))
    assert_close(pre(x, f), x + f(pre.norm(x)))


def test_a_decoder_block_is_three_sublayers_in_order():
    block = randomized(Block(config(causal=True, cross_attention=True)))
    x, memory, mask = tokens(5), tokens(7), attention_mask(right_mask([7, 2, 3], 7))
    y = block.self_attention_residual.norm(x + block.self_attention(x))
    y = block.cross_attention_residual.norm(y + block.cross_attention(y, memory, mask=mask))
    y = block.feed_forward_residual.norm(y + block.feed_forward(y))
    assert_close(block(x, memory, memory_mask=mask), y)
    assert block.self_attention.causal
    assert not block.cross_attention.causal


@pytest.mark.parametrize("kind", FEED_FORWARD_KINDS)
def test_the_config_decides_what_is_built(kind):
    block = Block(config(feed_forward=kind, bias=False, qkv_bias=True, n_kv_heads=1, d_head=3))
    assert block.cross_attention is None
    assert block.feed_forward.kind == kind
    assert block.self_attention.key.weight.shape == (3, 22)
    biases = [name for name, _ in block.named_parameters() if name.endswith("bias")]
    assert biases == [f"self_attention.{name}.bias" for name in ("query", "key", "value")]
    assert block(torch.randn(3, 5, 22)).shape == (3, 5, 22)


def test_a_memory_has_no_rotary_positions():
    block = Block(config(rotary_base=100.0, cross_attention=True, causal=True))
    assert block.cross_attention.rotary is None
    assert block.self_attention.rotary.base == 100.0


def test_a_mechanism_of_ones_own_is_passed_in():
    class Echo(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x, memory=None, *, mask=None, positions=None, cache=None):
            return self.factor * (x if memory is None else memory.mean(1, keepdim=True))

    block = Block(
        config(norm_first=True, cross_attention=True),
        self_attention=Echo(2.0),
        cross_attention=Echo(3.0),
        feed_forward=nn.Identity(),
    ).double()
    x, memory = tokens(5), tokens(7)
    normed = [
        getattr(block, f"{name}_residual").norm
        for name in ("self_attention", "cross_attention", "feed_forward")
    ]
    y = x + 2 * normed[0](x)
    y = y + 3 * memory.mean(1, keepdim=True)
    assert_close(block(x, memory), y + normed[2](y))


def test_a_stack_runs_its_blocks_and_closes_with_a_norm_where_they_are_pre_norm():
    x = tokens(5)
    post = randomized(Stack(config(), 3))
    assert post.norm is None
    assert_close(post(x), post.blocks[2](post.blocks[1](post.blocks[0](x))))
    pre = randomized(Stack(config(norm_first=True, norm="rms"), 2))
    assert_close(pre(x), pre.norm(pre.blocks[1](pre.blocks[0](x))))


def test_a_stack_may_hold_blocks_of_ones_own():
    stack = Stack(config(), 3, make_block=lambda i: Block(config(d_ff=i + 1)))
    assert [block.feed_forward.up.out_features for block in stack.blocks] == [1, 2, 3]


def test_a_stack_over_caches_continues():
    stack = randomized(Stack(config(causal=True, cross_attention=True), 2))
    x, memory = tokens(7), tokens(5)
    caches = [LayerCache(), LayerCache()]
    first = stack(x[:, :4], memory, caches=caches)
    rest = stack(x[:, 4:], memory, caches=caches)
    assert_close(torch.cat((first, rest), 1), stack(x, memory))
    with pytest.raises(LengthError, match="length 8: the cache holds 7"):
        caches[1].rewind(8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"feed_forward": "mish"}, r"feed_forward = 'mish' is unknown; expected one of relu, gelu"),
        ({"norm": "batch"}, r"norm = 'batch' is unknown; expected one of layer, rms"),
        ({"d_model": 0}, "d_model = 0; expected at least 1"),
        ({"n_heads": -1}, "n_heads = -1; expected at least 1"),
        ({"d_ff": 0}, "d_ff = 0; expected at least 1"),
        ({"dropout": 1.0}, r"dropout = 1.0; expected a probability in \[0, 1\)"),
        ({"attention_dropout": -0.1}, r"attention_dropout = -0.1; expected a probability"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(options, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        config(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 3}, "d_model = 22 is not divisible by n_heads = 3"),
        ({"n_kv_heads": 2}, "n_heads = 11 is not divisible by n_kv_heads = 2"),
        ({"n_heads": 2, "rotary_base": 1e4}, "d_head = 11 is odd"),
    ],
)
def test_sizes_that_do_not_divide_are_refused_when_the_block_is_built(options, message):
    with pytest.raises(ConfigError, match=message):
        Block(config(**options))


def test_a_config_is_frozen_and_keyword_only():
    with pytest.raises(AttributeError, match="cannot assign to field"):
        config().d_model = 5
    with pytest.raises(TypeError, match="positional"):
        BlockConfig(22, 11, 13)


def test_a_memory_that_nobody_reads_and_one_that_is_missing_are_refused():
    encoder = Block(BlockConfig(d_model=14, n_heads=2, d_ff=11))
    decoder = Block(BlockConfig(d_model=14, n_heads=2, d_ff=11, cross_attention=True))
    x = torch.ones(2, 3, 14)
    with pytest.raises(ShapeError, match="passed to a block without cross-attention"):
        encoder(x, x)
    with pytest.raises(ShapeError, match="called without a memory to attend to"):
        decoder(x)
