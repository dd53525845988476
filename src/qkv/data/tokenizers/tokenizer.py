"""Text to ids and back, special tokens, and what a family puts around a sequence."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import tokenizers

from qkv.data.tokenizers import training
from qkv.data.tokenizers.folder import (
    FILE_NAME,
    OURS,
    ROLES,
    SETTINGS,
    VOCABULARIES,
    Parts,
    known_ids,
    mark,
    of_target,
    read_file,
    read_folder,
)
from qkv.data.tokenizers.special_tokens import PLAIN, ModelInput
from qkv.data.tokenizers.vocabulary import LibraryVocabulary, Span
from qkv.errors import DataError, VocabularyError
from qkv.files import write_atomically


class Tokenizer:
    """Text to ids and back, whatever the vocabulary: trained here, or of a published folder.

    Encoding adds no start and no stop token: add them with `add_special_tokens`, or when collating.
    A special token's name inside a text, such as "</s>", is encoded as ordinary text.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._vocabulary = parts, parts.vocabulary

    @classmethod
    def train_characters(cls, texts: Iterable[str]) -> "Tokenizer":
        """A vocabulary of the characters (code points) of the texts, in the order of Unicode.

        Raises:
            DataError: there is no text.
        """
        return cls._trained(training.train_characters(texts))

    @classmethod
    def train_bpe(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = False
    ) -> "Tokenizer":
        """Byte-pair encoding of UTF-8 bytes: no text is unknown, decoding gives it back exactly.

        Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; of bytes: Radford et al. 2019
        (GPT-2). With `lowercase` every text is read in lower case, and comes back so.

        Raises:
            ConfigError: `vocab_size` cannot hold the 256 bytes and the special tokens.
            DataError: there is no text.
        """
        return cls._trained(training.train_bpe(texts, vocab_size, lowercase=lowercase))

    @classmethod
    def train_wordpiece(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = True
    ) -> "Tokenizer":
        """WordPiece as in BERT: words and punctuation apart, "##" before a piece inside a word.

        Schuster and Nakajima 2012; BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
        `lowercase` also removes accents, as in the uncased BERT.

        Raises:
            ConfigError: `vocab_size` cannot hold the characters, at the start of and inside a word.
            DataError: there is no text.
        """
        return cls._trained(training.train_wordpiece(texts, vocab_size, lowercase=lowercase))

    @classmethod
    def train_unigram(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """The unigram language model over pieces, "▁" where a word begins.

        Kudo 2018, https://arxiv.org/abs/1804.10959. Trained by SentencePiece, because the result of
        the trainer in `tokenizers` changes with each run. A small corpus gives fewer pieces.

        Raises:
            ConfigError: `vocab_size` cannot hold the characters of the texts.
            DataError: there is no text.
        """
        return cls._trained(training.train_unigram(texts, vocab_size))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a published folder's tokenizer, or a `tokenizer.json` by itself.

        A folder's tokenizer.json counts where there is one. Otherwise its tokenizer class says what
        the files mean: vocab.txt, vocab.json with merges.txt, or SentencePiece models.

        Raises:
            DataError: there is no such tokenizer; or a file of it is missing, broken, or asks for
                what is not implemented.
        """
        path = Path(path)
        if path.suffix == ".json" and path.is_file():
            return cls(read_file(path))
        tokenizer = load_tokenizer(path)
        if tokenizer is None:
            raise DataError(
                f"no tokenizer at {path}: expected {FILE_NAME} or a folder with it, or with "
                f"{', '.join(sorted(VOCABULARIES - {FILE_NAME}))}"
            )
        return tokenizer

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the files as they were read, each atomically.

        Args:
            path: a folder; or a file that ends in ".json", for a tokenizer that is one such file.

        Raises:
            DataError: one file cannot hold this tokenizer.
        """
        path = Path(path)
        if path.suffix != ".json":
            for name, content in self.files.items():
                write_atomically(path / name, content)
        elif FILE_NAME in self.files:
            write_atomically(path, self.files[FILE_NAME])
        else:
            raise DataError(
                f"{path} cannot hold a tokenizer of {', '.join(self.files)}; expected a folder"
            )

    @property
    def files(self) -> dict[str, bytes]:
        """What `save` writes, by name."""
        return dict(self._parts.files)

    @property
    def target(self) -> "Tokenizer":
        """The tokenizer of what is translated into: that of Marian and mBART is another."""
        parts = of_target(self._parts)
        return self if parts is self._parts else type(self)(parts)

    def with_languages(self, source: str, target: str) -> "Tokenizer":
        """The same tokenizer for texts of other languages, of which mBART marks each text's.

        Args:
            source: code of the language that is read, such as "en_XX".
            target: code of the language that is written: that of `target`.

        Raises:
            VocabularyError: it marks no languages, or not these.
        """
        if self._parts.languages is None:
            raise VocabularyError(
                f"languages {source!r} and {target!r} were given to a tokenizer that marks none; "
                "the classes MBartTokenizer and MBart50Tokenizer do"
            )
        languages = replace(self._parts.languages, source=source, target=target)
        return type(self)(mark(self._parts, languages))

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return len(self._vocabulary)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that stand for no text."""
        return self._vocabulary.special

    @property
    def pad(self) -> int:
        """The id that fills short rows of a batch."""
        return self._role("pad")

    @property
    def filler(self) -> int:
        """The id that fills short rows where a mask hides them: any, where there is none to pad."""
        return self._parts.roles.get("pad", 0)

    @property
    def start(self) -> int:
        """The id that begins a sequence: of decoding, or of an encoder's input (BERT's [CLS])."""
        return self._role("start")

    @property
    def stop(self) -> int:
        """The id that ends a sequence (BERT's [SEP])."""
        return self._role("stop")

    @property
    def unknown(self) -> int:
        """The id of what the vocabulary does not have; byte-level BPE never uses it."""
        return self._role("unknown")

    @property
    def mask(self) -> int:
        """The id of a place whose token is asked for, in masked language modelling."""
        return self._role("mask")

    def id_of(self, token: str) -> int:
        """The id of a token by its name in the vocabulary, such as T5's "<extra_id_0>".

        Raises:
            VocabularyError: the vocabulary does not have it.
        """
        i = self._vocabulary.id(token)
        if i is None:
            raise VocabularyError(f"{token!r} is none of the {self.vocab_size} tokens")
        return i

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start and stop."""
        return self._vocabulary.encode(text)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, not padded."""
        return self._vocabulary.encode_batch(texts)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """The ids of a text, and for each the characters that it stands for: text[first:end].

        A token that begins with a space may count it in. Where a character has several tokens, as
        an emoji in bytes, either all of them have it or only the last.
        """
        return self._vocabulary.spans(text)

    def add_special_tokens(
        self, first: Sequence[int], second: Sequence[int] | None = None
    ) -> ModelInput:
        """Put the family's special tokens around one encoded text, or around and between two.

        BERT: [CLS] a [SEP] b [SEP], b and what follows in segment 1; RoBERTa: <s> a </s></s> b
        </s>; T5: a </s> b </s>; mBART: a </s> en_XX; Llama: <s> a; GPT-2 and tokenizers that were
        trained here: a.
        """
        return self._parts.template.add_special_tokens(first, second)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first `stop`, without special tokens.

        A `start` that comes first is passed over: it may be the same token as `stop`, as in GPT-2.

        Raises:
            VocabularyError: an id that the vocabulary does not have.
        """
        ids, roles = list(ids), self._parts.roles
        if ids and ids[0] == roles.get("start"):
            ids = ids[1:]
        kept = list(takewhile(lambda i: i != roles.get("stop"), ids))
        for i in kept:
            self._token(i)  # the library would leave an unknown id out in silence
        return self._vocabulary.decode([i for i in kept if i not in self._vocabulary.special])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Each id as a label to read: its text where it has one, else its name in the vocabulary.

        Raises:
            VocabularyError: an id that the vocabulary does not have.
        """
        return [self._token(i) and self._vocabulary.label(i) for i in ids]

    @classmethod
    def _trained(cls, tokenizer: tokenizers.Tokenizer) -> "Tokenizer":
        return cls(
            Parts(
                vocabulary=LibraryVocabulary(tokenizer),
                roles=known_ids(OURS, tokenizer.token_to_id),
                template=PLAIN,
                files={
                    FILE_NAME: tokenizer.to_str(pretty=True).encode(),
                    # Else the folder of a family whose special tokens are others lends it those.
                    SETTINGS[0]: _settings().encode(),
                },
            )
        )

    def _token(self, i: int) -> str:
        token = self._vocabulary.token(i)
        if token is None:
            raise VocabularyError(
                f"id {i} is not in the vocabulary, expected 0 to {self.vocab_size - 1}: does it "
                "come from another tokenizer, or from a model with a larger vocabulary?"
            )
        return token

    def _role(self, role: str) -> int:
        if role not in self._parts.roles:
            has = ", ".join(f"{name} {i}" for name, i in self._parts.roles.items())
            raise VocabularyError(
                f"this tokenizer has no {role} token, only {has or 'none at all'}: was it made for "
                "another purpose, or saved without its tokenizer_config.json?"
            )
        return self._parts.roles[role]


def _settings() -> str:
    """A tokenizer_config.json that names our special tokens, to us and to transformers."""
    named = {ROLES[role][-1]: token for role, token in OURS.items()}
    return json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}, indent=2) + "\n"


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer of a published folder; None where it has no file of a vocabulary.

    Raises:
        DataError: a file is missing or broken, or asks for what is not implemented.
    """
    folder = Path(folder)
    if not any((folder / file).is_file() for file in VOCABULARIES):
        return None
    return Tokenizer(read_folder(folder))
