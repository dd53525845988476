"""The metadata of a GGUF file for a tokenizer: the inverse of `gguf_tokenizer_files`."""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from qkv.data.tokenizers.folder import SETTINGS
from qkv.data.tokenizers.gguf import (
    CONTROL,
    NORMAL,
    PADDING,
    SPLITTINGS,
    START,
    TEMPLATE,
    UNUSED,
    USER_DEFINED,
    Splitting,
)
from qkv.data.tokenizers.tokenizer import Tokenizer
from qkv.errors import ConfigError
from qkv.json_fields import shown

PIECES = "tokenizer.model"
GPT2 = SPLITTINGS["gpt-2"].patterns[0]
WHAT = "byte-level BPE (GPT-2, Llama 3, Qwen2) or SentencePiece BPE (Llama 2, Mistral)"
ADDED_SCORE = -1000.0  # as llama.cpp's converters give to tokens that are no pieces
BPE = 2  # types of SentencePiece models; the default is 1, unigram


class Written(NamedTuple):
    """A tokenizer in GGUF.

    Args:
        metadata: its metadata.
        start: the token that begins a text, if one is added.
        end: the token that ends a text, if one is added.
        left_out: what GGUF does not have.
    """

    metadata: dict[str, Any]
    start: int | None
    end: int | None
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Entries:
    """Tokens, their types and, for pieces, their scores, by id; and further fields."""

    tokens: list[str]
    kinds: list[int]
    scores: list[float]
    fields: Mapping[str, Any]


def write_gguf_tokenizer(tokenizer: Tokenizer, n_rows: int) -> Written:
    """Return the metadata of a GGUF file for a tokenizer.

    Args:
        tokenizer: the tokenizer.
        n_rows: rows of the embedding; tokens without text are added up to this number.

    Raises:
        ConfigError: if GGUF cannot express the tokenizer.
    """
    library = json.loads(tokenizer.library_file or b"{}")
    left_out: list[str] = []
    if _ends_in_bytes(library):
        entries = _byte_level(library, left_out)
    elif PIECES in tokenizer.files:
        entries = _pieces(tokenizer)
    else:
        kind = (library.get("model") or {}).get("type", "another kind")
        raise ConfigError(
            f"the tokenizer ({shown(kind)}) cannot be written as GGUF; expected {WHAT}"
        )
    n_added = max(0, n_rows - len(entries.tokens))
    first = len(entries.tokens)
    fields = {
        **entries.fields,
        "tokens": entries.tokens + [PADDING.format(first + i) for i in range(n_added)],
        "token_type": entries.kinds + [UNUSED] * n_added,
    }
    if entries.scores:
        fields["scores"] = entries.scores + [ADDED_SCORE] * n_added
    if (unknown := tokenizer.roles.get("unknown")) is not None:
        fields["unknown_token_id"] = unknown
    start, end = _added(tokenizer)
    fields |= {"add_bos_token": start is not None, "add_eos_token": end is not None}
    metadata = {START + name: value for name, value in fields.items()}
    return Written(metadata | _template(tokenizer.files, left_out), start, end, tuple(left_out))


def _added(tokenizer: Tokenizer) -> tuple[int | None, int | None]:
    """Return the tokens that are added before and after a text."""
    row = tokenizer.add_special_tokens([0])
    at = row.sequence.index(0)
    before, after = row.ids[:at], row.ids[at + 1 :]
    if len(before) > 1 or len(after) > 1:
        raise ConfigError(
            f"the tokenizer adds {len(before)} tokens before a text and {len(after)} after it, "
            "which GGUF cannot express; expected at most one each"
        )
    return (before or [None])[0], (after or [None])[0]


def _template(files: Mapping[str, bytes], left_out: list[str]) -> dict[str, str]:
    """Return the chat template, which has its own file or is in the settings."""
    if "chat_template.jinja" in files:
        return {TEMPLATE: files["chat_template.jinja"].decode()}
    found = json.loads(files.get(SETTINGS[0], b"{}")).get("chat_template")
    if isinstance(found, list):
        by_name = {str(one.get("name")): one.get("template") for one in found}
        left_out += [f"chat template {name!r}" for name in by_name if name != "default"]
        found = by_name.get("default")
    return {TEMPLATE: found} if isinstance(found, str) else {}


def _ends_in_bytes(library: Mapping[str, Any]) -> bool:
    stages = _stages(library.get("pre_tokenizer"))
    return bool(stages) and stages[-1].get("type") == "ByteLevel"


