"""Vocabularies based on SentencePiece: T5 and Llama 2, fairseq, and Marian."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece

from qkv.data.tokenizers.vocabulary import Span
from qkv.errors import ConfigError, DataError

NO_PIECE = "\ue000"  # a private character, which no piece contains


class SentencePieceVocabulary:
    """The pieces of a SentencePiece model, followed by special tokens.

    Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226. It uses the original library, since
    conversions normalize accented letters and merge runs of spaces differently.

    Args:
        model: result of `read_model`.
        added: ids of special tokens that the model does not have.
    """

    def __init__(
        self, model: sentencepiece.SentencePieceProcessor, added: Mapping[str, int]
    ) -> None:
        self._model, self._added = model, dict(added)
        self._names = {i: token for token, i in added.items()}
        self.special = frozenset((*self._special(), *self._names))

    def __len__(self) -> int:
        return len(self._model) + len(self._added)

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def spans(self, text: str) -> tuple[list[int], list[Span]]:
        encoded = self._model.encode(text, out_type="offset_mapping")
        return encoded["ids"], encoded["offsets"]

    def parse(self, text: str) -> tuple[list[int], list[Span]]:
        names = {name: i for i in self.special if (name := self.token(i))}
        parts = re.split(f"({'|'.join(map(re.escape, names))})", text)
        ids, offsets, begin = list[int](), list[Span](), 0
        for part in parts:
            if part in names:
                own, spans = [names[part]], [(0, len(part))]
            elif not begin:
                own, spans = self.spans(part)
            else:  # the library would add a space at the start of a text
                own, spans = self.spans(NO_PIECE + part)
                first = len(self.encode(NO_PIECE))
                own, spans = own[first:], [(a - 1, b - 1) for a, b in spans[first:]]
            ids += own
            offsets += [(a + begin, b + begin) for a, b in spans]
            begin += len(part)
        return ids, offsets

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)

    def id(self, token: str) -> int | None:
        i = self._added.get(token, self._model.piece_to_id(token))
        return i if self.token(i) == token else None  # unknown tokens map to the unknown id

    def token(self, i: int) -> str | None:
        if 0 <= i < len(self._model):
            return self._model.id_to_piece(i)
        return self._names.get(i)

    def label(self, i: int) -> str:
        return self.token(i) or ""

    def _special(self) -> Iterator[int]:
        model = self._model
        return (i for i in range(len(model)) if model.is_control(i) or model.is_unknown(i))


class MovedVocabulary(SentencePieceVocabulary):
    """The pieces of a SentencePiece model with the ids of fairseq.

    Args:
        model: result of `read_model`.
        first: the first tokens, from id 0, regardless of the model's.
        unknown: id of unknown pieces.
        start: first piece of the model that is used, placed after `first`.
        added: ids of special tokens after the pieces.
    """

    def __init__(
        self,
        model: sentencepiece.SentencePieceProcessor,
        *,
        first: Sequence[str],
        unknown: int,
        start: int,
        added: Mapping[str, int],
    ) -> None:
        self._moved, self._start, self._unknown = len(first) - start, start, unknown
        super().__init__(model, {**{token: i for i, token in enumerate(first)}, **added})

    def __len__(self) -> int:
        return super().__len__() - self._start

    def encode(self, text: str) -> list[int]:
        return [self._ours(i) for i in super().encode(text)]

    def spans(self, text: str) -> tuple[list[int], list[Span]]:
        ids, spans = super().spans(text)
        return [self._ours(i) for i in ids], spans

    def decode(self, ids: list[int]) -> str:
        return super().decode([i - self._moved for i in ids])

    def id(self, token: str) -> int | None:
        if token in self._added:
            return self._added[token]
        i = self._model.piece_to_id(token)
        return i + self._moved if i >= self._start and not self._model.is_unknown(i) else None

    def token(self, i: int) -> str | None:
        if i in self._names or not self._start <= i - self._moved < len(self._model):
            return self._names.get(i)
        return self._model.id_to_piece(i - self._moved)

    def _ours(self, i: int) -> int:
        return self._unknown if self._model.is_unknown(i) else i + self._moved

    def _special(self) -> Iterator[int]:
        pieces = range(self._start, len(self._model))
        return (i + self._moved for i in pieces if self._model.is_control(i))


class MarianVocabulary:
    """Marian's vocabulary: pieces by SentencePiece, ids from a separate list.

    Source and target have separate models and share the list. A text may begin with the code of the
    target language, as in ">>fra<< Good morning".

    Args:
        model: result of `read_model` for the source or the target.
        ids: content of vocab.json.
        special: ids without text.
        unknown: id of pieces that are not in the list.
    """

    def __init__(
        self,
        model: sentencepiece.SentencePieceProcessor,
        ids: Mapping[str, int],
        special: Iterable[int],
        unknown: int,
    ) -> None:
        self._model, self._ids, self._unknown = model, ids, unknown
        self._names = {i: token for token, i in ids.items()}
        self.special = frozenset(special)

    def __len__(self) -> int:
        return len(self._ids)

    def encode(self, text: str) -> list[int]:
        code, text = _language_code(text)
        return [self._id(piece) for piece in (*code, *self._model.encode(text, out_type=str))]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def spans(self, text: str) -> tuple[list[int], list[Span]]:
        code, rest = _language_code(text)
        encoded = self._model.encode(rest, out_type="offset_mapping")
        skipped = len(text) - len(rest)
        spans = [(first + skipped, end + skipped) for first, end in encoded["offsets"]]
        return self.encode(text), [*((0, skipped) for _ in code), *spans]

    def parse(self, text: str) -> tuple[list[int], list[Span]]:
        raise ConfigError("Marian's tokenizers do not parse special tokens; translators need none")

    def decode(self, ids: list[int]) -> str:
        text = self._model.decode_pieces([self._names[i] for i in ids])
        return text.replace("▁", " ").strip()  # pieces of the other language are kept as they are

    def id(self, token: str) -> int | None:
        return self._ids.get(token)

    def token(self, i: int) -> str | None:
        return self._names.get(i)

    def label(self, i: int) -> str:
        return self._names[i]

    def _id(self, piece: str) -> int:
        i = self._ids.get(piece, self._unknown)
        return self._unknown if i in self.special else i  # a piece spelled like a special token


def read_model(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Read a SentencePiece model.

    Raises:
        DataError: the file is missing, truncated or has another format.
    """
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path} is not a SentencePiece model: is it truncated, or of another kind, like the "
            f"tokenizer.model of Llama 3? ({error})"
        ) from error


def _language_code(text: str) -> tuple[list[str], str]:
    end = text.find("<<") + 2
    return ([text[:end]], text[end:]) if text.startswith(">>") and end > 1 else ([], text)
