r"""Layers with LoRA: a low-rank update of a frozen weight (Hu et al. 2021, arXiv 2106.09685).

x ---- W0 ----- + -- h      W0 (D_out x D_in) is frozen
 \-- A --- B --/            A (r x D_in) and B (D_out x r) are trained

DoRA (Liu et al. 2024, arXiv 2402.09353) also trains the norm of each row of the sum: W = m (W0 + s
B A) / ||W0 + s B A||, where s = alpha / r.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.blocks.dropout import dropout as drop
from qkv.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Which layers get an update, its rank, and which other modules train.

    Args:
        pattern: regular expression, searched in the names of linear layers; the default selects the
            layers adapted in the paper (section 4.2), in every attention module.
        rank: r.
        alpha: the update is scaled by alpha / r, so that the learning rate need not change with r.
        dropout: dropout on the update's input, in training.
        rank_stabilized: scale by alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732).
        dora: also train the norm of each row of the weight (Liu et al. 2024).
        train: modules to train fully, such as "classifier"; their layers get no update.

    Raises:
        ConfigError: if a number is out of range, or the pattern is not a regular expression.
    """

    pattern: str = r"attention\.(query|value)$"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    dora: bool = False
    train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank} of LoRA; expected at least 1")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"alpha = {self.alpha} of LoRA; expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout} of LoRA; expected 0 <= dropout < 1")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"pattern = {self.pattern!r} is not a regular expression ({error}); expected one "
                "such as 'query|value'; it is searched in names and needs no stars around it"
            ) from error


class LoRALayer(nn.Module):
    """The base class of linear layers and embeddings with LoRA.

    Args:
        base: layer with W0, which this freezes.
        d_in: input width of A.
        d_out: output width of B.
        config: rank, alpha and dropout; the pattern is ignored.
    """

    base: Any  # a linear layer or an embedding, depending on the subclass
    magnitude: nn.Parameter | None  # m of DoRA

    def __init__(self, base: nn.Linear | nn.Embedding, d_in: int, d_out: int, config: LoRAConfig):
        super().__init__()
        self.rank, self.alpha, self.dropout = config.rank, config.alpha, config.dropout
        self.rank_stabilized, self.dora = config.rank_stabilized, config.dora
        self.scale = self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_empty(self.rank, d_in))
        self.B = nn.Parameter(base.weight.new_zeros(d_out, self.rank))
        lengths = nn.Parameter(row_lengths(self.frozen)) if config.dora else None
        self.register_parameter("magnitude", lengths)
        self.train(base.training)

    @property
    def frozen(self) -> Float[Tensor, "D_out D_in"]:
        """W0."""
        return self.base.weight

    def adapted(self, dtype: torch.dtype | None = None) -> Float[Tensor, "D_out D_in"]:
        """Return W0 with its update; a dtype of None means the layer's."""
        weight, B, A = (x.to(dtype or x.dtype) for x in (self.frozen, self.B, self.A))
        weight = weight + (self.scale * B) @ A
        if self.magnitude is None:
            return weight
        # In the precision of the stored norms, so that an untrained update changes nothing.
        lengths = row_lengths(weight).to(self.magnitude.dtype)
        return (self.magnitude / lengths)[:, None].to(weight.dtype) * weight

    def stretch(self) -> Float[Tensor, " D_out"]:
        """Compute DoRA's factor for each row of W0 + s B A."""
        assert self.magnitude is not None
        return self.magnitude / row_lengths(self.frozen + (self.scale * self.B) @ self.A)

    @torch.no_grad()
    def merge(self) -> nn.Linear | nn.Embedding:
        """Add the update to W0, in at least float32, and return the plain layer."""
        self.frozen.copy_(self.adapted(torch.promote_types(self.A.dtype, torch.float32)))
        return self.base

    def extra_repr(self) -> str:
        """Show the options that no submodule shows."""
        kind = ", dora" if self.dora else ""
        return f"rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}{kind}"


class LoRALinear(LoRALayer):
    """h = W0 x + b + (alpha / r) B A x, with trained A and B (Hu et al. 2021, eq. 3).

    A is initialized as in the paper's code, uniform within 1 / sqrt(D_in), and B to 0: before
    training, the output is bit for bit that of the original layer.

    Args:
        base: layer with W0 and b, which this freezes.
        config: rank, alpha and dropout; the pattern is ignored.
    """

    base: nn.Linear

    def __init__(self, base: nn.Linear, config: LoRAConfig):
        super().__init__(base, base.in_features, base.out_features, config)
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, x: Float[Tensor, "... D_in"]) -> Float[Tensor, "... D_out"]:
        """Apply W0 and the update, through r numbers per position."""
        h = self.base(x)
        drops = self.training and self.dropout > 0
        if drops:
            x = drop(x, self.dropout)
        update = F.linear(F.linear(x, self.A) * self.scale, self.B)
        if self.magnitude is None:
            return h + update
        frozen = h if self.bias is None else h - self.bias
        if drops:  # DoRA rescales both parts, so both get the dropped input
            frozen = F.linear(x, self.base.weight)
        stretch = self.stretch()
        return h + (stretch - 1) * frozen + stretch * update

    @property
    def weight(self) -> Float[Tensor, "D_out D_in"]:
        """W0 + (alpha / r) B A, for code that uses a layer's matrix without calling the layer.

        Raises:
            ConfigError: in training with dropout, which a matrix cannot express.
        """
        if self.training and self.dropout:
            raise ConfigError(
                f"read the weight of a layer whose update has dropout = {self.dropout}: only "
                "calling the layer applies dropout; expected dropout = 0 for this layer"
            )
        return self.adapted()

    @property
    def bias(self) -> Float[Tensor, " D_out"] | None:
        """The bias of the layer, which LoRA does not change."""
        return self.base.bias


class LoRAEmbedding(LoRALayer):
    """An embedding with an update; its transpose is W0, and x is a token's one-hot vector.

    There is no dropout. A is initialized to 0 and B from N(0, 1), as in PEFT, so that the output
    does not change before training.

    Args:
        base: the embedding, which this freezes.
        config: rank and alpha.
    """

    base: nn.Embedding

    def __init__(self, base: nn.Embedding, config: LoRAConfig):
        super().__init__(base, base.num_embeddings, base.embedding_dim, config)
        nn.init.zeros_(self.A)
        nn.init.normal_(self.B)

    def forward(self, tokens: Int[Tensor, "*any"]) -> Float[Tensor, "*any D_out"]:
        """Look up each token in the table and in its update."""
        frozen = self.base(tokens)
        scale = self.scale * getattr(self.base, "scale", 1)  # some embeddings scale their vectors
        update = F.linear(F.embedding(tokens, self.A.T) * scale, self.B)
        return frozen + update if self.magnitude is None else self.stretch() * (frozen + update)

    @property
    def frozen(self) -> Float[Tensor, "D_out D_in"]:
        """W0: the transpose of the table, with one column per token."""
        return self.base.weight.T

    @property
    def weight(self) -> Float[Tensor, "D_in D_out"]:
        """The table with its update."""
        return self.adapted().T


def row_lengths(weight: Float[Tensor, "D_out D_in"]) -> Float[Tensor, " D_out"]:
    """Return the norm of each row, detached from the graph (DoRA, eq. 11)."""
    return torch.linalg.vector_norm(weight.detach(), dim=1)