def _stages(stage: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the steps of a pre-tokenizer or normalizer, in order."""
    if stage is None:
        return []
    if stage.get("type") != "Sequence":
        return [stage]
    parts = stage.get("pretokenizers") or stage.get("normalizers") or []
    return [one for part in parts for one in _stages(part)]


def _byte_level(library: Mapping[str, Any], left_out: list[str]) -> _Entries:
    """Return the tokens of byte-level BPE, and the name of its splitting."""
    model = library["model"]
    for stage in _stages(library.get("normalizer")):
        if stage.get("type") != "NFC":
            raise ConfigError(
                f"the tokenizer's normalizer {shown(stage)} cannot be written as GGUF; expected "
                "none"
            )
        left_out.append("the normalization NFC, which llama.cpp does not do before encoding")
    unusual = {
        name: model[name]
        for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
        if model.get(name)
    }
    if model.get("type") != "BPE" or unusual or not model.get("merges"):
        raise ConfigError(
            f"the tokenizer's model is {shown(model.get('type'))} with {shown(unusual)} and "
            f"{len(model.get('merges', ()))} merges, which cannot be written as GGUF; expected "
            f"{WHAT}"
        )
    ignore_merges = bool(model.get("ignore_merges"))
    tokens: dict[int, str] = {i: token for token, i in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for added in library.get("added_tokens", ()):
        tokens[added["id"]] = added["content"]
        kinds[added["id"]] = CONTROL if added["special"] else USER_DEFINED
        trims = [name for name in ("lstrip", "rstrip", "single_word") if added.get(name)]
        if trims and not added["special"]:
            raise ConfigError(
                f"the added token {shown(added['content'])} has {', '.join(trims)}, which GGUF "
                "cannot express; expected a token that is found anywhere as it is"
            )
    ids = range(max(tokens, default=-1) + 1)
    pre = _name(_splitting(_stages(library["pre_tokenizer"]), ignore_merges=ignore_merges))
    merges = [one if isinstance(one, str) else " ".join(one) for one in model["merges"]]
    return _Entries(
        [tokens.get(i, PADDING.format(i)) for i in ids],
        [kinds.get(i, UNUSED) for i in ids],
        [],
        {"model": "gpt2", "pre": pre, "merges": merges},
    )


def _splitting(stages: Sequence[Mapping[str, Any]], *, ignore_merges: bool) -> Splitting | None:
    """Return how a text is split; None for a step that GGUF has no name for."""
    patterns = []
    for stage in stages[:-1]:
        kind, pattern = stage.get("type"), stage.get("pattern") or {}
        how = str(stage.get("behavior")).lower(), bool(stage.get("invert"))
        if kind == "Digits" and stage.get("individual_digits"):
            patterns.append(r"\p{N}")
        elif (
            kind == "Split"
            and "Regex" in pattern
            and how
            in (
                ("isolated", False),
                ("removed", True),
            )
        ):
            patterns.append(pattern["Regex"])
        else:
            return None
    if stages[-1].get("add_prefix_space"):
        return None
    patterns += [GPT2] if stages[-1].get("use_regex", True) else []
    return Splitting(tuple(patterns), ignore_merges=ignore_merges)


def _name(found: Splitting | None) -> str:
    known = {name: one for name, one in SPLITTINGS.items() if name != "default"}
    for name, one in known.items():
        if replace(one, starts=False) == found:
            return name
    described = "a step of another kind" if found is None else shown(found.patterns)
    raise ConfigError(
        f"the tokenizer splits texts by {described}, for which GGUF has no name here; expected the "
        f"splitting of {', '.join(known)}"
    )


def _pieces(tokenizer: Tokenizer) -> _Entries:
    """Return the pieces of a SentencePiece model, and the special tokens after them."""
    model: dict[int, list[Any]] = {}
    for number, value in _fields(tokenizer.files[PIECES]):
        model.setdefault(number, []).append(value)
    trainer, normalizer = (
        {name: value for part in model.get(number, ()) for name, value in _fields(part)}
        for number in (2, 3)
    )
    if trainer.get(3, 1) != BPE or normalizer.get(2) or trainer.get(24):
        raise ConfigError(
            "the SentencePiece model is not BPE, or has a table of normalized characters, which "
            f"cannot be written as GGUF here; expected {WHAT}"
        )
    pieces = [dict(_fields(part)) for part in model.get(1, ())]
    tokens = [piece[1].decode() for piece in pieces]
    added = range(len(tokens), tokenizer.vocab_size)
    names = [tokenizer.tokens([i])[0] for i in added]
    return _Entries(
        tokens + names,
        [piece.get(3, NORMAL) for piece in pieces] + [CONTROL] * len(names),
        [piece.get(2, 0.0) for piece in pieces] + [ADDED_SCORE] * len(names),
        {
            "model": "llama",
            "add_space_prefix": bool(normalizer.get(3, True)),
            "remove_extra_whitespaces": bool(normalizer.get(4, True)),
        },
    )


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the numbers and values of the fields of a message of protocol buffers."""
    at = 0
    while at < len(content):
        tag, at = _varint(content, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(content, at)
        elif wire == 2:
            n, at = _varint(content, at)
            value, at = content[at : at + n], at + n
        elif wire == 5:
            (value,) = struct.unpack_from("<f", content, at)
            at += 4
        else:
            (value,) = struct.unpack_from("<d", content, at)
            at += 8
        yield number, value


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """Return a number, seven bits a byte from the lowest on, and the place after it."""
    value = shift = 0
    while True:
        byte, at = content[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
