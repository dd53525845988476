"""Read the tokenizers of published folders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from qkv.data.tokenizers.builders import Source
from qkv.data.tokenizers.families import FAMILIES, OF_FILE, OF_MODEL, Family
from qkv.data.tokenizers.files import read_text
from qkv.data.tokenizers.special_tokens import PLAIN, Template
from qkv.data.tokenizers.training import PAD, START, STOP, UNKNOWN
from qkv.data.tokenizers.vocabulary import LibraryVocabulary, Vocabulary
from qkv.errors import DataError, VocabularyError
from qkv.json_fields import (
    COUNT,
    FLAG,
    NULL,
    NUMBER,
    OBJECT,
    TEXT,
    Kind,
    check_kinds,
    list_of,
    object_of,
    quoted,
    read_json,
    shown,
    whole,
)

FILE_NAME = "tokenizer.json"
VOCABULARIES = frozenset((FILE_NAME, *(file for one in FAMILIES.values() for file in one.files)))
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
TOKENIZER_FILES = VOCABULARIES | {*SETTINGS, "chat_template.jinja"}
ROLES = {  # by their names in the settings
    "pad": ("pad_token",),
    "start": ("cls_token", "bos_token"),
    "stop": ("sep_token", "eos_token"),
    "unknown": ("unk_token",),
    "mask": ("mask_token",),
}
TOKEN = TEXT | Kind(
    "an object whose content is a string",
    lambda one: isinstance(one, dict) and isinstance(one.get("content"), str),
)
ADDED = Kind(
    "an object from ids to tokens, each an object whose content is a string",
    lambda one: (
        isinstance(one, dict)
        and all(key.isascii() and key.isdecimal() and len(key) < 10 for key in one)
        and all(isinstance(token, dict) and TOKEN.fits(token) for token in one.values())
    ),
)
KINDS = {
    **{name: TOKEN | NULL for names in ROLES.values() for name in names},
    "add_bos_token": FLAG | NULL,
    "add_eos_token": FLAG | NULL,
    "add_prefix_space": FLAG | NULL,
    "added_tokens_decoder": ADDED | NULL,
    "additional_special_tokens": list_of(TOKEN) | NULL,
    "chat_template": TEXT | list_of(OBJECT) | OBJECT | NULL,
    "do_lower_case": FLAG,
    "extra_ids": whole(0, 100_000),
    "model_max_length": NUMBER | NULL,
    "src_lang": TEXT | NULL,
    "strip_accents": FLAG | NULL,
    "tgt_lang": TEXT | NULL,
    "tokenize_chinese_chars": FLAG,
    "tokenizer_class": TEXT | NULL,
    "trim_offsets": FLAG,
}
OURS = {"pad": PAD, "start": START, "stop": STOP, "unknown": UNKNOWN}


@dataclass(frozen=True, kw_only=True)
class Languages:
    """The languages with which texts are marked.

    Args:
        family: determines the position of the mark.
        source: code of the source language, such as "en_XX".
        target: code of the target language.
    """

    family: Family
    source: str
    target: str


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a `Tokenizer`.

    Args:
        vocabulary: converts text to ids and back.
        roles: ids of the available roles: pad, start, stop, unknown and mask.
        template: template of single sequences and pairs.
        files: content by file name, to be written back.
        target: vocabulary of the target language, if it differs.
        languages: languages of a tokenizer that marks texts with them.
    """

    vocabulary: Vocabulary
    roles: Mapping[str, int]
    template: Template
    files: Mapping[str, bytes]
    target: Vocabulary | None = None
    languages: Languages | None = None


def read_file(file: Path) -> Parts:
    """Read a single tokenizer.json.

    Raises:
        DataError: there is no such file, or it is not a tokenizer.
    """
    return replace(_from_json(file, {}, None), files={FILE_NAME: file.read_bytes()})


