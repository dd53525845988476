"""Which files a published tokenizer is made of, what it does with them, and its special tokens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from qkv.data.tokenizers.files import read_ids, read_lines, read_merges
from qkv.data.tokenizers.pieces import MarianVocabulary, SentencePieceVocabulary, read_model
from qkv.data.tokenizers.vocabulary import LibraryVocabulary, Vocabulary
from qkv.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a vocabulary is built from.

    Args:
        folder: where its files are.
        settings: tokenizer_config.json and special_tokens_map.json.
        roles: special tokens, by pad, start, stop, unknown and mask.
        added: tokens that the folder adds to the vocabulary, and their ids.
    """

    folder: Path
    settings: Mapping[str, Any]
    roles: Mapping[str, str]
    added: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A tokenizer class, as tokenizer_config.json names it.

    Args:
        files: what its folder must have where there is no tokenizer.json.
        build: the vocabulary, or that of the source and that of the target.
        roles: its special tokens, where the folder names no others.
        single: what stands around one sequence, as `Template.parse` reads it.
        pair: what stands around two.
        flagged: `add_bos_token` and `add_eos_token` of the folder say what stands around.
        only: settings of which only these values are implemented; absent is one of them.
    """

    files: tuple[str, ...]
    build: Callable[[Source], Vocabulary | tuple[Vocabulary, Vocabulary]]
    roles: Mapping[str, str]
    single: str
    pair: str
    flagged: bool = False
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


def _wordpiece(source: Source) -> Vocabulary:
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


def _gpt2(source: Source) -> Vocabulary:
    return _byte_level_bpe(source, trim_offsets=False)


def _roberta(source: Source) -> Vocabulary:
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


def _clip(source: Source) -> Vocabulary:
    """Radford et al. 2021, https://arxiv.org/abs/2103.00020: lower case, "</w>" ends a word."""
    ids = read_ids(source.folder / "vocab.json")
    merges = read_merges(source.folder / "merges.txt", ids)
    unknown = source.roles["unknown"]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(ids, merges, unk_token=unknown, end_of_word_suffix="</w>")
    )
    one_space = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), one_space, normalizers.Lowercase()]
    )
    words = tokenizers.Regex(
        r"<\|startoftext\|>|<\|endoftext\|>|"  # of a text too, where they become no special tokens
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return _library(tokenizer, ids, source, "vocab.json")


def _library(
    tokenizer: tokenizers.Tokenizer, ids: Mapping[str, int], source: Source, file: str
) -> Vocabulary:
    known = {**source.added, **ids}
    _check_roles(known.get, source, file)
    special = {*source.roles.values(), *source.added}
    tokenizer.add_special_tokens(sorted(special, key=known.__getitem__))
    _check_added(tokenizer.token_to_id, source)
    return LibraryVocabulary(tokenizer)


def _t5(source: Source) -> Vocabulary:
    return _sentencepiece(source, "spiece.model", sentinels=source.settings.get("extra_ids", 100))


def _llama(source: Source) -> Vocabulary:
    return _sentencepiece(source, "tokenizer.model", sentinels=0)


def _sentencepiece(source: Source, file: str, *, sentinels: int) -> Vocabulary:
    model = read_model(source.folder / file)
    size = len(model)
    # The last sentinel comes first: <extra_id_0> is the highest id.
    added = {f"<extra_id_{i}>": size + sentinels - 1 - i for i in range(sentinels)}
    added |= {token: i for token, i in source.added.items() if i >= size}
    vocabulary = SentencePieceVocabulary(model, added)
    _check_roles(vocabulary.id, source, file)
    _check_added(vocabulary.id, source)
    return vocabulary


def _marian(source: Source) -> tuple[Vocabulary, Vocabulary]:
    ids = {**source.added, **read_ids(source.folder / "vocab.json")}
    _check_roles(ids.get, source, "vocab.json")
    _check_added(ids.get, source)
    special = {role: ids[token] for role, token in source.roles.items()}
    source_side, target_side = (
        MarianVocabulary(
            read_model(source.folder / file), ids, special.values(), special["unknown"]
        )
        for file in ("source.spm", "target.spm")
    )
    return source_side, target_side


def _check_roles(find: Callable[[str], int | None], source: Source, file: str) -> None:
    for role, token in source.roles.items():
        if find(token) is None:
            raise DataError(
                f"{source.folder / file} has no {token!r}, the {role} token: is the file cut "
                "short, or of another class of tokenizers?"
            )


def _check_added(find: Callable[[str], int | None], source: Source) -> None:
    for token, i in source.added.items():
        if find(token) != i:
            raise DataError(
                f"{source.folder} gives {token!r} id {i}, but after its vocabulary that token has "
                f"id {find(token)}: is the vocabulary cut short?"
            )


_BERT = Family(
    files=("vocab.txt",),
    build=_wordpiece,
    roles={
        "pad": "[PAD]",
        "start": "[CLS]",
        "stop": "[SEP]",
        "unknown": "[UNK]",
        "mask": "[MASK]",
    },
    single="start A stop",
    pair="start A stop B:1 stop:1",
    only={"do_basic_tokenize": (True,), "never_split": (None, [])},
)
_ROBERTA = Family(
    files=("vocab.json", "merges.txt"),
    build=_roberta,
    roles={"pad": "<pad>", "start": "<s>", "stop": "</s>", "unknown": "<unk>", "mask": "<mask>"},
    single="start A stop",
    pair="start A stop stop B stop",
)
_END = "<|endoftext|>"
FAMILIES = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": _BERT,
    "RobertaTokenizer": _ROBERTA,
    "BartTokenizer": _ROBERTA,
    "GPT2Tokenizer": Family(
        files=("vocab.json", "merges.txt"),
        build=_gpt2,
        roles={"start": _END, "stop": _END, "unknown": _END},
        single="A",
        pair="A B:1",
        flagged=True,
    ),
    "CLIPTokenizer": Family(
        files=("vocab.json", "merges.txt"),
        build=_clip,
        roles={"pad": _END, "start": "<|startoftext|>", "stop": _END, "unknown": _END},
        single="start A stop",
        pair="start A stop stop B stop",
    ),
    "T5Tokenizer": Family(
        files=("spiece.model",),
        build=_t5,
        roles={"pad": "<pad>", "start": "<pad>", "stop": "</s>", "unknown": "<unk>"},
        single="A stop",
        pair="A stop B stop",
        only={"sp_model_kwargs": (None, {})},
    ),
    "LlamaTokenizer": Family(
        files=("tokenizer.model",),
        build=_llama,
        roles={"start": "<s>", "stop": "</s>", "unknown": "<unk>"},
        single="start A",
        pair="start A start:1 B:1",
        flagged=True,
        only={"sp_model_kwargs": (None, {}), "add_prefix_space": (None, True)},
    ),
    "MarianTokenizer": Family(
        files=("source.spm", "target.spm", "vocab.json"),
        build=_marian,
        roles={"pad": "<pad>", "start": "<pad>", "stop": "</s>", "unknown": "<unk>"},
        single="A stop",
        pair="A B stop",
        only={"sp_model_kwargs": (None, {}), "separate_vocabs": (None, False)},
    ),
}
# For folders whose tokenizer_config.json names no class.
OF_MODEL = {
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "BartTokenizer",
    "gpt2": "GPT2Tokenizer",
    "clip": "CLIPTokenizer",
    "t5": "T5Tokenizer",
    "llama": "LlamaTokenizer",
    "mistral": "LlamaTokenizer",
    "marian": "MarianTokenizer",
}
# For folders that have no config.json either: the file that only one kind has.
OF_FILE = {
    "vocab.txt": "BertTokenizer",
    "merges.txt": "GPT2Tokenizer",
    "source.spm": "MarianTokenizer",
    "spiece.model": "T5Tokenizer",
    "tokenizer.model": "LlamaTokenizer",
}
