"""Text to ids and back: what SentencePiece runs, alone (T5, Llama 2), for fairseq or for Marian."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece

from qkv.data.tokenizers.vocabulary import Span
from qkv.errors import DataError


class SentencePieceVocabulary:
    """The pieces of a SentencePiece model, and special tokens after them.

    Kudo and Richardson 2018, https://arxiv.org/abs/1808.06226. Run by its own library: conversions
    normalize letters with accents in another way, and merge runs of spaces in another order.

    Args:
        model: as `read_model` gives it.
        added: special tokens that the model does not have, and their ids.
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
        found = self._model.encode(text, out_type="offset_mapping")
        return found["ids"], found["offsets"]

    def decode(self, ids: list[int]) -> str:
        return self._model.decode(ids)

    def id(self, token: str) -> int | None:
        i = self._added.get(token, self._model.piece_to_id(token))
        return i if self.token(i) == token else None  # what it does not know is its unknown token

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
    """The pieces of a SentencePiece model under the ids that fairseq gave them.

    Args:
        model: as `read_model` gives it.
        first: the tokens of the ids from 0 on, whatever the model calls its own.
        unknown: the id of what the model does not know.
        start: the first piece of the model that keeps its name; it comes after `first`.
        added: special tokens after the pieces, and their ids.
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
    """Marian's pieces by SentencePiece, and its ids from a list of its own.

    Source and target have a model each and share the list. A text may begin with the code of the
    language to translate into, as in ">>fra<< Good morning".

    Args:
        model: of the source or of the target, as `read_model` gives it.
        ids: the list, vocab.json.
        special: the ids that stand for no text.
        unknown: the id of pieces that are not in the list.
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
        found = self._model.encode(rest, out_type="offset_mapping")
        skipped = len(text) - len(rest)
        spans = [(first + skipped, end + skipped) for first, end in found["offsets"]]
        return self.encode(text), [*((0, skipped) for _ in code), *spans]

    def decode(self, ids: list[int]) -> str:
        text = self._model.decode_pieces([self._names[i] for i in ids])
        return text.replace("▁", " ").strip()  # pieces of the other side come through as they are

    def id(self, token: str) -> int | None:
        return self._ids.get(token)

    def token(self, i: int) -> str | None:
        return self._names.get(i)

    def label(self, i: int) -> str:
        return self._names[i]

    def _id(self, piece: str) -> int:
        i = self._ids.get(piece, self._unknown)
        return self._unknown if i in self.special else i  # an unknown piece is spelled as it is


def read_model(path: Path) -> sentencepiece.SentencePieceProcessor:
    """Read a SentencePiece model.

    Raises:
        DataError: the file is missing, cut short or something else.
    """
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{path} is no SentencePiece model: is it cut short, or of another kind, such as the "
            f"tokenizer.model of Llama 3? ({error})"
        ) from error


def _language_code(text: str) -> tuple[list[str], str]:
    end = text.find("<<") + 2
    return ([text[:end]], text[end:]) if text.startswith(">>") and end > 1 else ([], text)
