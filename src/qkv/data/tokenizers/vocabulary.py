"""The protocol of vocabularies, and vocabularies of the `tokenizers` library."""

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Protocol, runtime_checkable

import tokenizers
from tokenizers import decoders, pre_tokenizers

Span = tuple[int, int]  # [first character, end)


@runtime_checkable
class Vocabulary(Protocol):
    """Converts text to ids and back; only `parse` encodes names to special tokens.

    Args:
        special: ids of special tokens.
    """

    special: frozenset[int]

    def __len__(self) -> int: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]: ...
    def spans(self, text: str) -> tuple[list[int], list[Span]]: ...
    def parse(self, text: str) -> tuple[list[int], list[Span]]: ...
    def decode(self, ids: list[int]) -> str: ...  # no special ids
    def id(self, token: str) -> int | None: ...
    def token(self, i: int) -> str | None: ...
    def label(self, i: int) -> str: ...


class LibraryVocabulary:
    """A vocabulary of the `tokenizers` library.

    Args:
        tokenizer: tokenizer with all its special tokens.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A file may enable padding and truncation; here batches pad, and long texts raise errors.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # text is never parsed as a special token
        special = {
            token.content: i
            for i, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        }
        _close(tokenizer, special)
        self.special = frozenset(special.values())

    def __reduce__(self) -> tuple:
        # The library's own copy would parse special tokens again.
        return type(self), (self._tokenizer,)

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size()

    def to_str(self) -> str:
        """Return the content of tokenizer.json."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        batch = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def spans(self, text: str) -> tuple[list[int], list[Span]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def parse(self, text: str) -> tuple[list[int], list[Span]]:
        encoding = self._parser.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    @cached_property
    def _parser(self) -> tokenizers.Tokenizer:
        parser = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        parser.encode_special_tokens = False
        return parser

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids)

    def id(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token(self, i: int) -> str | None:
        return self._tokenizer.id_to_token(i) if i >= 0 else None

    def label(self, i: int) -> str:
        token = self._tokenizer.id_to_token(i) or ""
        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return token
        # Byte-level tokens spell bytes as letters ("Ġ" is a space); part of a character has no
        # text.
        text = self._tokenizer.decode([i], skip_special_tokens=False)
        return token if "\ufffd" in text else text


def _close(tokenizer: tokenizers.Tokenizer, special: Mapping[str, int]) -> None:
    """Split special names after their first letter if the model itself would find them in a text.

    The library does not parse special tokens, but a unigram model has "</s>" among its pieces.
    """

    def occurs(name: str, i: int) -> bool:
        text = f"a{name} {name}"
        encoding = tokenizer.encode(text, add_special_tokens=False)
        return any(
            one == i and text[first:end].strip() == name
            for one, (first, end) in zip(encoding.ids, encoding.offsets, strict=True)
        )

    names = [name for name, i in special.items() if len(name) > 1 and occurs(name, i)]
    if names:
        first_letters = "|".join(f"{re.escape(n[0])}(?={re.escape(n[1:])})" for n in names)
        cut = pre_tokenizers.Split(tokenizers.Regex(first_letters), behavior="isolated")
        before = tokenizer.pre_tokenizer
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([before, cut] if before else [cut])
