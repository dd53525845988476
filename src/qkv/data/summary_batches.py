"""Batches for a decoder that summarizes, with the features of a frozen encoder."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from qkv.data.batches import Batches, Batching, Movable, bucketed_batches, pad_sequences


@dataclass(frozen=True, kw_only=True)
class SummaryBatch(Movable):
    """Encoder features of texts, and their summaries; masks: True = a real token.

    Args:
        features: encoder states of the texts' tokens.
        source: token ids of the texts.
        source_mask: of the texts.
        target_input: [start, y1, ..., yn], the decoder's input.
        target: [y1, ..., yn, stop], its expected output.
        target_mask: of both.
        n_targets: number of real target tokens, counted on the host.
    """

    features: Float[Tensor, "batch source width"]
    source: Int64[Tensor, "batch source"]
    source_mask: Bool[Tensor, "batch source"]
    target_input: Int64[Tensor, "batch target"]
    target: Int64[Tensor, "batch target"]
    target_mask: Bool[Tensor, "batch target"]
    n_targets: int

    def take(self, kept: slice) -> "SummaryBatch":
        """Return some of the rows."""
        fewer = super().take(kept)
        return dataclasses.replace(fewer, n_targets=int(fewer.target_mask.sum()))


def summary_batches(
    features: Sequence[Float[Tensor, "_ width"]],
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    pad: int,
    start: int,
    batching: Batching,
) -> Batches[SummaryBatch]:
    """Batch texts of similar length with their summaries; `max_tokens` limits the texts' side.

    Args:
        features: encoder states of each text's tokens.
        sources: token ids of the texts.
        targets: token ids of the summaries, with `stop` at the end.
        pad: id that fills short rows.
        start: id that the decoder reads first.
        batching: see `bucketed_batches`, also for the errors.
    """

    def make(rows: list[int], rng: np.random.Generator) -> SummaryBatch:
        source, source_mask = pad_sequences([sources[row] for row in rows], pad)
        target, target_mask = pad_sequences([targets[row] for row in rows], pad)
        target_input, _ = pad_sequences([[start, *targets[row][:-1]] for row in rows], pad)
        padded = torch.nn.utils.rnn.pad_sequence([features[row] for row in rows], batch_first=True)
        return SummaryBatch(
            features=padded.float(),
            source=source,
            source_mask=source_mask,
            target_input=target_input,
            target=target,
            target_mask=target_mask,
            n_targets=int(target_mask.sum()),
        )

    return bucketed_batches([(len(source),) for source in sources], make, batching)
