"""A model whose blocks are divided among ranks computes what it computes in one process."""

import json

import pytest
from tests.training.test_ranks import torchrun
from torch import nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.stack import Stack
from qkv.errors import ConfigError
from qkv.training.tensor_parallel import parallelize


def test_losses_and_gradients_are_those_of_one_process(tmp_path):
    done = torchrun("tests.training.tensor_parallel_cases", tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(found) == 5
        assert max(found.values()) < 1e-12, found


class Mesh:
    """As much of a mesh as the checks ask for."""

    def size(self):
        return 5


def stack(**options):
    own = options.pop("self_attention", None)
    config = BlockConfig(**{"d_model": 20, "n_heads": 10, "d_ff": 35, **options})
    return nn.Sequential(Stack(config, 1, make_block=lambda _: Block(config, self_attention=own)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 5), "this Linear has no stack of blocks"),
        (stack(n_kv_heads=2), r"0\.blocks\.0\.self_attention has 2 heads of keys; .* 5 processes"),
        (stack(d_ff=33), r"feed_forward has 33 units in the hidden layer; expected a multiple"),
        (
            stack(self_attention=SinkAttention(20, 10)),
            "self_attention is a SinkAttention; expected one of FeedForward, GatedAttention",
        ),
        (
            stack(self_attention=MultiHeadAttention(20, 10, position_bias=lambda q, k: q)),
            "self_attention adds a bias of its own to the scores of each head",
        ),
    ],
)
def test_what_cannot_be_divided(model, message):
    with pytest.raises(ConfigError, match=message):
        parallelize(model, Mesh())
