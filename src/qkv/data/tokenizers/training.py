"""Train vocabularies: characters, byte-level BPE, WordPiece and unigram."""

import io
from collections.abc import Iterable

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

from qkv.errors import ConfigError, DataError

PAD, START, STOP, UNKNOWN = SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")


def train_characters(texts: Iterable[str]) -> tokenizers.Tokenizer:
    """See `Tokenizer.train_characters`."""
    characters = sorted(set().union(*_checked(texts)))
    vocabulary = {token: i for i, token in enumerate((*SPECIALS, *characters))}
    every_character = tokenizers.Regex(r"[\s\S]")
    return _assemble(
        models.WordLevel(vocabulary, unk_token=UNKNOWN),
        pre_tokenizer=pre_tokenizers.Split(every_character, behavior="isolated"),
        decoder=decoders.Fuse(),
    )


def train_bpe(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool = False
) -> tokenizers.Tokenizer:
    """See `Tokenizer.train_bpe`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    _check_size(vocab_size, len(SPECIALS) + len(alphabet))
    tokenizer = tokenizers.Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(_checked(texts), trainer)
    return tokenizer


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, *, lowercase: bool
) -> tokenizers.Tokenizer:
    """See `Tokenizer.train_wordpiece`."""
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    texts = [normalizer.normalize_str(text) for text in _checked(texts)]
    # The trainer numbers "##a", "##b", ... in a nondeterministic order, and breaks ties by these
    # numbers. As special tokens they have a fixed order; the second tokenizer, with the same
    # vocabulary, has them as ordinary tokens.
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
    return _assemble(
        models.WordPiece(trained.get_vocab(), unk_token=UNKNOWN),
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        decoder=decoders.WordPiece(prefix="##"),
    )


def train_unigram(texts: Iterable[str], vocab_size: int) -> tokenizers.Tokenizer:
    """See `Tokenizer.train_unigram`."""
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
        max_sentence_length=2**30,  # the default silently skips long texts
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    scores = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(len(pieces))]
    # "<" is a separate piece, or the model would find its own piece "<s>" in a text.
    alone = pre_tokenizers.Split("<", behavior="isolated")
    return _assemble(
        models.Unigram(scores, unk_id=SPECIALS.index(UNKNOWN)),
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), alone]),
        decoder=decoders.Metaspace(),
    )


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
            f"vocab_size is {vocab_size}, expected at least {smallest}: the special tokens and "
            "single characters (or bytes)"
        )


def _checked(texts: Iterable[str]) -> list[str]:
    texts = list(texts)
    if not any(texts):
        raise DataError(f"cannot train a vocabulary without text: all {len(texts)} texts are empty")
    return texts


def begin_with_stop(file: bytes, stop: int) -> bytes:
    """See `Tokenizer.begin_with_stop`; takes and returns the content of tokenizer.json."""
    library = tokenizers.Tokenizer.from_str(file.decode())
    library.post_processor = TemplateProcessing(
        single=f"{STOP} $A", pair=f"{STOP} $A {STOP} $B", special_tokens=[(STOP, stop)]
    )
    return library.to_str(pretty=True).encode()
