"""Decoding many inputs by a model with an encoder: batches by length, greedily or with a beam."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

from qkv.data.batches import pad_sequences
from qkv.generation.answer import Answer
from qkv.generation.beam import beam_search
from qkv.generation.processors import FORBIDDEN, Processor, temperature
from qkv.generation.ranking import Beam
from qkv.generation.sampling import sample
from qkv.tasks.console import plain_console

GREEDY = Beam(size=1)
# Of five beginnings, compared by their mean log-probability a token, until five have ended: to
# search on took 30 times as long for a model that had learned little.
BEAM = Beam(size=5, length_penalty=1.0, length_rule="power", early_stopping=True)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a model writes.

    Args:
        pad: id that fills short inputs.
        start: what the decoder reads first.
        stop: id that ends an answer.
        max_length: most tokens of an answer.
        beam: how wide, and what answers are ranked by; size 1 is greedy.
        forbidden: ids that are never written.
    """

    pad: int
    start: tuple[int, ...]
    stop: int
    max_length: int
    beam: Beam = GREEDY
    forbidden: tuple[int, ...] = ()

    def __call__(
        self, model: nn.Module, sources: Sequence[list[int]], *, rows: int, progress: bool = False
    ) -> list[list[Answer]]:
        """The answers to each source, in order; of one source the best first.

        Args:
            model: in evaluation mode.
            sources: ids.
            rows: of a batch, at most, the beginnings of a beam counted; those of like length share
                one.
            progress: show a bar, where the errors go.
        """
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        rows = max(1, rows // self.beam.size)
        batches = [order[first : first + rows] for first in range(0, len(order), rows)]
        console = plain_console(stderr=True)
        off = not (progress and console.is_terminal)
        answers: list[list[Answer]] = [[] for _ in sources]
        for batch in track(batches, "writing", console=console, transient=True, disable=off):
            found = self._answers(model, [sources[i] for i in batch])
            for i, answer in zip(batch, found, strict=True):
                answers[i] = answer
        return answers

    def _answers(self, model: nn.Module, sources: list[list[int]]) -> list[list[Answer]]:
        device = next(model.parameters()).device
        ids, token_mask = pad_sequences(sources, self.pad)
        processors = [_forbid(self.forbidden)] if self.forbidden else []
        how: dict[str, Any] = {
            "token_mask": token_mask.to(device),
            "start": [list(self.start)] * len(sources),
            "stop": self.stop,
            "max_length": self.max_length,
        }
        if self.beam.size > 1:
            return beam_search(model, ids.to(device), **how, beam=self.beam, processors=processors)
        how |= {"processors": [*processors, temperature(0.0)], "seeds": [0] * len(sources)}
        answers = sample(model, ids.to(device), **how)
        return [
            [replace(one, score=self.beam.normalized(one.score, len(one.tokens)))]
            for one in answers
        ]


def _forbid(ids: tuple[int, ...]) -> Processor:
    def processor(tokens: Tensor, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, torch.tensor(ids, device=logits.device), FORBIDDEN)

    return processor
