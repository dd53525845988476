"""Regular expressions that others' files bring: what `re` says, in a time that does not explode."""

import random
import re
import time

import pytest

from qkv.checkpoints.patterns import Pattern, compile_pattern
from qkv.errors import ConfigError

ATOMS = (*"ab.^$1]", r"\.", "[ab]", "[^a]", r"\d", r"\w", r"\b", r"\B", r"\s")
KINDS = ("atom", "atom", "seq", "or", "group", "repeat", "ahead")
COUNTS = ("*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,1}", "{2,}", "{0,3}?")


def random_pattern(choose, depth=3):
    """Any pattern of the syntax that is implemented."""
    kind = choose.choice(KINDS if depth else ["atom"])
    inner = [random_pattern(choose, depth - 1) for _ in range(3)] if kind != "atom" else []
    return {
        "atom": lambda: choose.choice(ATOMS),
        "seq": lambda: "".join(inner),
        "or": lambda: f"(?:{inner[0]}|{inner[1]})",
        "group": lambda: f"({inner[0]})",
        "repeat": lambda: f"(?:{inner[0]}){choose.choice(COUNTS)}",
        "ahead": lambda: f"(?{choose.choice('=!')}{inner[0]}){inner[1]}",
    }[kind]()


def test_the_same_as_python_says():
    choose = random.Random(0)
    matched = 0
    for _ in range(2000):
        pattern = random_pattern(choose)
        ours, theirs = Pattern(f"(?:{pattern})"), re.compile(pattern)
        for _ in range(5):
            text = "".join(choose.choices("ab1. ", k=choose.randrange(1, 7)))
            expected = theirs.fullmatch(text) is not None
            assert ours.fullmatch(text) is expected, (pattern, text)
            matched += expected
    assert 300 < matched < 9700


NAMES = [f"model.layers.{i}.{part}" for i in range(32) for part in ("self_attn.q_proj", "mlp.up")]
PUBLISHED = [  # as adapters have them
    r".*\.(q_proj|v_proj)",
    r"^(?!.*vision_tower).*(?:q_proj|k_proj|v_proj|o_proj).*",
    r"(?:.*?(?:vision|image|visual|patch|language|text).*?(?:self_attn|attention|attn|mlp|ffn|dense)"
    r".*?(?:qkv|q_proj|k_proj|v_proj|up).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\."
    r"(?:(?:q_proj|up)))",
    r"model\.layers\.(?:1[0-9]|2\d)\.mlp\.up",
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_patterns_of_published_adapters(pattern):
    expected = [re.fullmatch(pattern, name) is not None for name in NAMES]
    assert [compile_pattern(pattern).fullmatch(name) for name in NAMES] == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "(([a-z.0-9_]+)+)+!",
        "(a|a)*" * 20 + "!",
        ".*" * 200 + "!",
        "(?:[a-z_.0-9]?){100}!",
        "(?=(.*a)*!)(?=(.+)+!).*",
        "(((((.*)*)*)*)*)*!",
    ],
)
def test_a_pattern_with_too_many_ways(pattern):
    start = time.process_time()
    assert not any(compile_pattern(pattern).fullmatch(name) for name in NAMES)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is not a regular expression: missing"),
        (r"(a)\1", r"\\1 is not supported in regular expressions"),
        ("(?<=a)b", r"\(\?< is not supported in regular expressions"),
        ("(?i)a", r"\(\?i is not supported"),
        ("(?>a)", r"\(\?> is not supported"),
        ("(a)?b++", "a possessive quantifier is not supported"),
        ("(" * 41 + ")" * 41, "groups nested deeper than 40"),
        ("a{1000}{1000}", "is not a regular expression: multiple repeat"),
        ("(a{1000}){1000}", "needs? more than 8000 states"),
        ("a" * 4001, "is a regular expression of 4001 characters; expected at most 4000"),
    ],
)
def test_refused(pattern, message):
    with pytest.raises(ConfigError, match=message) as error:
        Pattern(pattern)
    assert len(str(error.value)) < 400
