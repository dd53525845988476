"""Text to ids and back: what the SentencePiece library runs, alone (T5, Llama 2) or for Marian."""

from collections.abc import Iterable, Mapping
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
        own = (i for i in range(len(self._model)) if self._is_special(i))
        self.special = frozenset((*own, *self._names))

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
        return self.token(i)

    def _is_special(self, i: int) -> bool:
        return self._model.is_control(i) or self._model.is_unknown(i)


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
