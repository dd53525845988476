"""The pairs of sentences: balanced, unambiguous for a program, and unlike each other."""

import re
from collections import Counter
from itertools import combinations

import pytest

from qkv.data.coreference import COREFERENCE_PAIRS, Coreference, coreference_pair

SENTENCES = [sentence for pair in COREFERENCE_PAIRS for sentence in pair]


def words(text):
    return re.findall(r"\w+", text.lower())


def test_a_line_is_read_into_two_sentences():
    first, second = coreference_pair(
        "The dog stayed out of the lake, as it was *. | it | dog timid | lake deep"
    )
    nouns = ("dog", "lake")
    assert first == Coreference(
        "The dog stayed out of the lake, as it was timid.", "it", nouns, "dog"
    )
    assert second == Coreference(
        "The dog stayed out of the lake, as it was deep.", "it", nouns, "lake"
    )


def test_there_are_enough_pairs():
    assert len(COREFERENCE_PAIRS) >= 40


@pytest.mark.parametrize("pair", COREFERENCE_PAIRS, ids=lambda pair: pair[0].text)
def test_a_pair_differs_in_one_word_and_in_the_answer(pair):
    first, second = pair
    changed = [x for x in zip(words(first.text), words(second.text), strict=True) if len({*x}) > 1]
    assert len(changed) == 1
    assert (first.pronoun, first.candidates) == (second.pronoun, second.candidates)
    assert (first.answer, second.answer) == first.candidates


@pytest.mark.parametrize("sentence", SENTENCES, ids=lambda sentence: sentence.text)
def test_nouns_and_pronoun_stand_in_the_sentence_once_and_in_order(sentence):
    found = words(sentence.text)
    named = (*sentence.candidates, sentence.pronoun)
    assert [found.count(word) for word in named] == [1, 1, 1]
    assert [word for word in found if word in named] == list(named)
    assert re.fullmatch(r"[A-Z][a-z ,]+\.", sentence.text)
    assert sentence.pronoun in ("it", "he", "she", "they")


def test_first_and_second_noun_are_the_answer_equally_often():
    firsts = [sentence.answer == sentence.candidates[0] for sentence in SENTENCES]
    assert sum(firsts) * 2 == len(firsts)


def test_no_pair_is_a_near_copy_of_another():
    assert len({sentence.text for sentence in SENTENCES}) == len(SENTENCES)
    contents = [{*words(a.text), *words(b.text)} for a, b in COREFERENCE_PAIRS]
    counts = Counter(word for content in contents for word in content)
    common = {word for word, count in counts.items() if count > 5}  # "the", "because", "was"
    assert len(common) < 30
    for one, other in combinations([content - common for content in contents], 2):
        assert len(one & other) <= 0.4 * min(len(one), len(other)), one & other
    nouns = [pair[0].candidates for pair in COREFERENCE_PAIRS]
    assert len(set(map(frozenset, nouns))) == len(nouns)
