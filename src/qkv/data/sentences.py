"""Sentences of a text, and texts that exceed a model's input, which are split between sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qkv.data.tokenizers import Tokenizer
from qkv.errors import DataError
from qkv.json_fields import quoted

# Marks that may end a sentence, with closing quotes and brackets, and the white space after them.
MARKS = re.compile(r"""(?:(?<![.!?…])[.!?…]++["'”’»)\]]*+(?=\s)|[。！？]+[」』”’）]*)\s*""")
LONGEST = 30  # characters of a word that may be an abbreviation
LAST_WORD = re.compile(r"\S+$")
# They stand before a name.
TITLES = frozenset(
    (
        *("adm", "capt", "col", "dr", "gen", "gov", "hon", "lt", "mr", "mrs", "ms", "mx", "prof"),
        *("rep", "rev", "sen", "sgt", "st", "vs"),
    )
)
# They do not end a sentence before a number.
NUMBERED = frozenset(("fig", "figs", "no", "nos", "p", "pp", "vol"))
# They end a sentence only before a capital letter.
SHORT = frozenset(
    (
        *("a.m", "approx", "apr", "aug", "ave", "bros", "ca", "co", "corp", "dec", "dept", "ed"),
        *("est", "etc", "ext", "feb", "inc", "jan", "jr", "jul", "jun", "ltd", "mar", "max", "min"),
        *("misc", "nov", "oct", "p.m", "resp", "sep", "sept", "sq", "sr", "tel", "u.s"),
    )
)
INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]|[^\W\d_a-z]")  # "e.g.", "U.S."; "J. Smith"


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences, which together are the whole text.

    A sentence keeps the white space after it. Line breaks are white space like any other.
    Abbreviations such as "Mr." and "7 p.m.", and a quotation within a sentence, do not end one.
    """
    ends = [*_ends(text), len(text)]
    found = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    return [one for one in found if one]


def _ends(text: str) -> Iterator[int]:
    """Yield where the next sentence begins."""
    begin = 0
    for mark in MARKS.finditer(text):
        following = text[mark.end() : mark.end() + 1]
        before = text[max(begin, mark.start() - LONGEST) : mark.start()]
        if following and _is_end(before, mark[0].rstrip(), following):
            yield mark.end()
            begin = mark.end()


def _is_end(before: str, marks: str, following: str) -> bool:
    """Return whether a sentence ends at `marks`.

    Args:
        before: the text before the marks.
        marks: punctuation, perhaps with closing quotes.
        following: the next character.
    """
    if marks[0] in "。！？":
        return True
    if following.islower() and marks not in (".", "!", "?"):
        return False  # "Wait..." she said
    if marks != ".":
        return True
    found = LAST_WORD.search(before)
    word = found[0].lstrip("\"'“‘«([") if found else ""
    if word.lower() in TITLES:
        return False
    if word.lower() in NUMBERED and following.isdigit():
        return False
    if word.lower() in SHORT:
        return not (following.islower() or following.isdigit())
    return word in ("", "I") or not INITIALS.fullmatch(word)


@dataclass(frozen=True)
class SplitText:
    """A text as token ids.

    Args:
        pieces: ids of the whole text, or of its parts.
        length: number of tokens of the whole text.
        cut: number of tokens cut from single sentences that are too long.
    """

    pieces: list[list[int]]
    length: int
    cut: int = 0

    def note(self, limit: int | None) -> str:
        """Return what was done to the text; "" if nothing was."""
        done = []
        if len(self.pieces) > 1:
            done.append(f"split into {len(self.pieces)} parts")
        if self.cut:
            done.append(f"{self.cut} tokens of a long sentence left out")
        if not done:
            return ""
        return f"{self.length} tokens, but the model reads at most {limit}: {', '.join(done)}"


def split_text(text: str, tokenizer: Tokenizer, limit: int | None) -> SplitText:
    """Encode a text; one of more than `limit` tokens is split at the ends of its sentences.

    A part has as many sentences as fit; a single sentence that is too long is truncated.

    Raises:
        DataError: the text is empty.
    """
    if not text.strip():
        raise DataError(f"the text {quoted(text)} is empty; expected words")
    ids = tokenizer.add_special_tokens(tokenizer.encode(text)).ids
    if limit is None or len(ids) <= limit:
        return SplitText([ids], len(ids))
    around = len(tokenizer.add_special_tokens([]).ids)
    pieces, cut, part = list[list[int]](), 0, ""
    for sentence in [*map(str.strip, split_sentences(text)), None]:
        longer = f"{part} {sentence}" if part and sentence else (sentence or part)
        if sentence is not None and len(tokenizer.encode(longer)) + around <= limit:
            part = longer
            continue
        if part:
            encoded = tokenizer.encode(part)
            cut += max(0, len(encoded) + around - limit)
            pieces.append(tokenizer.add_special_tokens(encoded[: limit - around]).ids)
        part = sentence or ""
    return SplitText(pieces, len(ids), cut)
