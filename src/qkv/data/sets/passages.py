"""Passages of several paragraphs, with questions that they answer and questions that they do not.

All were written for this project: letters, rules, reports, recipes and articles, mostly about
invented things. A question without an answer asks what the passage could tell, but does not. In the
test split half of the questions have none, in the others about half. No two splits share a passage
or a question.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkv.data.questions import Answer, Question
from qkv.data.sets import Folder, NamedSet
from qkv.errors import DataError

FOLDER = Path(__file__).with_name("passages")


def read_passages(path: Path) -> list[Question]:
    """Read questions from JSON lines, one passage with its questions each.

    The position of an answer is its first occurrence as a whole word.

    Raises:
        DataError: an answer is not in its passage.
    """
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        for n, one in enumerate(row["questions"]):
            where = f"{path}, line {number}, question {n + 1}"
            answers = [_answer(row["passage"], text, where) for text in one["answers"]]
            questions.append(_question(row, n, one["question"], answers))
    return questions


def _question(row: dict[str, Any], n: int, question: str, answers: list[Answer]) -> Question:
    return Question(
        id=f"{row['title']}/{n}",
        question=question,
        context=row["passage"],
        answers=tuple(answers),
        source=row["title"],
    )


def _answer(passage: str, text: str, where: str) -> Answer:
    found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", passage)
    if found is None:
        raise DataError(f"{where}: the answer {text!r} is not in the passage; expected its words")
    return Answer(text, found.start())


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Question]:
    return read_passages(FOLDER / f"{split}.jsonl")


SETS = (
    NamedSet(
        name="passages",
        task="answer",
        splits=("train", "validation", "test"),
        read=_read,
        summary="3,885 questions on 351 passages, 1,893 unanswerable; ships with qkv, Apache-2.0",
    ),
)
