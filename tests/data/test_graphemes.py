"""User-perceived characters against those of the `regex` package, and laws of widened spans."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from qkv.data.graphemes import find, is_boundary, widen

FAMILY = "\U0001f469\u200d\U0001f467\u200d\U0001f467"
PARTS = [
    *"aé Z\n\r\t'-7中ก",
    *("e\u0301", "n\u0303\u0323", "\u0301", "\u20dd"),  # accents, and one around
    *("\u0915\u093f", "\u0ba8\u0bbf", "\u0e01\u0e33", "\u0628\u064e"),  # signs for vowels
    *("\u1100", "\u1161", "\u11a8", "\uac00", "\uac01"),  # Hangul in parts and whole
    *("\U0001f600", "\u2764", "\ufe0f", "\ufe0e", "\U0001f44d", "\U0001f3fd", "\u200d", "\u200c"),
    *(FAMILY, "\u203c", "\u2194", "\U0001f1e9", "\U0001f1ea", "\U0001f3f4\U000e0067\U000e007f"),
    *("\u0600", "\u200b", "\u00ad", "\u2028", "\uff9e", "\u00a9"),
]
texts = st.lists(st.sampled_from(PARTS), max_size=13).map("".join)


@given(texts)
def test_boundaries_are_those_of_another_implementation(text):
    expected, at = {0, len(text)}, 0
    for cluster in regex.findall(r"\X", text):
        at += len(cluster)
        expected.add(at)
    assert {i for i in range(len(text) + 1) if is_boundary(text, i)} == expected


@given(texts, st.data())
def test_a_span_is_widened_to_boundaries_and_no_further(text, data):
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, last = widen(text, start, end)
    assert first <= start <= end <= last
    assert is_boundary(text, first)
    assert is_boundary(text, last)
    assert not any(is_boundary(text, i) for i in (*range(first + 1, start + 1), *range(end, last)))
    assert widen(text, first, last) == (first, last)


@pytest.mark.parametrize(
    ("text", "part", "widened"),
    [
        ("They met at the Cafe\u0301.", "at the Cafe", "at the Cafe\u0301"),
        ("I \u2764\ufe0f it", "\u2764", "\u2764\ufe0f"),
        (f"a {FAMILY} here", "\U0001f467", FAMILY),
        ("\U0001f44d\U0001f3fd!", "\U0001f44d", "\U0001f44d\U0001f3fd"),
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\U0001f1ea\U0001f1eb", None),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "\u1161", "\u1112\u1161\u11ab"),
        ("plain", "lai", "lai"),
    ],
)
def test_by_hand(text, part, widened):
    start = text.index(part)
    first, last = widen(text, start, start + len(part))
    assert text[first:last] == (text if widened is None else widened)


def test_a_part_is_found_where_it_is_whole():
    text = "a Cafe\u0301 and a Cafe"
    assert find(text, "Cafe") == text.rindex("Cafe")
    assert find(text, "Cafe\u0301") == 2
    assert find("only Cafe\u0301", "Cafe") == 5
    assert find(text, "tea") == -1
