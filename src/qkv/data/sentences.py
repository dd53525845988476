"""Texts that exceed a model's input: split between sentences, and truncated where that fails."""

import re
from dataclasses import dataclass

from qkv.data.tokenizers import Tokenizer
from qkv.errors import DataError
from qkv.json_fields import quoted

# The end of a sentence, where a text that is too long is split.
BETWEEN_SENTENCES = re.compile(r"(?<=[.!?…。！？])\s*(?<=[\s。！？])")


@dataclass(frozen=True)
class SplitText:
    """A text as token ids.

    Args:
        pieces: ids of the whole text, or of its parts.
        length: number of tokens of the whole text.
        cut: number of tokens that were left out, of single sentences that are too long.
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
    for sentence in [*filter(str.strip, BETWEEN_SENTENCES.split(text)), None]:
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
