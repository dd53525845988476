"""JSON that others wrote: read whole, and checked field by field before anything uses it."""

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

MOST = 200  # characters of bad content that a message repeats
_REPR = reprlib.Repr()  # Python 3.11 takes no arguments
_REPR.maxlevel = 3
_REPR.maxdict = _REPR.maxlist = _REPR.maxtuple = 8
_REPR.maxstring, _REPR.maxlong, _REPR.maxother = MOST - 40, 40, 80


def shown(value: Any, most: int = MOST) -> str:
    """Show a value in a message: what is long or deep is cut."""
    text = _REPR.repr(value)
    return text if len(text) <= most else f"{text[: most - 4]} ..."


def quoted(text: str, most: int = MOST) -> str:
    """Quote a text in a message: what is long is cut."""
    return shown(text if len(text) <= most else text[: most - 4] + " ...", most + 2)


def named(text: str) -> str:
    """Show a name in a message as it is, unless it is long or holds what cannot be printed."""
    return text if len(text) <= MOST and text.isprintable() else quoted(text)


@dataclass(frozen=True)
class Kind:
    """What a field may be.

    Args:
        what: in the words of a message.
        fits: whether a value is of this kind.
    """

    what: str
    fits: Callable[[Any], bool]

    def __or__(self, other: "Kind") -> "Kind":
        """Either kind."""
        return Kind(f"{self.what} or {other.what}", lambda one: self.fits(one) or other.fits(one))


Kinds = Mapping[str, Kind]


def is_number(value: Any) -> bool:
    """Whether a value is a finite number that a float can hold."""
    if type(value) not in (int, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def whole(least: int, most: int = 2**63 - 1) -> Kind:
    """A whole number from `least` to `most`; without `most`, one that 64 bits can hold."""
    limit = f" and at most {most:,}" if most < 2**63 - 1 else ""
    return Kind(
        f"a whole number of at least {least}{limit}",
        lambda one: type(one) is int and least <= one <= most,
    )


def either(*values: Any) -> Kind:
    """One of these values."""
    return Kind(
        " or ".join(json.dumps(one) for one in values),
        lambda one: any(
            one is value or (type(one) is type(value) and one == value) for value in values
        ),
    )


def list_of(kind: Kind) -> Kind:
    """A list of which each element is of a kind."""
    return Kind(
        f"a list, each {kind.what}",
        lambda one: isinstance(one, list) and all(map(kind.fits, one)),
    )


def object_of(kind: Kind) -> Kind:
    """An object of which each value is of a kind."""
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
    """Return the kind of the values of a type: a simple one, a literal, or one of several.

    Args:
        annotation: the type.
        kinds: of the simple types.
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
    """Return the kinds of a dataclass's fields, of which whole numbers are sizes."""
    simple = {bool: FLAG, int: whole(1, 2**28), float: NUMBER, str: TEXT}
    return {name: kind_of(one, simple) for name, one in get_type_hints(config).items()}


def check_kinds(raw: Mapping[str, Any], kinds: Kinds, *, where: str = "") -> None:
    """Check the fields that have a kind and are there.

    Args:
        raw: the fields.
        kinds: by their names; null is a kind that a field must have like any other.
        where: what an error begins with, such as the file.

    Raises:
        ConfigError: naming the field, what it says and what was expected.
    """
    for name, kind in kinds.items():
        if name in raw and not kind.fits(raw[name]):
            before = f"{where}: " if where else ""
            raise ConfigError(f"{before}{name} = {shown(raw[name])}; expected {kind.what}")


def read_json(path: Path, *, missing_ok: bool = False, unique: bool = False) -> dict[str, Any]:
    """Read a JSON object from a regular file of UTF-8.

    Args:
        path: the file.
        missing_ok: whether one that is not there is empty.
        unique: whether a name may stand there only once; where not, the last one counts.

    Raises:
        DataError: if the file cannot be read or holds something else.
    """
    if missing_ok and not os.path.lexists(path):
        return {}
    return parse_json(read_utf8(path), str(path), unique=unique)


def parse_json(text: str, where: str, *, unique: bool = False) -> dict[str, Any]:
    """Parse a JSON object; the arguments and errors are those of `read_json`."""

    def once(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(items)
        if len(names) < len(items):
            twice = Counter(name for name, _ in items).most_common(1)[0][0]
            raise DataError(f"{where} has {quoted(twice)} twice")
        return names

    try:
        value = json.loads(text, object_pairs_hook=once if unique else None)
        if "\\ud" in text.lower():  # half of a character: no text, and no file can hold it
            json.dumps(value, ensure_ascii=False).encode()
    except DataError:
        raise
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}, line {error.lineno}: not JSON, is it cut short? ({error.msg})"
        ) from error
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} is not JSON of Unicode text: it has half of a surrogate pair"
        ) from error
    except RecursionError as error:
        raise DataError(f"{where} is not JSON of a model: it is nested too deeply") from error
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {quoted(str(error))}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} holds a JSON {type(value).__name__}; expected an object")
    return value


def read_utf8(path: Path) -> str:
    """Read a regular file of UTF-8: no device or pipe, which may have no end.

    Raises:
        DataError: if there is none, or it is not UTF-8.
    """
    try:
        regular = path.is_file() or not path.exists()
        content = path.read_bytes() if regular else b""
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not regular:
        raise DataError(f"{path} cannot be read: it is no regular file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: not UTF-8 ({error.reason})") from error
