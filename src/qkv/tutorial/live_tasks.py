"""Small tasks on which an attention mechanism's page trains it, in seconds on one thread.

Two small stacks learn to *copy* a sequence and to *recall* the last value of a key; each is also
tested on sequences of twice the length. Self-attention is the only difference between mechanisms.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.positions import SinusoidalPositions
from qkv.blocks.stack import Stack
from qkv.training.loop import train
from qkv.training.losses import linear_cross_entropy
from qkv.training.progress import Bar
from qkv.training.settings import Training

# Shapes: B rows, L length, A answers per row, D width.

SYMBOLS = 16
NONE = SYMBOLS  # no key, or no value
LENGTH = 8  # symbols to copy, or values to store, in training
D_MODEL, N_HEADS, D_FF = 32, 2, 64

Make = Callable[[int], nn.Module]  # layer, from 1, to its causal self-attention


@dataclass(frozen=True)
class Rows:
    """Sequences, and the answers to their last tokens.

    Args:
        tokens: pairs of symbols, whose embeddings are added.
        answers: symbols to predict at the last positions.
    """

    tokens: Int[Tensor, "B L 2"]
    answers: Int[Tensor, "B A"]

    @property
    def n_targets(self) -> int:
        return self.answers.numel()

    def to(self, device: torch.device | str) -> "Rows":
        return Rows(self.tokens.to(device), self.answers.to(device))


def copying(n: int, rows: int, generator: torch.Generator) -> Rows:
    """Draw n symbols and a mark, after which a model must repeat the symbols in order."""
    symbols = torch.randint(SYMBOLS, (rows, n), generator=generator)
    first = torch.cat((symbols, torch.full((rows, 1), NONE), symbols[:, :-1]), 1)
    return Rows(torch.stack((first, torch.full_like(first, NONE)), -1), symbols)


def recall(n: int, rows: int, generator: torch.Generator) -> Rows:
    """Draw n key-value tokens, then ask for n keys; the last value stored under a key counts."""
    n_keys = SYMBOLS // 2
    keys = torch.randint(n_keys, (rows, n), generator=generator)
    values = torch.randint(SYMBOLS, (rows, n), generator=generator)
    chosen = torch.randint(n, (rows, n), generator=generator)
    asked = keys.gather(1, chosen)
    same = asked[:, :, None] == keys[:, None, :]  # (rows, asked, stored)
    last = (same * torch.arange(1, n + 1)).argmax(-1)
    stored = torch.stack((keys, values), -1)
    asking = torch.stack((asked, torch.full_like(asked, NONE)), -1)
    return Rows(torch.cat((stored, asking), 1), values.gather(1, last))


TASKS: Mapping[str, Callable[[int, int, torch.Generator], Rows]] = {
    "copying": copying,
    "recall": recall,
}


class LiveModel(nn.Module):
    """A causal stack of two blocks over sums of two embeddings and sinusoids.

    Args:
        make: builds the self-attention of layer 1 and 2, of `D_MODEL` and `N_HEADS`.
    """

    def __init__(self, make: Make):
        super().__init__()
        self.first = TokenEmbedding(SYMBOLS + 1, D_MODEL)
        self.second = TokenEmbedding(SYMBOLS + 1, D_MODEL)
        self.positions = SinusoidalPositions(D_MODEL)
        config = BlockConfig(
            d_model=D_MODEL, n_heads=N_HEADS, d_ff=D_FF, norm_first=True, causal=True
        )
        self.stack = Stack(
            config, 2, make_block=lambda i: Block(config, self_attention=make(i + 1))
        )
        self.head = nn.Linear(D_MODEL, SYMBOLS)

    def hidden(self, rows: Rows) -> Float[Tensor, "B A D"]:
        """Return the states that predict the answers."""
        x = self.first(rows.tokens[..., 0]) + self.second(rows.tokens[..., 1])
        x = self.positions(x, torch.arange(x.shape[1], device=x.device))
        return self.stack(x)[:, -rows.answers.shape[1] :]


def loss(model: LiveModel, rows: Rows) -> Float[Tensor, ""]:
    """Return the sum of the cross-entropies of the answers."""
    hidden = model.hidden(rows).flatten(0, 1)
    return linear_cross_entropy(hidden, model.head.weight, model.head.bias, rows.answers.flatten())


def batches(task: str, seed: int) -> Iterator[Rows]:
    """Yield batches of 32 rows endlessly, each with a length from 3 to `LENGTH`."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        n = int(torch.randint(3, LENGTH + 1, (1,), generator=generator))
        yield TASKS[task](n, 32, generator)


@torch.no_grad()
def share_right(model: LiveModel, task: str, n: int) -> float:
    """Return the accuracy on 256 new rows, which are the same for every model."""
    rows = TASKS[task](n, 256, torch.Generator().manual_seed(10_000))
    return float((model.head(model.hidden(rows)).argmax(-1) == rows.answers).float().mean())


def learn(make: Make, *, seed: int = 0, steps: int = 400) -> dict[str, float]:
    """Train a mechanism on both tasks; return the accuracies.

    Args:
        make: builds the causal self-attention of a layer.
        seed: determines the weights and the training rows.
        steps: optimizer steps of each task.
    """
    scores: dict[str, float] = {}
    for task in TASKS:
        torch.manual_seed(seed)
        model = LiveModel(make)
        settings = Training(steps=steps, learning_rate=1e-2)
        train(model, batches(task, seed), loss, settings, device="cpu", callbacks=[Bar(show=False)])
        scores[task] = share_right(model, task, LENGTH)
        scores[f"{task}, twice the length"] = share_right(model, task, 2 * LENGTH)
    return scores
