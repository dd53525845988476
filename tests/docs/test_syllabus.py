"""The syllabus: its lectures fill 45 minutes, and what it refers to exists."""

import re
from pathlib import Path

import pytest

from qkv.tutorial.exercises.registry import EXERCISES

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "teaching" / "syllabus.md"
TEXT = PAGE.read_text(encoding="utf-8")
SCRIPT = (ROOT / "transformers_and_attention_mechanisms.py").read_text(encoding="utf-8")
HEADINGS = set(re.findall(r"^# #{2,3} (\d+(?:\.\d+)?) ", SCRIPT, re.MULTILINE))
LECTURES = re.split(
    r"^### (?=Lecture \d)", TEXT.partition("\n## Exercises and grades")[0], flags=re.M
)
LECTURES = [pytest.param(one, id=one.partition(":")[0]) for one in LECTURES[1:]]


def numbers(text):
    return re.findall(r"\b\d\.\d+\b", text)


def test_there_are_twelve_lectures():
    assert [one.id for one in LECTURES] == [f"Lecture {i}" for i in range(1, 13)]


@pytest.mark.parametrize("lecture", LECTURES)
def test_a_lecture_fills_its_minutes(lecture):
    assert sum(map(int, re.findall(r"^\| (\d+) \|", lecture, re.MULTILINE))) == 45


@pytest.mark.parametrize("lecture", LECTURES)
def test_a_lecture_has_all_its_parts(lecture):
    assert lecture.count("After this you can\n") == lecture.count("\n*Section") == 1
    for part in ("Show live", "Exercises", "Quiz", "Homework"):
        assert lecture.count(f"**{part}.** ") == 1, part
    assert 3 <= len(re.findall(r"^- ", lecture, re.MULTILINE)) <= 4


@pytest.mark.parametrize("lecture", LECTURES)
def test_sections_and_exercises_exist(lecture):
    exercises = re.search(r"\*\*Exercises\.\*\* (.*?) \*\*Quiz", lecture)[1]
    assert numbers(exercises)
    assert set(numbers(exercises)) <= set(EXERCISES)
    assert set(numbers(lecture)) <= HEADINGS | set(EXERCISES)


def test_every_exercise_is_in_a_lecture():
    named = re.findall(r"\*\*Exercises\.\*\* (.*?) \*\*Quiz", TEXT)
    assert sorted(numbers(" ".join(named))) == sorted(EXERCISES)


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []
    books = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert books == {Path(link).name for link in links if link.endswith(".ipynb")}
