"""Build vocabularies from the files of published folders, one function per kind."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from qkv.data.tokenizers.files import read_ids, read_lines, read_merges
from qkv.data.tokenizers.languages import LANGUAGES, MORE_LANGUAGES
from qkv.data.tokenizers.pieces import (
    MarianVocabulary,
    MovedVocabulary,
    SentencePieceVocabulary,
    read_model,
)
from qkv.data.tokenizers.vocabulary import LibraryVocabulary, Vocabulary
from qkv.errors import DataError
from qkv.json_fields import quoted

FAIRSEQ_FILE = "sentencepiece.bpe.model"
BEFORE = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The input for building a vocabulary.

    Args:
        folder: folder with its files.
        settings: content of tokenizer_config.json and special_tokens_map.json.
        roles: special tokens by role: pad, start, stop, unknown and mask.
        added: ids of tokens that the folder adds to the vocabulary.
    """

    folder: Path
    settings: Mapping[str, Any]
    roles: Mapping[str, str]
    added: Mapping[str, int]


def build_wordpiece(source: Source) -> Vocabulary:
    """BERT: vocab.txt, pieces inside a word begin with "##"."""
    settings = source.settings
    ids = read_lines(source.folder / "vocab.txt")
    tokenizer = tokenizers.Tokenizer(models.WordPiece(ids, unk_token=source.roles["unknown"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=settings.get("do_lower_case", True),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),  # None: where it lowers the case
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return _library(tokenizer, ids, source, "vocab.txt")


def build_gpt2(source: Source) -> Vocabulary:
    """GPT-2: byte-level BPE of vocab.json and merges.txt."""
    return _byte_level_bpe(source, trim_offsets=False)


def build_roberta(source: Source) -> Vocabulary:
    """RoBERTa and BART: as GPT-2, but a token's offsets exclude its spaces."""
    return _byte_level_bpe(source, trim_offsets=source.settings.get("trim_offsets", True))


def _byte_level_bpe(source: Source, *, trim_offsets: bool) -> Vocabulary:
    ids = read_ids(source.folder / "vocab.json")
    merges = read_merges(source.folder / "merges.txt", ids)
    tokenizer = tokenizers.Tokenizer(models.BPE(ids, merges))
    prefix = source.settings.get("add_prefix_space", False)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    if trim_offsets:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=prefix)
    return _library(tokenizer, ids, source, "vocab.json")


def _library(
    tokenizer: tokenizers.Tokenizer, ids: Mapping[str, int], source: Source, file: str
) -> Vocabulary:
    known = {**ids, **_after(source, ids.get, len(ids))}
    _check_roles(known.get, source, file)
    special = {*source.roles.values(), *source.added}
    tokenizer.add_special_tokens(sorted(special, key=known.__getitem__))
    return LibraryVocabulary(tokenizer)


def build_t5(source: Source) -> Vocabulary:
    """T5: spiece.model, followed by sentinels."""
    return _sentencepiece(source, "spiece.model", sentinels=source.settings.get("extra_ids", 100))


def build_llama(source: Source) -> Vocabulary:
    """Llama 2 and Mistral: tokenizer.model."""
    return _sentencepiece(source, "tokenizer.model", sentinels=0)


def _sentencepiece(source: Source, file: str, *, sentinels: int) -> Vocabulary:
    model = read_model(source.folder / file)
    size = len(model)
    # Sentinels are in descending order: <extra_id_0> has the highest id.
    own = {f"<extra_id_{i}>": size + sentinels - 1 - i for i in range(sentinels)}
    vocabulary = SentencePieceVocabulary(model, own)
    after = _after(source, vocabulary.id, len(vocabulary))
    vocabulary = SentencePieceVocabulary(model, own | after)
    _check_roles(vocabulary.id, source, file)
    return vocabulary


def build_xlm_roberta(source: Source) -> Vocabulary:
    """XLM-R: sentencepiece.bpe.model, with four special tokens for its first three pieces."""
    return _fairseq(source, BEFORE, start=3)


def build_camembert(source: Source) -> Vocabulary:
    """CamemBERT: five tokens, three of them unused, before the model's "<s>"."""
    return _fairseq(
        source, ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED"), start=1
    )


def build_mbart(source: Source) -> Vocabulary:
    """mBART: as XLM-R, with the codes of 25 languages before the mask."""
    return _fairseq(source, BEFORE, start=3, after=LANGUAGES)


def build_mbart50(source: Source) -> Vocabulary:
    """mBART-50: as XLM-R, with the codes of 52 languages before the mask."""
    return _fairseq(source, BEFORE, start=3, after=LANGUAGES + MORE_LANGUAGES)


def _fairseq(
    source: Source, first: Sequence[str], *, start: int, after: Sequence[str] = ()
) -> Vocabulary:
    model = read_model(source.folder / FAIRSEQ_FILE)
    end = len(first) + len(model) - start
    own = {token: end + i for i, token in enumerate((*after, source.roles["mask"]))}
    options: dict[str, Any] = {"first": first, "unknown": 3, "start": start}
    vocabulary = MovedVocabulary(model, **options, added=own)
    added = _after(source, vocabulary.id, len(vocabulary))
    vocabulary = MovedVocabulary(model, **options, added=own | added)
    _check_roles(vocabulary.id, source, FAIRSEQ_FILE)
    return vocabulary


def build_marian(source: Source) -> tuple[Vocabulary, Vocabulary]:
    """Marian: source.spm and target.spm, which share the ids of vocab.json."""
    ids = read_ids(source.folder / "vocab.json")
    ids |= _after(source, ids.get, len(ids))
    _check_roles(ids.get, source, "vocab.json")
    special = {ids[token] for token in (*source.roles.values(), *source.added)}
    unknown = ids[source.roles["unknown"]]
    source_side, target_side = (
        MarianVocabulary(read_model(source.folder / file), ids, special, unknown)
        for file in ("source.spm", "target.spm")
    )
    return source_side, target_side


def _check_roles(find: Callable[[str], int | None], source: Source, file: str) -> None:
    for role, token in source.roles.items():
        if find(token) is None:
            raise DataError(
                f"{source.folder / file} has no {quoted(token)}, the {role} token: is the file "
                "truncated, or does it belong to another tokenizer class?"
            )


def _after(source: Source, find: Callable[[str], int | None], size: int) -> dict[str, int]:
    """Return the added tokens missing in a vocabulary of this size; their ids follow its own."""
    after: dict[str, int] = {}
    for token, i in sorted(source.added.items(), key=lambda item: item[1]):
        expected = find(token)
        if expected is None:
            expected = size + len(after)
            after[token] = i
        if i != expected:
            raise DataError(
                f"{source.folder} gives the added token {quoted(token)} id {i}, expected "
                f"{expected}: is the vocabulary truncated?"
            )
    return after
