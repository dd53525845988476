"""Marian (Junczys-Dowmunt et al. 2018), the model of OPUS-MT (Tiedemann and Thottingal 2020).

The Transformer of 2017 with SiLU, one table for both languages and the output layer, a bias on the
logits, and sinusoids with all sines before all cosines.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from qkv.blocks.config import FeedForwardKind
from qkv.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class MarianConfig(TransformerConfig):
    """The configuration; the defaults are the published models from and to English."""

    source_vocab_size: int = 58_101
    target_vocab_size: int = 58_101
    feed_forward: FeedForwardKind = "silu"
    shared_embeddings: bool = True
    output_bias: bool = True
    sinusoid_layout: Literal["interleaved", "halves"] = "halves"
    n_positions: int = 512  # rows of the sinusoids that a file may contain; no limit


class Marian(Transformer):
    """A Transformer whose output layer has a bias, initialized to zero."""

    def __init__(self, config: MarianConfig):
        super().__init__(config)
        if config.output_bias:
            nn.init.zeros_(self.get_parameter("head.bias"))
