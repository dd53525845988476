"""The parts of a text that are translated one by one, and the choice of their translations."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qkv.data.copying import Copying
from qkv.data.sentences import split_sentences, split_text
from qkv.data.tokenizers import Tokenizer
from qkv.generation.answer import Answer


@dataclass(frozen=True)
class Part:
    """A part of a text.

    Args:
        text: the part as it was written; "" if the part is the whole text.
        tokens: ids of the part, with stand-ins for what is copied.
        masked: text of the tokens.
        values: the words that the stand-ins replace.
    """

    text: str
    tokens: list[int]
    masked: str = ""
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A text in parts, and a note on how it was split."""

    parts: list[Part]
    note: str = ""


def read_source(
    text: str, tokenizer: Tokenizer, limit: int | None, copying: Copying | None
) -> Source:
    """Encode a text in as few parts as possible, or, with `copying`, sentence by sentence.

    Raises:
        DataError: the text is empty.
    """
    if copying is None or not text.strip():
        split = split_text(text, tokenizer, limit)
        return Source([Part("", ids) for ids in split.pieces], split.note(limit))
    parts, notes = list[Part](), list[str]()
    for sentence in map(str.strip, split_sentences(text)):
        masked = copying.mask(sentence)
        split = split_text(masked.text, tokenizer, limit)
        for ids in split.pieces:
            kept = tokenizer.decode(ids)
            values = {c: value for c, value in masked.values.items() if c in kept}
            parts.append(Part(sentence, ids, kept, values))
        notes.append(split.note(limit))
    return Source(parts, "; ".join(filter(None, notes)))


@dataclass(frozen=True)
class Choice:
    """The translations of a part, best first.

    Args:
        texts: the translations.
        scores: their scores.
        cut: number of tokens of the best one if it was truncated, else 0.
        complete: whether the best one has the stand-ins that it should have.
        lost: names and numbers that the best one lacks.
    """

    texts: list[str]
    scores: list[float]
    cut: int = 0
    complete: bool = True
    lost: tuple[str, ...] = ()


def choose(
    part: Part, answers: Sequence[Answer], texts: Sequence[str], copying: Copying | None
) -> Choice:
    """Rank the candidates that keep all stand-ins first, and put back the original words.

    Args:
        part: the source.
        answers: the candidates, best first.
        texts: their texts.
        copying: what is copied; None: nothing.
    """
    if copying is None:
        order, shown, complete = list(range(len(texts))), list(texts), [True]
    else:
        complete = [copying.complete(text, part.masked) for text in texts]
        order = sorted(range(len(texts)), key=lambda i: not complete[i])
        shown = [copying.restore(texts[i], part.values) for i in order]
    best = order[0]
    lost = tuple(value for c, value in part.values.items() if c not in texts[best])
    return Choice(
        shown,
        [answers[i].score for i in order],
        0 if answers[best].ended else len(answers[best].tokens),
        complete[best],
        lost,
    )


def note_on(source: Source, choices: Sequence[Choice]) -> str:
    """Return a note for the reader on the translation of a text, or ""."""
    cut = next((one.cut for one in choices if one.cut), 0)
    lost = [name for one in choices for name in one.lost]
    notes = [
        source.note,
        f"truncated after {cut} tokens (max_length), before its end" if cut else "",
        f"left out or changed: {', '.join(lost)}" if lost else "",
    ]
    return "; ".join(filter(None, notes))
