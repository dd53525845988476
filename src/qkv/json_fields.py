"""Read untrusted JSON and validate it field by field."""

import json
import math
import os
import reprlib
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from qkv.errors import ConfigError, DataError

MOST = 200  # maximum number of characters of bad content in a message
_REPR = reprlib.Repr()  # Python 3.11 takes no arguments
_REPR.maxlevel = 3
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = 8
_REPR.maxstring, _REPR.maxlong, _REPR.maxother = MOST - 40, 40, 80


def shown(value: Any, most: int = MOST) -> str:
    """Format a value for a message; long or deep values are truncated."""
    text = _REPR.repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def quoted(text: str, most: int = MOST) -> str:
    """Quote a text for a message; long texts are truncated."""
    return shown(text if len(text) <= most else text[: most - 4] + " ...", most + 2)


def named(text: str) -> str:
    """Format a name for a message, quoted if it is long or has unprintable characters."""
    return text if len(text) <= MOST and text.isprintable() else quoted(text)


@dataclass(frozen=True)
class Kind:
    """The kind of values that a field accepts.

    Args:
        what: description in a message.
        fits: returns whether a value is of this kind.
    """

    what: str
    fits: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        """Either kind."""
        return Kind(f"{self.what} or {other.what}", lambda one: self.fits(one) or other.fits(one))


Kinds = Mapping[str, Kind]


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number in the range of a float."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def whole(least: int, most: int = 2**63 - 1) -> Kind:
    """Accept integers from `least` to `most`, by default the largest 64-bit integer."""
    limit = f" and at most {most:,}" if most < 2**63 - 1 else ""
    return Kind(
        f"a whole number of at least {least}{limit}",
        lambda one: type(one) is int and least <= one <= most,
    )


def either(*values: Any) -> Kind:
    """Accept one of these values."""
    return Kind(
        " or ".join(json.dumps(one) for one in values),
        lambda one: any(
            one is value or (type(one) is type(value) and one == value) for value in values
        ),
    )


def list_of(kind: Kind) -> Kind:
    """Accept lists whose elements are of a kind."""
    return Kind(
        f"a list, each {kind.what}",
        lambda one: isinstance(one, list) and all(map(kind.fits, one)),
    )


def object_of(kind: Kind) -> Kind:
    """Accept objects whose values are of a kind."""
    return Kind(
        f"an object, each value {kind.what}",
        lambda one: isinstance(one, dict) and all(map(kind.fits, one.values())),
    )


NULL = Kind("null", lambda one: one is None)
TEXT = Kind("a string", lambda one: isinstance(one, str))
FLAG = Kind("true or false", lambda one: isinstance(one, bool))
NUMBER = Kind("a number", is_number)
POSITIVE = Kind("a finite number above 0", lambda one: is_number(one) and one > 0)
COUNT = whole(0)
OBJECT = Kind("an object", lambda one: isinstance(one, dict))


def kind_of(annotation: Any, kinds: Mapping[Any, Kind]) -> Kind:
    """Return the kind for a type annotation: a simple type, a literal, or a union.

    Args:
        annotation: the type annotation.
        kinds: kinds of the simple types.
    """
    if get_origin(annotation) in (Union, types.UnionType):
        first, *others = (kind_of(one, kinds) for one in get_args(annotation))
        for other in others:
            first = first | other
        return first
    if get_origin(annotation) is Literal:
        return either(*get_args(annotation))
    return NULL if annotation is type(None) else kinds[annotation]


def kinds_of_fields(config: type) -> dict[str, Kind]:
    """Return the kinds of a dataclass's fields; integers are sizes of at least 1."""
    simple = {bool: FLAG, int: whole(1, 2**28), float: NUMBER, str: TEXT}
    return {name: kind_of(one, simple) for name, one in get_type_hints(config).items()}


def check_kinds(raw: Mapping[str, Any], kinds: Kinds, *, where: str = "") -> None:
    """Check all fields that are present and have a kind.

    Args:
        raw: the fields.
        kinds: kind by field name; null must be accepted explicitly.
        where: prefix of error messages, such as the file.

    Raises:
        ConfigError: naming the field, its value and the expected kind.
    """
    for name, kind in kinds.items():
        if name in raw and not kind.fits(raw[name]):
            before = f"{where}: " if where else ""
            raise ConfigError(f"{before}{name} = {shown(raw[name])}; expected {kind.what}")


def read_json(path: Path, *, missing_ok: bool = False, unique: bool = False) -> dict[str, Any]:
    """Read a JSON object from a regular UTF-8 file.

    Args:
        path: the file.
        missing_ok: whether to return an empty object if the file does not exist.
        unique: whether duplicate names are an error; if not, the last one counts.

    Raises:
        DataError: if the file cannot be read or contains something else.
    """
    if missing_ok and not os.path.lexists(path):
        return {}
    return parse_json(read_utf8(path), str(path), unique=unique)


def parse_json(text: str, where: str, *, unique: bool = False) -> dict[str, Any]:
    """Parse a JSON object; see `read_json`."""

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(items)
        if len(names) < len(items):
            twice = Counter(name for name, _ in items).most_common(1)[0][0]
            raise DataError(f"{where} has {quoted(twice)} twice")
        return names

    try:
        value = json.loads(text, object_pairs_hook=once if unique else None)
        if "\\ud" in text.lower():  # an unpaired surrogate, which no file can contain
            json.dumps(value, ensure_ascii=False).encode()
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}, line {error.lineno}: not JSON, is it truncated? ({error.msg})"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} is not valid Unicode JSON: it has an unpaired surrogate"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where} is not JSON of a model: it is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {quoted(str(error))}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is a JSON {type(value).__name__}; expected an object")
    return value


def read_utf8(path: Path) -> str:
    """Read a regular UTF-8 file, not a device or pipe, which may be endless.

    Raises:
        DataError: if there is no such file, or it is not UTF-8.
    """
    try:
        regular = path.is_file() or not path.exists()
        content = path.read_bytes() if regular else b""
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not regular:
        raise DataError(f"{path} cannot be read: it is not a regular file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
