"""The tokenizer in the metadata of a GGUF file, as the files of a published folder."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors

from qkv.data.tokenizers.folder import FILE_NAME, SETTINGS
from qkv.errors import ConfigError, DataError
from qkv.json_fields import COUNT, FLAG, NUMBER, TEXT, check_kinds, list_of, quoted, shown

START = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
# Types of tokens; those of a SentencePiece model have the same numbers.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
PADDING = "[PAD{}]"  # name of a token without text that llama.cpp adds for a row of the embedding
ROLES = {  # by their names in tokenizer_config.json
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
KINDS = {
    "add_bos_token": FLAG,
    "add_eos_token": FLAG,
    "add_space_prefix": FLAG,
    "merges": list_of(TEXT),
    "model": TEXT,
    "pre": TEXT,
    "remove_extra_whitespaces": FLAG,
    "scores": list_of(NUMBER),
    "token_type": list_of(COUNT),
    "tokens": list_of(TEXT),
    **dict.fromkeys(ROLES.values(), COUNT),
}

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True)
class Splitting:
    """How a text is split before byte pairs are merged.

    Args:
        patterns: regular expressions, each applied to the parts of the one before.
        starts: whether the start token is added unless the file says otherwise.
        ignore_merges: whether a part that is a token stays whole, even if no merges give it.
    """

    patterns: tuple[str, ...]
    starts: bool = False
    ignore_merges: bool = False


_DIGITS = Splitting((r"\p{N}", _GPT2))
# Pre-tokenizers by their names in llama.cpp (src/llama-vocab.cpp).
SPLITTINGS = {
    "default": Splitting((_GPT2,)),
    "gpt-2": Splitting((_GPT2,)),
    "smollm": _DIGITS,
    "starcoder": _DIGITS,
    "refact": _DIGITS,
    "command-r": _DIGITS,
    "llama-bpe": Splitting((_LLAMA3,), starts=True, ignore_merges=True),
    "llama3": Splitting((_LLAMA3,), starts=True, ignore_merges=True),
    "llama-v3": Splitting((_LLAMA3,), starts=True, ignore_merges=True),
    "qwen2": Splitting((_QWEN2,)),
    "deepseek-r1-qwen": Splitting((_QWEN2,)),
}


def gguf_tokenizer_files(metadata: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the files of a tokenizer, by name, with its chat template; empty if there is none.

    Raises:
        ConfigError: if its kind, or how it splits texts, is not implemented.
        DataError: if the vocabulary is broken.
    """
    own = {
        name.removeprefix(START): value
        for name, value in metadata.items()
        if name.startswith(START)
    }
    check_kinds(own, KINDS, where="tokenizer.ggml")
    kind = own.get("model", "no_vocab")
    if kind in ("no_vocab", "none"):
        return {}
    if kind not in ("gpt2", "llama"):
        raise ConfigError(
            f"tokenizer.ggml.model = {shown(kind)} is not implemented; expected gpt2 (byte-level "
            "BPE) or llama (SentencePiece)"
        )
    own = _without_padding(own)
    tokens = _tokens(own)
    roles = {role: tokens[own[name]] for role, name in ROLES.items() if name in own}
    settings: dict[str, Any] = {**roles, "clean_up_tokenization_spaces": False}
    if kind == "gpt2":
        files = {FILE_NAME: _byte_level(own, tokens, roles)}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        files = {"tokenizer.model": _sentencepiece(own, tokens)}
        settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": False}
        settings |= {
            "add_bos_token": own.get("add_bos_token", True),
            "add_eos_token": own.get("add_eos_token", False),
        }
    if isinstance(metadata.get(TEMPLATE), str):
        settings["chat_template"] = metadata[TEMPLATE]
    return files | {SETTINGS[0]: (json.dumps(settings, indent=2) + "\n").encode()}


