"""Batches for language modeling: the targets are tokens of the texts themselves."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from qkv.data.batches import (
    Batches,
    Batching,
    Movable,
    bucketed_batches,
    pad_sequences,
    targets_of_rows,
)
from qkv.errors import ConfigError, DataError

# The tokens that a model reads, the positions at which it predicts, and the targets there.
MaskedExample = tuple[Sequence[int], Sequence[int], Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class TokenBatch(Movable):
    """Texts, padded on the right, and the positions at which the model predicts a token.

    Masked and causal language models use the same batch, with different positions.

    Args:
        tokens: token ids, the model's input.
        token_mask: True = a real token.
        positions: positions of the predictions, as indices into `tokens.flatten()`.
        targets: the correct tokens there.
        segments: 0 for the first text of a pair, 1 for the second; None for single texts.
    """

    tokens: Int64[Tensor, "batch length"]
    token_mask: Bool[Tensor, "batch length"]
    positions: Int64[Tensor, " targets"]
    targets: Int64[Tensor, " targets"]
    segments: Int64[Tensor, "batch length"] | None = None

    @property
    def n_targets(self) -> int:
        """Number of targets, known from a shape without waiting for a device."""
        return len(self.targets)

    def take(self, kept: slice) -> "TokenBatch":
        """Return some of the rows, and the targets in them."""
        chosen, positions = targets_of_rows(self.positions, self.tokens.shape, kept)
        return TokenBatch(
            tokens=self.tokens[kept],
            token_mask=self.token_mask[kept],
            positions=positions,
            targets=self.targets[chosen],
            segments=None if self.segments is None else self.segments[kept],
        )


def collate_targets(rows: Sequence[MaskedExample], *, pad: int) -> TokenBatch:
    """Pad the texts to a batch, and collect the positions and targets of all rows."""
    tokens, token_mask = pad_sequences([tokens for tokens, _, _ in rows], pad)
    length = tokens.shape[1]
    positions = [row * length + at for row, (_, own, _) in enumerate(rows) for at in own]
    targets = [target for _, _, own in rows for target in own]
    return TokenBatch(
        tokens=tokens,
        token_mask=token_mask,
        positions=torch.tensor(positions, dtype=torch.int64),
        targets=torch.tensor(targets, dtype=torch.int64),
    )


def collate_causal(sequences: Sequence[Sequence[int]], *, pad: int) -> TokenBatch:
    """Make a batch for next-token prediction; the last token of each sequence is only a target."""
    rows = [(tokens[:-1], range(len(tokens) - 1), tokens[1:]) for tokens in sequences]
    return collate_targets(rows, pad=pad)


def token_batches(
    rows: Sequence[MaskedExample], *, pad: int, batching: Batching
) -> Batches[TokenBatch]:
    """Batch texts of similar length that have targets at some of their positions.

    Args:
        rows: the token ids of each text, the positions of its targets, and the targets.
        pad: id that fills short texts.
        batching: how texts are grouped.
    """

    def make(chosen: list[int], _: np.random.Generator) -> TokenBatch:
        return collate_targets([rows[i] for i in chosen], pad=pad)

    return bucketed_batches([(len(tokens),) for tokens, _, _ in rows], make, batching)


def causal_batches(
    documents: Iterable[Sequence[int]], *, length: int, stop: int, batching: Batching
) -> Batches[TokenBatch]:
    """Batch blocks of equal length, cut from one stream of all documents.

    Causal language modeling (Radford et al. 2018, eq. 1, and 2019). `stop` comes before, between
    and after the documents. In every epoch, each token after the first is a target once, at
    different cuts.

    Args:
        documents: token ids of each document.
        length: number of tokens per block.
        stop: id that ends a document; it also fills the first and the last block of the stream.
        batching: `max_tokens` is divided by `length` for the number of blocks per batch.

    Raises:
        DataError: there are no documents.
        ConfigError: a length below 1, or above `max_tokens`.
    """
    n_blocks = batching.batch_size or (batching.max_tokens or 0) // max(length, 1)
    if length < 1 or n_blocks < 1:
        raise ConfigError(
            f"length = {length} with max_tokens = {batching.max_tokens}; expected a length of at "
            "least 1, and of at most max_tokens"
        )
    stream = [stop]
    for document in documents:
        stream += [*document, stop]
    if len(stream) == 1:
        raise DataError("no documents to learn from: expected at least one (is the corpus empty?)")

    def plan(epoch: int) -> list[list[slice]]:
        return _cut(len(stream), length, n_blocks, batching.rng(epoch))

    def make(blocks: list[slice], _: np.random.Generator) -> TokenBatch:
        return collate_causal([stream[block] for block in blocks], pad=stop)

    return Batches(batching.epoch_numbers, plan, make, seed=batching.seed)


def _cut(n_tokens: int, length: int, n_blocks: int, rng: np.random.Generator) -> list[list[slice]]:
    """Cut the stream into blocks, each with the token after it, and group them in random order."""
    first = int(rng.integers(1, length + 1))  # length of the first block
    starts = [0, *range(first, n_tokens - 1, length)]
    ends = [*starts[1:], n_tokens - 1]
    blocks = [slice(start, end + 1) for start, end in zip(starts, ends, strict=True)]
    order = rng.permutation(len(blocks)).tolist()
    return [[blocks[i] for i in order[at : at + n_blocks]] for at in range(0, len(order), n_blocks)]
