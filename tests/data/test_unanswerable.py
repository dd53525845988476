"""Questions that lose their answer: laws of what is drawn, and each way by example."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.data.questions import Answer, Question, check_answer
from qkv.data.sets import load_set
from qkv.data.unanswerable import Mixing, Passages, holds, mix_questions
from qkv.errors import ConfigError

SENTENCES = {
    "mill": "The old mill of Ostrel burned down in 1902.",
    "bridge": "A bridge of iron near Carrick crosses the river.",
    "ferry": "Until 1931 a ferry of Tobias Wren carried two carts.",
    "owl": "An owl lives in the tower by the river.",
}
ASKED = [
    ("mill", "When did the mill burn down?", "1902"),
    ("mill", "What burned down in 1902?", "The old mill of Ostrel"),
    ("bridge", "What crosses the river?", "A bridge of iron"),
    ("bridge", "What does the bridge near Carrick cross?", "the river"),
    ("ferry", "What carried two carts?", "a ferry"),
    ("ferry", "How many carts did the ferry of Tobias Wren carry?", "two"),
    ("owl", "What lives in the tower?", "An owl"),
    ("owl", "Where does the owl live?", "in the tower"),
]
PASSAGE = "Ann has a dog. It is old.\n\nBob has two cats. They are 7.\n\nCy has nothing."


def ask(source, question, context, *answers):
    found = tuple(Answer(text, context.index(text)) for text in answers)
    return Question(id=question, question=question, context=context, answers=found, source=source)


SHORT = [ask(key, question, SENTENCES[key], answer) for key, question, answer in ASKED]
LONG = [
    ask("pets", "How many cats are there?", PASSAGE, "two"),
    ask("pets", "How old are the cats?", PASSAGE, "7"),
    ask("pets", "What is the name of the dog?", PASSAGE),
]

mixings = st.builds(
    Mixing,
    unanswerable=st.floats(0, 1),
    others=st.none() | st.integers(1, 4),
    repeat=st.integers(1, 4),
    seed=st.integers(0, 99),
)


@given(mixings)
def test_answers_stay_where_they_are_and_lost_ones_are_nowhere(mixing):
    known = {one.question: one for one in [*SHORT, *LONG]}
    for one in mix_questions([*SHORT, *LONG], mixing):
        for answer in one.answers:
            check_answer(answer, one.context, one.question)
        before = known.get(one.question)
        if before is not None and before.id == one.id and not one.answers:
            for text, _ in before.answers:
                assert not holds(one.context, text)


@given(mixings)
def test_the_same_seed_draws_the_same_and_no_question_is_lost(mixing):
    questions = [*SHORT, *LONG]
    mixed = mix_questions(questions, mixing)
    assert mixed == mix_questions(questions, mixing)
    assert [one.id for one in mixed[: len(SHORT)]] == [one.id for one in SHORT]
    assert {one.id for one in mixed} == {one.id for one in questions}
    assert not any(one.answers for one in mixed if one.id == LONG[2].id)


def test_without_settings_nothing_changes():
    assert mix_questions([*SHORT, *LONG], Mixing(seed=7)) == [*SHORT, *LONG]
    assert mix_questions(LONG, Mixing(repeat=2)) == [one for one in LONG for _ in range(2)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_fraction_is_what_was_asked_for_unless_the_answer_is_everywhere(share):
    mixed = mix_questions(SHORT * 100, Mixing(unanswerable=share))
    lost = np.mean([not one.answers for one in mixed])
    assert 0.85 * share <= lost <= share + 0.05


def test_each_way_to_lose_an_answer_occurs():
    mixed = mix_questions(SHORT * 50, Mixing(unanswerable=1.0))
    pairs = [(old, new) for old, new in zip(SHORT * 50, mixed, strict=True) if not new.answers]
    elsewhere = [(old, new) for old, new in pairs if old.question == new.question]
    assert all(old.context != new.context for old, new in elsewhere)
    others = [(old, new) for old, new in pairs if old.question != new.question]
    assert all(old.context == new.context for old, new in others)
    changed = {new.question for _, new in others}
    assert {"Where did the mill burn down?", "Why did the mill burn down?"} <= changed
    # A question on a ferry, about a name of the mill: nothing but the name is in the sentence.
    assert "How many carts did the ferry of Ostrel carry?" in changed


def test_the_distractor_has_the_most_words_of_the_question():
    passages = Passages(list(SENTENCES.values()))
    question = "Which bird lives by the river?"
    assert passages.most_similar(question, unlike=SENTENCES["mill"]) == SENTENCES["owl"]
    assert passages.most_similar(question, unlike=SENTENCES["owl"]) == SENTENCES["bridge"]


def test_a_passage_is_asked_for_sentence_by_sentence():
    mixed = mix_questions(LONG, Mixing(others=2, repeat=30))
    of = {one.id: [x for x in mixed if x.id == one.id] for one in LONG}
    assert [len(asked) for asked in of.values()] == [90, 90, 60]
    cats, age, name = of.values()
    right = [one for one in cats if one.answers]
    assert {(one.context, one.answers) for one in right} == {
        ("Bob has two cats.", (Answer("two", 8),))
    }
    assert {one.context for one in age if one.answers} == {"They are 7."}
    assert len(right) == 30
    # "Cy has nothing." has no word of the question, others have; each is drawn at some time.
    assert {one.context for one in cats if not one.answers} == {
        "Ann has a dog.",
        "It is old.",
        "They are 7.",
        "Cy has nothing.",
    }
    assert all(not one.answers for one in name)
    assert name[0].context == name[2].context == "Ann has a dog."


def test_a_passage_that_is_not_cut_gives_its_question_to_another():
    yard = "Dee keeps a hen in the yard. It lays an egg a day."
    barn = "The barn of Dee is red. Two cats live there."
    hen = ask("farm", "What does Dee keep?", yard, "a hen")
    color = ask("farm", "What color is the barn?", barn, "red")
    cats = ask("farm", "How many cats live in the barn?", barn, "Two")
    mixed = mix_questions([hen, color, cats, *LONG] * 40, Mixing(unanswerable=0.5))
    lost = [one for one in mixed if one.source == "farm" and not one.answers]
    assert 0.4 * 120 < len(lost) < 0.6 * 120
    moved = {(one.question, one.context) for one in lost}
    assert (hen.question, barn) in moved
    assert (hen.question, yard) not in moved
    assert (cats.question, PASSAGE) not in moved  # which has "two"
    # Where some questions have no answer as they are, none is lost.
    assert [one for one in mixed if one.source == "pets"] == LONG * 40


def test_an_answer_of_two_sentences_is_in_neither():
    one = ask("x", "What?", "It is this. And that. No more.", "this. And that")
    asked = mix_questions([one], Mixing(others=9))
    assert not any(it.answers for it in asked)


def test_numbers_out_of_range():
    for options, message in (
        ({"unanswerable": 1.5}, "unanswerable = 1.5; expected 0 to 1, such as 0.3"),
        ({"others": 0}, "others = 0; expected at least 1"),
        ({"repeat": 0}, "repeat = 0; expected at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            Mixing(**options)


def test_of_the_real_questions(shared_data):
    """The other names and words leave the answerable ones where they were."""
    questions = load_set("answer", "qamr", "validation", shared_data)
    mixed = mix_questions(questions, Mixing(unanswerable=0.4))
    for old, new in zip(questions, mixed, strict=True):
        if new.answers:
            assert [text for text, _ in new.answers] == [text for text, _ in old.answers]
            for answer in new.answers:
                if answer.start is not None:
                    check_answer(answer, new.context, new.id)
        assert dataclasses.replace(new, question="", context="", answers=()) == (
            dataclasses.replace(old, question="", context="", answers=())
        )
    lost = np.mean([not one.answers for one in mixed])
    assert lost == pytest.approx(0.4, abs=0.05)
