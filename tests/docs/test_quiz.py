"""The bank of questions: its form, its balance, and the sections that it refers to."""

import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from tests.tools.test_math import faults

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "teaching"
QUESTIONS = tomllib.loads((FOLDER / "quiz.toml").read_text(encoding="utf-8"))["question"]
SCRIPT = (ROOT / "transformers_and_attention_mechanisms.py").read_text(encoding="utf-8")
HEADINGS = set(re.findall(r"^# #{2,3} (\d+(?:\.\d+)?) ", SCRIPT, re.MULTILINE))


def position(question):
    return [choice["right"] for choice in question["choice"]].index(True)


def choices(question, *, right):
    return [choice["text"] for choice in question["choice"] if choice["right"] == right]


each_question = pytest.mark.parametrize(
    "question", [pytest.param(one, id=one["text"][:50]) for one in QUESTIONS]
)


@each_question
def test_a_question_has_the_fields_that_the_page_uses(question):
    assert set(question) == {"section", "level", "text", "figure", "choice"}
    assert question["level"] in (1, 2, 3)
    assert not question["figure"] or (FOLDER / question["figure"]).is_file()
    assert all(set(choice) == {"text", "right", "why"} for choice in question["choice"])


@each_question
def test_one_of_four_different_choices_is_right(question):
    assert len({choice["text"] for choice in question["choice"]}) == 4
    assert [choice["right"] for choice in question["choice"]].count(True) == 1


@each_question
def test_the_section_is_a_heading_of_the_tutorial(question):
    assert question["section"] in HEADINGS


@each_question
def test_formulas_are_well_formed(question):
    texts = [choice[field] for choice in question["choice"] for field in ("text", "why")]
    assert [fault for text in (question["text"], *texts) for fault in faults(text)] == []


def test_each_section_has_questions_and_some_of_each_level():
    assert len(QUESTIONS) >= 60
    by_section = Counter(one["section"].partition(".")[0] for one in QUESTIONS)
    assert set(by_section) == set("0123456789")
    assert min(by_section[number] for number in "123456789") >= 6
    assert min(Counter(one["level"] for one in QUESTIONS).values()) >= 10


def test_questions_are_in_the_order_of_the_tutorial():
    order = [tuple(map(int, one["section"].split("."))) for one in QUESTIONS]
    assert order == sorted(order)


def test_nothing_is_said_twice_or_left_out():
    texts = [one["text"] for one in QUESTIONS]
    reasons = [choice["why"] for one in QUESTIONS for choice in one["choice"]]
    assert all(text.strip() for text in (*texts, *reasons))
    assert [text for text, count in Counter(texts + reasons).items() if count > 1] == []


def test_the_right_answer_cannot_be_guessed_by_its_place():
    places = Counter(map(position, QUESTIONS))
    assert all(0.15 <= places[place] / len(QUESTIONS) <= 0.35 for place in range(4)), places


def test_the_right_answer_cannot_be_guessed_by_its_length():
    longest = shortest = 0
    for question in QUESTIONS:
        [right] = map(len, choices(question, right=True))
        others = list(map(len, choices(question, right=False)))
        longest += right > max(others)
        shortest += right < min(others)
    assert max(longest, shortest) <= 0.4 * len(QUESTIONS), (longest, shortest)
