import pytest

from qkv.data.questions import Answer, Question
from qkv.data.sets import load_set
from qkv.data.sets.qamr import NO, YES, answerable_pairs
from qkv.errors import DataError

PASSAGES = [
    "The old mill stands by the river.",
    "The old river mill burned down in 1902.",
    "A bridge of iron crosses the river.",
]


def ask(question, place):
    answers = (Answer("", None),)
    return Question(id="", question=question, context=PASSAGES[place], answers=answers, source="")


def test_every_second_question_meets_the_passage_most_like_it_that_is_not_its_own():
    asked = [
        ask("What stands by the river?", 0),
        ask("When did the mill burn?", 1),
        ask("Where is the mill?", 0),
        ask("What is made of IRON?", 2),
        ask("What burned?", 1),
        ask("Which mill is old?", 0),
    ]
    pairs = answerable_pairs(asked)
    assert [one.text for one in pairs] == [one.question for one in asked]
    assert [one.label for one in pairs] == [YES, NO] * 3
    assert [one.second for one in pairs[::2]] == [one.context for one in asked[::2]]
    # "the" is in all, "mill" in two of three: rarer, so it decides.
    assert [one.second for one in pairs[1::2]] == [PASSAGES[0], PASSAGES[0], PASSAGES[1]]


def test_one_passage_is_not_enough():
    with pytest.raises(DataError, match="2 questions on 1 passages; expected at least two"):
        answerable_pairs([ask("What?", 0), ask("Where?", 0)])


def test_of_the_real_questions(shared_data):
    pairs = load_set("classify", "qamr_sentences", "validation", shared_data)
    # The other sentence is not easy to tell: it shares words with the question, too.
    shared = [
        len({*one.text.lower().rstrip("?").split()} & {*one.second.lower().split()})
        for one in pairs
    ]
    own, other = shared[::2], shared[1::2]
    assert sum(other) > 0.5 * sum(own)
