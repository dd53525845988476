"""Decoding many inputs by a model with an encoder: batches by length, greedily or with a beam."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.progress import track
from torch import nn

from qkv.data.batches import pad_sequences
from qkv.errors import ConfigError
from qkv.generation.answer import Answer
from qkv.generation.beam import beam_search
from qkv.generation.processors import Processor
from qkv.generation.ranking import Beam
from qkv.generation.sampling import sample
from qkv.tasks.console import plain_console
from qkv.tasks.decoding import Decoding

GREEDY = Beam(size=1)
PLAIN = Decoding()
# Of five beginnings, compared by their mean log-probability a token, until five have ended: to
# search on took 30 times as long for a model that had learned little.
BEAM = Beam(size=5, length_penalty=1.0, length_rule="power", early_stopping=True)


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a model writes.

    Args:
        pad: id that fills short inputs.
        start: what the decoder reads first.
        stops: ids that end an answer.
        max_length: most tokens of an answer.
        beam: how wide, and what answers are ranked by; size 1 is greedy.
        decoding: the model's other rules.
        first: rules that come before those of `decoding` that force tokens.
    """

    pad: int
    start: int
    stops: tuple[int, ...]
    max_length: int
    beam: Beam = GREEDY
    decoding: Decoding = PLAIN
    first: tuple[Processor, ...] = ()

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
        if self.decoding.reads_source:
            rows = 1  # source at a time
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
        many = self.beam.size > 1
        how: dict[str, Any] = {
            "token_mask": token_mask.to(device),
            "start": self.start,
            "stop": self.stops,
            "max_length": self.max_length,
            "processors": self.decoding.processors(
                self.decoding.limits(1, usual=self.max_length, most=self.max_length),
                begun=1,
                source=sources[0],
                sampling=self.decoding.searched() if many else self.decoding.greedy(),
                first=self.first,
                stops=self.stops,
            ),
        }
        if many:
            return beam_search(model, ids.to(device), **how, beam=self.beam)
        answers = sample(model, ids.to(device), **how, seeds=[0] * len(sources))
        return [
            [replace(one, score=self.beam.normalized(one.score, len(one.tokens)))]
            for one in answers
        ]


def check_search(decoding: Decoding, *, chosen: bool, name: str) -> None:
    """Refuse rules that are for other tasks than those that search.

    Args:
        decoding: of a model.
        chosen: whether the caller says how to search.
        name: to call the model in errors.

    Raises:
        ConfigError: tokens are to be drawn, and the caller says nothing else; or there are stop
            strings.
    """
    if decoding.draws and not chosen:
        raise ConfigError(
            f"{name}: its files say do_sample = true, but here nothing is drawn; expected false, "
            "or a choice of how to search instead: beam=1 (--beam 1) is greedy"
        )
    if decoding.stop_strings:
        raise ConfigError(
            f"{name}: its files say stop_strings = {list(decoding.stop_strings)}; expected none: "
            "searching knows stop tokens alone"
        )