def read_folder(folder: Path) -> Parts:
    """Read the tokenizer of a published folder.

    Raises:
        DataError: a file is missing, broken, or not supported.
    """
    settings = {}
    for file in (folder / SETTINGS[1], folder / SETTINGS[0]):
        content = read_json(file, missing_ok=True, unique=True)
        check_kinds(content, KINDS, where=str(file))
        settings |= content
    name = _class(folder, settings)
    family = FAMILIES.get(name or "")
    if (folder / FILE_NAME).exists():
        parts = _from_json(folder / FILE_NAME, settings, family)
    elif name in FAMILIES:
        parts = _from_vocabulary(folder, settings, name)
    else:
        raise DataError(
            f"{folder} has no {FILE_NAME}, and its tokenizer class is {shown(name)}; without one, "
            f"expected one of {', '.join(FAMILIES)}"
        )
    if family is not None and family.language is not None:
        source = settings.get("src_lang") or family.language
        target = settings.get("tgt_lang") or source
        parts = mark(parts, Languages(family=family, source=source, target=target))
    belonging = [path for path in sorted(folder.glob("*")) if path.name in TOKENIZER_FILES]
    for path in belonging:
        if not path.is_file():
            raise DataError(f"{path} cannot be read: it is not a file, or a broken link")
    return replace(parts, files={path.name: path.read_bytes() for path in belonging})


def known_ids(roles: Mapping[str, str], id_of: Callable[[str], int | None]) -> dict[str, int]:
    """Return the id of each role's token, for tokens in the vocabulary."""
    return {role: i for role, token in roles.items() if (i := id_of(token)) is not None}


def mark(parts: Parts, languages: Languages) -> Parts:
    """Mark texts with their languages.

    Raises:
        VocabularyError: the vocabulary has no such language.
    """
    single, pair = languages.family.single, languages.family.pair
    template = Template.parse(single, pair, _ids(parts, languages))
    _language_id(parts, languages, languages.target)
    return replace(parts, template=template, languages=languages)


def of_target(parts: Parts) -> Parts:
    """Return the parts for the target: Marian has another vocabulary for it, mBART another mark."""
    if parts.target is not None:
        return replace(parts, vocabulary=parts.target)
    if parts.languages is None:
        return parts
    languages = replace(parts.languages, source=parts.languages.target)
    start = _ids(parts, languages)[languages.family.target_start]
    return mark(replace(parts, roles={**parts.roles, "start": start}), languages)


def _ids(parts: Parts, languages: Languages) -> dict[str, int]:
    return {**parts.roles, "language": _language_id(parts, languages, languages.source)}


def _language_id(parts: Parts, languages: Languages, code: str) -> int:
    i = parts.vocabulary.id(code)
    if i is None:
        raise VocabularyError(
            f"the vocabulary has no language {code!r}; expected a code such as "
            f"{languages.family.language!r}"
        )
    return i


