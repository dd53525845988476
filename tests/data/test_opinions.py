"""The opinions that ship: varied, balanced, and disjoint from every test."""

import re
from collections import Counter

import pytest

from qkv.data.sets import load_set
from qkv.data.sets.opinions import opinions
from qkv.data.sets.reviews import reviews

TRAITS = {"plain", "implied", "negation", "mixed", "irony", "comparison", "idiom"}


@pytest.fixture(scope="module")
def written():
    return [*opinions("train"), *opinions("validation")]


@pytest.fixture(scope="module")
def clear():
    return load_set("classify", "clear_opinions", "test")


def sentences(text):
    parts = re.split(r"(?<=[.!?])\s+", text)
    return {plain for part in parts if (plain := " ".join(re.findall(r"\w+", part.lower())))}


def test_numbers_and_balance(written, clear):
    assert len(opinions("train")) == 9_756
    assert len(opinions("validation")) == 899
    assert {one.trait for one in written} == TRAITS
    counts = Counter(one.label for one in written)
    assert abs(counts["positive"] - counts["negative"]) < 0.01 * len(written)
    assert Counter(one.label for one in clear) == {"positive": 50, "negative": 50}
    assert len({one.topic for one in written}) > 400
    words = [len(one.text.split()) for one in written]
    assert sum(n <= 5 for n in words) > 800
    assert sum(n > 20 for n in words) > 1_000


def test_at_most_2_percent_share_a_run_of_six_words(written):
    texts = [re.findall(r"[\w']+", one.text.lower().replace("’", "'")) for one in written]
    owners = {}
    for i, words in enumerate(texts):
        for start in range(len(words) - 5):
            owners.setdefault(tuple(words[start : start + 6]), set()).add(i)
    sharing = set().union(*(rows for rows in owners.values() if len(rows) > 1))
    assert len(sharing) <= 0.02 * len(texts)


def test_no_opinion_is_written_twice(written):
    plain = [" ".join(re.findall(r"\w+", one.text.lower())) or one.text for one in written]
    assert len(set(plain)) == len(plain)


def test_no_sentence_of_a_test_is_in_an_opinion(written, clear, shared_data):
    tests = [one.text for one in clear]
    tests += [one.text for split in ("validation", "test") for one in reviews(split)]
    tests += [one.text for one in load_set("classify", "sst2", "validation", shared_data)]
    known = set().union(*(sentences(text) for text in tests))
    assert not [one.text for one in written if sentences(one.text) & known]
