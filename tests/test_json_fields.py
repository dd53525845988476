"""JSON that others wrote: what its fields may be, and what messages repeat of it."""

import dataclasses
import math
from typing import Literal

import pytest

from qkv.errors import ConfigError, DataError
from qkv.json_fields import (
    COUNT,
    FLAG,
    MOST,
    NULL,
    NUMBER,
    POSITIVE,
    TEXT,
    check_kinds,
    either,
    kinds_of_fields,
    list_of,
    named,
    object_of,
    parse_json,
    quoted,
    read_json,
    shown,
    whole,
)

VALUES = [None, True, 0, 1, -1, 2**63, 0.5, math.nan, math.inf, 10**400, "", "a", [], [1], {}]


@pytest.mark.parametrize(
    ("kind", "fitting"),
    [
        (NULL, [None]),
        (FLAG, [True]),
        (COUNT, [0, 1]),
        (whole(1, 1), [1]),
        (NUMBER, [0, 1, -1, 2**63, 0.5]),
        (POSITIVE, [1, 2**63, 0.5]),
        (TEXT, ["", "a"]),
        (list_of(COUNT), [[], [1]]),
        (object_of(TEXT), [{}]),
        (either("a", True), [True, "a"]),
        (TEXT | NULL, [None, "", "a"]),
    ],
)
def test_what_is_of_a_kind(kind, fitting):
    assert [repr(one) for one in VALUES if kind.fits(one)] == [repr(one) for one in fitting]


def test_a_field_of_another_kind_is_named_with_its_file():
    with pytest.raises(ConfigError, match=r"^a\.json: b = 'x'; expected a whole .* or null$"):
        check_kinds({"a": 1, "b": "x"}, {"b": COUNT | NULL, "c": TEXT}, where="a.json")


def test_the_fields_of_a_dataclass_have_the_kinds_of_their_types():
    @dataclasses.dataclass
    class Config:
        size: int
        rate: float
        name: Literal["a", "b"]
        longest: int | None

    kinds = kinds_of_fields(Config)
    check_kinds({"size": 3, "rate": 1, "name": "b", "longest": None}, kinds)
    for wrong in ({"size": 0}, {"size": True}, {"rate": "1"}, {"name": "c"}, {"longest": 0.5}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} = "):
            check_kinds(wrong, kinds)


deep = []
for _ in range(10_000):
    deep = [deep]


@pytest.mark.parametrize(
    "value", ["x" * 10**6, list(range(10**5)), {"a" * 10**5: 1}, deep, 10**4000]
)
def test_messages_repeat_little(value):
    assert len(shown(value)) <= MOST


def test_names_are_quoted_only_where_they_must_be():
    assert named("a.b-c") == "a.b-c"
    assert named("a\nb") == r"'a\nb'"
    assert len(named("x" * 10**6)) <= MOST + 2
    assert quoted("it's") == '"it\'s"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "x is a JSON list; expected an object"),
        ('{"a": 1,\n"b"}', "x, line 2: not JSON, is it truncated?"),
        ("[" * 10**5, "x is not JSON of a model: it is nested too deeply"),
        (r'{"a": "\ud800"}', "x is not valid Unicode JSON"),
        ('{"a": 1, "a": 2}', "x has 'a' twice"),
        ('{"a": 1' + "0" * 5000 + "}", "x is not JSON: "),
    ],
)
def test_what_is_no_json_of_a_model(text, message):
    with pytest.raises(DataError, match=message.replace("?", r"\?")):
        parse_json(text, "x", unique=True)


def test_a_whole_character_of_two_surrogates_is_text():
    assert parse_json(r'{"a": "\ud83d\ude00"}', "x") == {"a": "😀"}
    assert parse_json('{"a": 1, "a": 2}', "x") == {"a": 2}


def test_a_file_that_is_not_there(tmp_path):
    assert read_json(tmp_path / "x", missing_ok=True) == {}
    with pytest.raises(DataError, match="x cannot be read: "):
        read_json(tmp_path / "x")
    (tmp_path / "x").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match="x cannot be read: "):
        read_json(tmp_path / "x", missing_ok=True)
