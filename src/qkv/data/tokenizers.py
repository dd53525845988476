"""One tokenizer for every vocabulary: characters, byte-level BPE, WordPiece and unigram."""

import io
import os
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from qkv.errors import ConfigError, DataError, VocabularyError
from qkv.files import write_atomically

PAD, START, STOP, UNKNOWN = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
FILE_NAME = "tokenizer.json"


class Tokenizer:
    """Text to ids and back, over a `tokenizers.Tokenizer` and its `tokenizer.json`.

    Encoding adds no start and no stop token: whoever makes the batch does. A special token's name
    that stands in a text, such as "</s>", is ordinary text.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A file may ask for padding and cutting; here batches pad, and what is too long raises.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # no one can type a token

    @classmethod
    def train_characters(cls, texts: Iterable[str]) -> "Tokenizer":
        """A vocabulary of the characters (code points) of the texts, in the order of Unicode.

        Raises:
            DataError: there is no text.
        """
        characters = sorted(set().union(*_checked(texts)))
        vocabulary = {token: i for i, token in enumerate((*SPECIALS, *characters))}
        every_character = tokenizers.Regex(r"[\s\S]")
        tokenizer = _assemble(
            models.WordLevel(vocabulary, unk_token=UNKNOWN),
            pre_tokenizer=pre_tokenizers.Split(every_character, behavior="isolated"),
            decoder=decoders.Fuse(),
        )
        return cls(tokenizer)

    @classmethod
    def train_bpe(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Byte-pair encoding of UTF-8 bytes: no text is unknown, decoding gives it back exactly.

        Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; of bytes: Radford et al. 2019
        (GPT-2).

        Raises:
            ConfigError: `vocab_size` cannot hold the 256 bytes and the special tokens.
            DataError: there is no text.
        """
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        _check_size(vocab_size, len(SPECIALS) + len(alphabet))
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIALS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(_checked(texts), trainer)
        return cls(tokenizer)

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
        normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        texts = [normalizer.normalize_str(text) for text in _checked(texts)]
        # The trainer numbers "##a", "##b", ... in an order that changes with each run, and breaks
        # ties by these numbers. As special tokens they have a fixed order; the second tokenizer,
        # with the same vocabulary, has them as ordinary ones.
        words = {word for text in texts for word, _ in pre_tokenizer.pre_tokenize_str(text)}
        inside = {f"##{character}" for word in words for character in word[1:]}
        tokens = [*SPECIALS, *sorted(set().union(*words)), *sorted(inside)]
        _check_size(vocab_size, len(tokens))
        trained = tokenizers.Tokenizer(models.WordPiece(unk_token=UNKNOWN))
        trained.pre_tokenizer = pre_tokenizer
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab_size, special_tokens=tokens, show_progress=False
        )
        trained.train_from_iterator(texts, trainer)
        tokenizer = _assemble(
            models.WordPiece(trained.get_vocab(), unk_token=UNKNOWN),
            normalizer=normalizer,
            pre_tokenizer=pre_tokenizer,
            decoder=decoders.WordPiece(prefix="##"),
        )
        return cls(tokenizer)

    @classmethod
    def train_unigram(cls, texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """The unigram language model over pieces, "▁" where a word begins.

        Kudo 2018, https://arxiv.org/abs/1804.10959. Trained by SentencePiece, because the result of
        the trainer in `tokenizers` changes with each run. A small corpus gives fewer pieces.

        Raises:
            ConfigError: `vocab_size` cannot hold the characters of the texts.
            DataError: there is no text.
        """
        normalizer = normalizers.NFKC()
        texts = [normalizer.normalize_str(text) for text in _checked(texts)]
        _check_size(vocab_size, len(SPECIALS) + len(set("▁").union(*texts) - {" "}))
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=trained,
            vocab_size=vocab_size,
            model_type="unigram",
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            normalization_rule_name="identity",  # done above, and by the tokenizer
            character_coverage=1.0,
            hard_vocab_limit=False,
            max_sentence_length=2**30,  # the default leaves long texts out without a word
            minloglevel=2,
        )
        pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
        scores = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
        # "<" stands alone, or the model would find its own piece "<s>" in a text.
        alone = pre_tokenizers.Split("<", behavior="isolated")
        tokenizer = _assemble(
            models.Unigram(scores, unk_id=SPECIALS.index(UNKNOWN)),
            normalizer=normalizer,
            pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), alone]),
            decoder=decoders.Metaspace(),
        )
        return cls(tokenizer)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Read a `tokenizer.json`, given the file or the folder that holds it.

        Raises:
            DataError: there is no such file, or it describes no tokenizer.
        """
        file = _file(path)
        if not file.is_file():
            raise DataError(f"no tokenizer at {file}: expected {FILE_NAME} or a folder with it")
        try:
            return cls(tokenizers.Tokenizer.from_buffer(file.read_bytes()))
        except Exception as error:  # the library raises nothing narrower
            raise DataError(
                f"{file} is not a tokenizer: expected JSON of the `tokenizers` library ({error})"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `path` if it ends in ".json", else `path/tokenizer.json`, atomically."""
        write_atomically(_file(path), self._tokenizer.to_str(pretty=True))

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included."""
        return self._tokenizer.get_vocab_size()

    @property
    def pad(self) -> int:
        """The id that fills short rows of a batch."""
        return self._special(PAD)

    @property
    def start(self) -> int:
        """The id from which decoding starts."""
        return self._special(START)

    @property
    def stop(self) -> int:
        """The id that ends a sequence."""
        return self._special(STOP)

    @property
    def unknown(self) -> int:
        """The id of what the vocabulary does not have; byte-level BPE never uses it."""
        return self._special(UNKNOWN)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start and stop."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """The ids of each text, not padded."""
        batch = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first `stop`, without special tokens.

        Raises:
            VocabularyError: an id that the vocabulary does not have.
        """
        stop = self.stop
        kept = list(takewhile(lambda i: i != stop, ids))
        for i in kept:
            self._name(i)  # the library would leave an unknown id out in silence
        return self._tokenizer.decode(kept, skip_special_tokens=True)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """Each id as a label to read: its text where it has one, else its name in the vocabulary.

        Raises:
            VocabularyError: an id that the vocabulary does not have.
        """
        return [self._label(i) for i in ids]

    def _label(self, i: int) -> str:
        name = self._name(i)
        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return name
        # Byte-level names spell bytes as letters ("Ġ" is a space); part of a character has no text.
        text = self._tokenizer.decode([i], skip_special_tokens=False)
        return name if "\ufffd" in text else text

    def _name(self, i: int) -> str:
        name = self._tokenizer.id_to_token(i) if i >= 0 else None
        if name is None:
            raise VocabularyError(
                f"id {i} is not in the vocabulary, expected 0 to {self.vocab_size - 1}: does it "
                "come from another tokenizer, or from a model with a larger vocabulary?"
            )
        return name

    def _special(self, token: str) -> int:
        i = self._tokenizer.token_to_id(token)
        if i is None:
            raise VocabularyError(
                f"this vocabulary has no {token!r}: expected the special tokens "
                f"{', '.join(SPECIALS)} (was the tokenizer made elsewhere?)"
            )
        return i


def _assemble(
    model: models.Model,
    *,
    normalizer: normalizers.Normalizer | None = None,
    pre_tokenizer: pre_tokenizers.PreTokenizer,
    decoder: decoders.Decoder,
) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def _check_size(vocab_size: int, smallest: int) -> None:
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size is {vocab_size}, expected at least {smallest}: so many special tokens and "
            "single characters (or bytes) there are before the first longer piece"
        )


def _file(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE_NAME


def _checked(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    if not any(texts):
        raise DataError(f"no vocabulary without text: {len(texts)} texts are given, all empty")
    return texts
