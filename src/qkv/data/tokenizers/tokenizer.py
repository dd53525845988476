"""The tokenizer: text to ids and back, and special tokens."""

import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
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
    """Converts text to ids and back, with a vocabulary trained here or loaded from a folder.

    Encoding adds no start or stop token: add them with `add_special_tokens`, or when collating. A
    special token's name inside a text, such as "</s>", is encoded as ordinary text.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts, self._vocabulary = parts, parts.vocabulary

    @classmethod
    def train_characters(cls, texts: Iterable[str]) -> "Tokenizer":
        """Build a vocabulary of the characters (code points) of the texts, in Unicode order.

        Raises:
            DataError: there is no text.
        """
        return cls._trained(training.train_characters(texts))

    @classmethod
    def train_bpe(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = False
    ) -> "Tokenizer":
        """Train byte-pair encoding of UTF-8 bytes, which encodes every text losslessly.

        Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; on bytes: Radford et al. 2019
        (GPT-2). With `lowercase`, all texts are lowercased.

        Raises:
            ConfigError: `vocab_size` is too small for the 256 bytes and the special tokens.
            DataError: there is no text.
        """
        return cls._trained(training.train_bpe(texts, vocab_size, lowercase=lowercase))

    @classmethod
    def train_wordpiece(
        cls, texts: Iterable[str], vocab_size: int, *, lowercase: bool = True
    ) -> "Tokenizer":
        """Train WordPiece as in BERT, with "##" before a piece inside a word.

        Schuster and Nakajima 2012; BERT: Devlin et al. 2019, https://arxiv.org/abs/1810.04805.
        `lowercase` also removes accents, as in the uncased BERT.

        Raises:
            ConfigError: `vocab_size` is too small for all characters, at the start of and inside
                words.
            DataError: there is no text.
        """
        return cls._trained(training.train_wordpiece(texts, vocab_size, lowercase=lowercase))

    @classmethod
    def train_unigram(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Train a unigram language model over pieces, with "▁" at the beginning of words.

        Kudo 2018, https://arxiv.org/abs/1804.10959. It is trained by SentencePiece, because the
        trainer in `tokenizers` is not deterministic. A small corpus gives fewer pieces.

        Raises:
            ConfigError: `vocab_size` is too small for the characters of the texts.
            DataError: there is no text.
        """
        return cls._trained(training.train_unigram(texts, vocab_size))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Load the tokenizer of a published folder, or a single `tokenizer.json`.

        If the folder has a tokenizer.json, it is used. Otherwise, the tokenizer class determines
        the files: vocab.txt, vocab.json with merges.txt, or SentencePiece models.

        Raises:
            DataError: there is no tokenizer; or one of its files is missing, broken, or not
                supported.
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

    def begin_with_stop(self) -> "Tokenizer":
        """Return a tokenizer whose `add_special_tokens` puts `stop` first, as in language models.

        Only for tokenizers trained here; transformers reads the same from their files.
        """
        files = self.files
        files[FILE_NAME] = training.begin_with_stop(files[FILE_NAME], self.stop)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, name).write_bytes(content)
            return type(self).load(folder)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the files as they were loaded, each atomically.

        Args:
            path: folder; or a file with the suffix ".json", for a tokenizer that is one such file.

        Raises:
            DataError: this tokenizer cannot be written as a single file.
        """
        path = Path(path)
        if path.suffix != ".json":
            for name, content in self.files.items():
                write_atomically(path / name, content)
        elif FILE_NAME in self.files:
            write_atomically(path, self.files[FILE_NAME])
        else:
            raise DataError(
                f"{path} is a single file, but there are {', '.join(self.files)}; expected a folder"
            )

    @property
    def files(self) -> dict[str, bytes]:
        """The content of the files that `save` writes, by name."""
        return dict(self._parts.files)

    @property
    def roles(self) -> dict[str, int]:
        """The ids of special tokens by role: pad, start, stop, unknown, mask."""
        return dict(self._parts.roles)

    @property
    def library_file(self) -> bytes | None:
        """The content as a tokenizer.json, whatever the files; None for SentencePiece models."""
        own = self.files.get(FILE_NAME)
        if own is None and isinstance(self._vocabulary, LibraryVocabulary):
            return self._vocabulary.to_str().encode()
        return own

    @cached_property
    def target(self) -> "Tokenizer":
        """The tokenizer of the target language, which differs for Marian and mBART."""
        parts = of_target(self._parts)
        return self if parts is self._parts else type(self)(parts)

    def with_languages(self, source: str, target: str) -> "Tokenizer":
        """Return the same tokenizer for other languages, with which mBART marks texts.

        Args:
            source: code of the source language, such as "en_XX".
            target: code of the target language, for `target`.

        Raises:
            VocabularyError: the tokenizer does not mark languages, or not these.
        """
        if self._parts.languages is None:
            raise VocabularyError(
                f"got languages {source!r} and {target!r} for a tokenizer without languages; "
                "MBartTokenizer and MBart50Tokenizer have them"
            )
        languages = replace(self._parts.languages, source=source, target=target)
        return type(self)(mark(self._parts, languages))

    @property
    def vocab_size(self) -> int:
        """The number of ids, including special tokens."""
        return len(self._vocabulary)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of special tokens."""
        return self._vocabulary.special

    @property
    def pad(self) -> int:
        """The id that pads short rows of a batch."""
        return self._role("pad")

    @property
    def filler(self) -> int:
        """The padding id, or any id if there is none, for padding that a mask hides."""
        return self._parts.roles.get("pad", 0)

    @property
    def start(self) -> int:
        """The id that begins decoding, or an encoder's input (BERT's [CLS])."""
        return self._role("start")

    @property
    def stop(self) -> int:
        """The id that ends a sequence (BERT's [SEP])."""
        return self._role("stop")

    @property
    def unknown(self) -> int:
        """The id of unknown text; byte-level BPE never uses it."""
        return self._role("unknown")

    @property
    def mask(self) -> int:
        """The id of the mask token, for masked language modeling."""
        return self._role("mask")

    def id_of(self, token: str) -> int:
        """Return the id of a token by its name in the vocabulary, such as T5's "<extra_id_0>".

        Raises:
            VocabularyError: the vocabulary does not have it.
        """
        i = self._vocabulary.id(token)
        if i is None:
            raise VocabularyError(f"{token!r} is not one of the {self.vocab_size} tokens")
        return i

    def name_of(self, i: int) -> str:
        """Return the name of an id in the vocabulary: the inverse of `id_of`.

        Raises:
            VocabularyError: the vocabulary does not have it.
        """
        token = self._vocabulary.token(i)
        if token is None:
            raise VocabularyError(
                f"id {i} is not in the vocabulary, expected 0 to {self.vocab_size - 1}: does it "
                "come from another tokenizer, or from a model with a larger vocabulary?"
            )
        return token

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without start and stop."""
        return self._vocabulary.encode(text)

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, without padding."""
        return self._vocabulary.encode_batch(texts)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the ids of a text and the characters text[first:end] of each.

        The range of a token may include a leading space. If a character has several tokens, such as
        the bytes of an emoji, either all of them or only the last have it.
        """
        return self._vocabulary.spans(text)

    def parse(self, text: str) -> tuple[list[int], list[Span]]:
        """Return ids and characters as `encode_with_offsets`, with the special tokens in a text.

        Only for texts that a program wrote, such as a chat template: elsewhere the name of a
        special token is text like any other.
        """
        return self._vocabulary.parse(text)

    def add_special_tokens(
        self, first: Sequence[int], second: Sequence[int] | None = None
    ) -> ModelInput:
        """Add the family's special tokens to an encoded text, or to a pair.

        BERT: [CLS] a [SEP] b [SEP], with segment 1 from b on; RoBERTa: <s> a </s></s> b </s>; T5: a
        </s> b </s>; mBART: a </s> en_XX; Llama: <s> a; GPT-2 and tokenizers trained
        here: a.
        """
        return self._parts.template.add_special_tokens(first, second)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text up to the first `stop`, without special tokens.

        A leading `start` is skipped, as it may be the same token as `stop`, such as in GPT-2.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        ids, roles = list(ids), self._parts.roles
        if ids and ids[0] == roles.get("start"):
            ids = ids[1:]
        kept = list(takewhile(lambda i: i != roles.get("stop"), ids))
        for i in kept:
            self.name_of(i)  # the library would silently skip an unknown id
        return self._vocabulary.decode([i for i in kept if i not in self._vocabulary.special])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Return a readable label of each id: its text if it has one, else its name.

        Raises:
            VocabularyError: an id is not in the vocabulary.
        """
        return [self.name_of(i) and self._vocabulary.label(i) for i in ids]

    @classmethod
    def _trained(cls, tokenizer: tokenizers.Tokenizer) -> "Tokenizer":
        return cls(
            Parts(
                vocabulary=LibraryVocabulary(tokenizer),
                roles=known_ids(OURS, tokenizer.token_to_id),
                template=PLAIN,
                files={
                    FILE_NAME: tokenizer.to_str(pretty=True).encode(),
                    # Otherwise it would get the special tokens of the folder's family.
                    SETTINGS[0]: _settings().encode(),
                },
            )
        )

    def _role(self, role: str) -> int:
        if role not in self._parts.roles:
            has = ", ".join(f"{name} {i}" for name, i in self._parts.roles.items())
            raise VocabularyError(
                f"this tokenizer has no {role} token, only {has or 'none'}: was it made for "
                "another purpose, or saved without its tokenizer_config.json?"
            )
        return self._parts.roles[role]


def _settings() -> str:
    """Return a tokenizer_config.json with our special tokens, also for transformers."""
    named = {ROLES[role][-1]: token for role, token in OURS.items()}
    return json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}, indent=2) + "\n"


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer | None:
    """Load the tokenizer of a published folder; None if it has no vocabulary.

    Raises:
        DataError: a file is missing, broken, or not supported.
    """
    folder = Path(folder)
    if not any((folder / file).is_file() for file in VOCABULARIES):
        return None
    return Tokenizer(read_folder(folder))
