"""What a family puts around one sequence, or around two."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import models

Slot = tuple[int | str, int]  # an id, or "A" or "B" where a sequence goes; and its segment


class ModelInput(NamedTuple):
    """A row of a model's input, before padding; three lists of one length.

    Args:
        ids: sequences and special tokens.
        segments: 0 or 1 a token, for models that embed them, as BERT does.
        sequence: 0 where a token is of the first sequence, 1 of the second, None of neither.
    """

    ids: list[int]
    segments: list[int]
    sequence: list[int | None]


class Template:
    """The order of special tokens and sequences, for one sequence and for two.

    Args:
        single: what stands around one sequence, "A".
        pair: what stands around and between two, "A" and "B".
    """

    def __init__(self, single: Sequence[Slot], pair: Sequence[Slot]) -> None:
        self.single, self.pair = tuple(single), tuple(pair)

    @classmethod
    def parse(cls, single: str, pair: str, special: Mapping[str, int]) -> "Template":
        """Read "start A stop B:1 stop:1": roles and sequences, and their segment if it is not 0."""

        def slot(word: str) -> Slot:
            name, _, segment = word.partition(":")
            return (name if name in "AB" else special[name]), int(segment or 0)

        return cls([slot(word) for word in single.split()], [slot(word) for word in pair.split()])

    @classmethod
    def of_post_processor(cls, processor: object) -> "Template":
        """What a post-processor of the `tokenizers` library does, found by asking it."""
        probe = tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
        probe.post_processor = processor

        def slots(text: str, pair: str | None = None) -> list[Slot]:
            encoding = probe.encode(text, pair)
            parts = zip(encoding.ids, encoding.type_ids, encoding.sequence_ids, strict=True)
            return [
                (i if sequence is None else "AB"[sequence], segment)
                for i, segment, sequence in parts
            ]

        return cls(slots("a"), slots("a", "a"))

    def add_special_tokens(
        self, first: Sequence[int], second: Sequence[int] | None = None
    ) -> ModelInput:
        """Put one sequence, or two, where they belong."""
        wrapped = ModelInput([], [], [])
        for what, segment in self.single if second is None else self.pair:
            if isinstance(what, str):
                sequence = "AB".index(what)
                ids = (first, second or ())[sequence]
            else:
                sequence, ids = None, [what]
            wrapped.ids.extend(ids)
            wrapped.segments.extend([segment] * len(ids))
            wrapped.sequence.extend([sequence] * len(ids))
        return wrapped


PLAIN = Template.parse("A", "A B", {})
