"""nanoGPT (A. Karpathy, 2022) stated anew from its known architecture: a rival in plain PyTorch.

A GPT-2 with one product for queries, keys and values, and a training step with nothing beside it.

Shapes: B batch, L tokens, D width, H heads.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.models.gpt import GPT, GPTConfig


class NanoBlock(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, d_model: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attend = nn.Linear(d_model, 3 * d_model)
        self.output = nn.Linear(d_model, d_model)
        self.up = nn.Linear(d_model, 4 * d_model)
        self.down = nn.Linear(4 * d_model, d_model)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        projected = self.attend(self.norm_1(x)).unflatten(2, (3, self.n_heads, -1))
        queries, keys, values = projected.permute(2, 0, 3, 1, 4)  # (B, L, 3, H, D/H): each B H L
        heads = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.output(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class NanoGPT(nn.Module):
    """Blocks between embeddings and an output layer that shares the tokens' weight."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.places = nn.Embedding(config.n_positions, config.d_model)
        self.blocks = nn.ModuleList(
            NanoBlock(config.d_model, config.n_heads) for _ in range(config.n_layers)
        )
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Int[Tensor, "B L"], targets: Int[Tensor, "B L"]) -> Float[Tensor, ""]:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


def nanogpt_from(ours: GPT) -> NanoGPT:
    """Build it with the weights of one of our models, which has biases and tanh-GELU too."""
    theirs = NanoGPT(ours.config).to(ours.embedding.weight.dtype)
    theirs.tokens.load_state_dict(ours.embedding.state_dict())
    theirs.places.load_state_dict(ours.positions.table.state_dict())
    theirs.norm.load_state_dict(ours.stack.norm.state_dict())
    for mine, other in zip(ours.stack.blocks, theirs.blocks, strict=True):
        attention = mine.self_attention
        parts = [part.state_dict() for part in (attention.query, attention.key, attention.value)]
        joined = {name: torch.cat([part[name] for part in parts]) for name in ("weight", "bias")}
        other.attend.load_state_dict(joined)
        other.output.load_state_dict(attention.output.state_dict())
        other.up.load_state_dict(mine.feed_forward.up.state_dict())
        other.down.load_state_dict(mine.feed_forward.down.state_dict())
        other.norm_1.load_state_dict(mine.self_attention_residual.norm.state_dict())
        other.norm_2.load_state_dict(mine.feed_forward_residual.norm.state_dict())
    return theirs


class BareLoop:
    """A training step and nothing beside it: no logging, no look at the loss.

    Args:
        model: trained in place.
        loss: (model, batch) to the mean loss.
        optimizer: over the model's parameters.
        learning_rate: set at each step, as a schedule would.
        clip: largest norm of the gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Any], Tensor],
        optimizer: torch.optim.Optimizer,
        *,
        learning_rate: float,
        clip: float,
    ):
        self.model, self.loss, self.optimizer = model.train(), loss, optimizer
        self.learning_rate, self.clip = learning_rate, clip
        self.losses: list[Tensor] = []

    def turn(self, batches: Sequence[Any]) -> float:
        """Train on each batch once; return the seconds."""
        self.losses = []
        begin = time.perf_counter()
        for batch in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            loss = self.loss(self.model, batch)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.losses.append(loss.detach())
        return time.perf_counter() - begin