def _class(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Return the tokenizer class named by the folder, else by its model, else by its files."""
    config = read_json(folder / "config.json", missing_ok=True)
    check_kinds(config, dict.fromkeys(("model_type", "tokenizer_class"), TEXT | NULL))
    name = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if name is None and config:
        name = OF_MODEL.get(config.get("model_type") or "")
    elif name is None:
        name = next((name for file, name in OF_FILE.items() if (folder / file).exists()), None)
    return name and name.removesuffix("Fast")


def _from_json(file: Path, settings: Mapping[str, Any], family: Family | None) -> Parts:
    content = read_text(file)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises no narrower class
        raise DataError(
            f"{file} is not a tokenizer: expected JSON of the `tokenizers` library "
            f"({quoted(str(error))})"
        ) from error
    roles = _roles_in(tokenizer, file, settings, family)
    tokenizer.add_special_tokens(list(roles.values()))
    ids = known_ids(roles, tokenizer.token_to_id)
    processor = tokenizer.post_processor
    template = PLAIN if processor is None else Template.of_post_processor(processor)
    return Parts(
        vocabulary=LibraryVocabulary(tokenizer),
        roles=ids,
        template=(family and _flagged(family, settings, ids)) or template,
        files={},
    )


def _roles_in(
    tokenizer: tokenizers.Tokenizer, file: Path, settings: Mapping[str, Any], family: Family | None
) -> dict[str, str]:
    """Return the special tokens of the settings, else of the family, else ours."""
    named = _named(settings)
    for role, token in named.items():
        if tokenizer.token_to_id(token) is None:
            raise DataError(
                f"{file.parent / SETTINGS[0]} names {quoted(token)} as {role} token, which "
                f"{file.name} does not have: do both files belong to the same tokenizer?"
            )
    # "</s>" is used only if special: in some vocabularies it is a piece from web pages.
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    ours = {role: token for role, token in OURS.items() if token in special}
    usual = family.roles.items() if family else ()
    present = {role: token for role, token in usual if tokenizer.token_to_id(token) is not None}
    return ours | present | named


def _from_vocabulary(folder: Path, settings: Mapping[str, Any], name: str) -> Parts:
    family = FAMILIES[name]
    for file in family.files:
        if not (folder / file).is_file():
            raise DataError(
                f"{folder} has no {file}: a {name} needs {FILE_NAME}, or "
                f"{' and '.join(family.files)}"
            )
    for key, values in family.only.items():
        if key in settings and settings[key] not in values:
            raise DataError(
                f"{folder / SETTINGS[0]}: {key} = {shown(settings[key])} is not implemented for a "
                f"{name}; expected {' or '.join(map(repr, values))}"
            )
    roles = dict(family.roles) | _named(settings)
    added = _added(folder, settings, roles)
    vocabulary = family.build(Source(folder=folder, settings=settings, roles=roles, added=added))
    vocabulary, target = vocabulary if isinstance(vocabulary, tuple) else (vocabulary, None)
    ids = known_ids(roles, vocabulary.id)
    template = PLAIN  # replaced once the languages are known
    if family.language is None:
        template = _flagged(family, settings, ids) or Template.parse(
            family.single, family.pair, ids
        )
    return Parts(
        vocabulary=vocabulary,
        roles=ids,
        template=template,
        files={},
        target=target,
    )


def _flagged(
    family: Family, settings: Mapping[str, Any], roles: Mapping[str, int]
) -> Template | None:
    """Return the templates with the tokens of `add_bos_token` and `add_eos_token`."""
    if not family.flagged or not {"add_bos_token", "add_eos_token"} & settings.keys():
        return None
    start = "start" in roles and settings.get("add_bos_token", family.single.startswith("start"))
    stop = "stop" in roles and settings.get("add_eos_token")
    first, second = (
        " ".join((*(["start"] if start else []), sequence, *(["stop"] if stop else [])))
        for sequence in "AB"
    )
    second = " ".join(f"{word}:1" for word in second.split())
    return Template.parse(first, f"{first} {second}", roles)


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens of the settings, by role."""
    named = {}
    for role, keys in ROLES.items():
        tokens = [_content(settings[key]) for key in keys if settings.get(key) is not None]
        if tokens:
            named[role] = tokens[0]
    return named


def _added(folder: Path, settings: Mapping[str, Any], roles: Mapping[str, str]) -> dict[str, int]:
    """Return the tokens that a folder adds to its vocabulary, which must be special."""
    listed = settings.get("added_tokens_decoder") or {}
    added = {_content(token): int(i) for i, token in listed.items()}
    special = {_content(token) for token in listed.values() if token.get("special")}
    special |= {*roles.values(), *map(_content, settings.get("additional_special_tokens") or ())}
    more = read_json(folder / SETTINGS[2], missing_ok=True, unique=True)
    check_kinds({"its ids": more}, {"its ids": object_of(COUNT)}, where=str(folder / SETTINGS[2]))
    added |= more
    for token in added.keys() - special:
        raise DataError(
            f"{folder} adds {quoted(token)} to its vocabulary, which is not a special token: "
            f"this needs a {FILE_NAME}"
        )
    return added


def _content(token: str | Mapping[str, Any]) -> str:
    return token if isinstance(token, str) else token["content"]
