"""The names that ``import qkv`` provides."""

from qkv.attention.heads import disable_heads
from qkv.attention.record import record_attention
from qkv.generation.greedy import greedy
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.optimizing import optimize
from qkv.tasks.pretrained import Loaded, load, save
from qkv.tasks.task import task
from qkv.training.loop import train

__all__ = [
    "Loaded",
    "RNNConfig",
    "RNNSeq2Seq",
    "Transformer",
    "TransformerConfig",
    "disable_heads",
    "greedy",
    "load",
    "optimize",
    "record_attention",
    "save",
    "task",
    "train",
]