def _without_padding(own: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the last tokens if they only stand for rows of the embedding."""
    tokens, kinds = own.get("tokens", []), own.get("token_type", [])
    n = len(tokens)
    least = max((own[name] + 1 for name in ROLES.values() if name in own), default=0)
    while n > least and len(kinds) == len(tokens) and kinds[n - 1] == UNUSED:
        if tokens[n - 1] != PADDING.format(n - 1):
            break
        n -= 1
    names = ("tokens", "token_type", "scores")
    fitting = {
        name: own[name][:n] for name in names if name in own and len(own[name]) == len(tokens)
    }
    return {**own, "tokens": tokens, **fitting}


def _tokens(own: Mapping[str, Any]) -> list[str]:
    """Return the tokens by id, after checking that all lists fit each other."""
    tokens: list[str] = own["tokens"]
    if len(set(tokens)) < max(len(tokens), 1):
        ids: dict[str, int] = {}
        twice = next((token for i, token in enumerate(tokens) if ids.setdefault(token, i) != i), "")
        raise DataError(
            f"tokenizer.ggml.tokens has {quoted(twice)} twice"
            if tokens
            else "tokenizer.ggml.tokens has no token"
        )
    for name in ("token_type", "scores"):
        if name in own and len(own[name]) != len(tokens):
            raise DataError(
                f"tokenizer.ggml.{name} has {len(own[name])} entries for {len(tokens)} tokens"
            )
    for name in ROLES.values():
        if own.get(name, 0) >= len(tokens):
            raise DataError(
                f"tokenizer.ggml.{name} = {own[name]}; expected an id below {len(tokens)}, the "
                "number of tokens"
            )
    return tokens


def _byte_level(own: Mapping[str, Any], tokens: Sequence[str], roles: Mapping[str, str]) -> bytes:
    """Return the tokenizer.json of byte-level BPE."""
    name = own.get("pre", "default")
    if name not in SPLITTINGS:
        raise ConfigError(
            f"tokenizer.ggml.pre = {shown(name)} is not implemented; expected one of "
            f"{', '.join(SPLITTINGS)}"
        )
    splitting, ids = SPLITTINGS[name], {token: i for i, token in enumerate(tokens)}
    tokenizer = _merging(own, ids, ignore_merges=splitting.ignore_merges)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(
                pre_tokenizers.Split(tokenizers.Regex(one), behavior="isolated")
                for one in splitting.patterns
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = own.get("token_type", [NORMAL] * len(tokens))
    marked = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens(sorted({*marked, *roles.values()}, key=ids.__getitem__))
    whole = [
        token for token, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED and token
    ]
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for token in whole])
    start = roles.get("bos_token") if own.get("add_bos_token", splitting.starts) else None
    end = roles.get("eos_token") if own.get("add_eos_token", False) else None
    if start or end:
        tokenizer.post_processor = _template(start, end, ids)
    return tokenizer.to_str().encode()


def _merging(
    own: Mapping[str, Any], ids: Mapping[str, int], *, ignore_merges: bool
) -> tokenizers.Tokenizer:
    if "merges" not in own:
        raise DataError("tokenizer.ggml.merges is missing; expected the merges of byte-level BPE")
    merges = []
    for merge in own["merges"]:
        left, _, right = merge.partition(" ")
        if not {left, right, left + right} <= ids.keys():
            raise DataError(
                f"tokenizer.ggml.merges has {quoted(merge)}, whose parts or result are no tokens"
            )
        merges.append((left, right))
    return tokenizers.Tokenizer(models.BPE(dict(ids), merges, ignore_merges=ignore_merges))


def _template(
    start: str | None, end: str | None, ids: Mapping[str, int]
) -> processors.TemplateProcessing:
    # A token may be called ":" or "A"; in a template it has another name.
    before, after = ["<start>"] if start else [], ["<end>"] if end else []
    first, second = ([*before, f"${one}", *after] for one in "AB")
    named = {"<start>": start, "<end>": end}
    return processors.TemplateProcessing(
        single=first,
        pair=[f"{one}:0" for one in first] + [f"{one}:1" for one in second],
        special_tokens=[
            {"id": name, "ids": [ids[token]], "tokens": [token]}
            for name, token in named.items()
            if token
        ],
    )


def _sentencepiece(own: Mapping[str, Any], tokens: Sequence[str]) -> bytes:
    """Return a SentencePiece model: BPE by scores, with bytes for unknown characters.

    The fields are those of sentencepiece_model.proto.
    """
    kinds, scores = own.get("token_type", []), own.get("scores", [])
    if len(kinds) != len(tokens) or len(scores) != len(tokens):
        raise DataError(
            "tokenizer.ggml.token_type or tokenizer.ggml.scores is missing; expected one entry "
            f"for each of the {len(tokens)} tokens"
        )
    if kinds.count(UNKNOWN) != 1 or not set(kinds) <= set(range(1, BYTE + 1)):
        raise DataError(
            f"tokenizer.ggml.token_type has {kinds.count(UNKNOWN)} unknown tokens, and types "
            f"{sorted(set(kinds))[:8]}; expected one unknown token, and types from 1 to {BYTE}"
        )
    pieces = [
        _field(1, _field(1, token.encode()) + _float(2, score) + _varint(3, kind))
        for token, score, kind in zip(tokens, scores, kinds, strict=True)
    ]
    bpe = 2
    trainer = _varint(3, bpe) + _varint(4, len(tokens)) + _varint(35, BYTE in kinds)
    trainer += _varint(40, kinds.index(UNKNOWN))
    normalizer = (
        _field(1, b"identity")
        + _varint(3, own.get("add_space_prefix", True))
        + _varint(4, own.get("remove_extra_whitespaces", False))
        + _varint(5, True)
    )
    return b"".join(pieces) + _field(2, trainer) + _field(3, normalizer)


def _number(value: int) -> bytes:
    """Encode a number as protocol buffers do: seven bits a byte, the lowest first."""
    parts = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes([*(one | 0x80 for one in parts[:-1]), parts[-1]])


def _varint(number: int, value: int) -> bytes:
    return _number(number << 3) + _number(int(value))


def _field(number: int, content: bytes) -> bytes:
    return _number(number << 3 | 2) + _number(len(content)) + content


def _float(number: int, value: float) -> bytes:
    if not math.isfinite(value):
        raise DataError(f"tokenizer.ggml.scores has {value}; expected finite numbers")
    return _number(number << 3 | 5) + struct.pack("<f", value)
