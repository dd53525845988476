"""The special tokens that a model family adds to a sequence or a pair of sequences."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import models

Slot = tuple[int | str, int]  # an id, or "A" or "B" for a sequence; and its segment


class ModelInput(NamedTuple):
    """A row of a model's input, before padding; three lists of the same length.

    Args:
        ids: ids of the sequences and special tokens.
        segments: 0 or 1 per token, for models with segment embeddings, such as BERT.
        sequence: 0 for a token of the first sequence, 1 of the second, None for special tokens.
    """

    ids: list[int]
    segments: list[int]
    sequence: list[int | None]


class Template:
    """The order of special tokens and sequences, for single sequences and pairs.

    Args:
        single: tokens around a single sequence, "A".
        pair: tokens around and between two sequences, "A" and "B".
    """

    def __init__(self, single: Sequence[Slot], pair: Sequence[Slot]) -> None:
        self.single, self.pair = tuple(single), tuple(pair)

    @classmethod
    def parse(cls, single: str, pair: str, special: Mapping[str, int]) -> "Template":
        """Parse "start A stop B:1 stop:1": roles and sequences, with segments other than 0."""

        def slot(word: str) -> Slot:
            name, _, segment = word.partition(":")
            return (name if name in "AB" else special[name]), int(segment or 0)

        return cls([slot(word) for word in single.split()], [slot(word) for word in pair.split()])

    @classmethod
    def of_post_processor(cls, processor: object) -> "Template":
        """Infer the template from the output of a post-processor of the `tokenizers` library."""
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
        """Insert a sequence or a pair into the template."""
        row = ModelInput([], [], [])
        for what, segment in self.single if second is None else self.pair:
            if isinstance(what, str):
                sequence = "AB".index(what)
                ids = (first, second or ())[sequence]
            else:
                sequence, ids = None, [what]
            row.ids.extend(ids)
            row.segments.extend([segment] * len(ids))
            row.sequence.extend([sequence] * len(ids))
        return row


PLAIN = Template.parse("A", "A B", {})
