"""Questions on a passage, whose answers are spans of it, from files in SQuAD's JSON."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from qkv.data.graphemes import find
from qkv.data.text import decode, read_content
from qkv.errors import DataError
from qkv.json_fields import quoted, shown


class Answer(NamedTuple):
    """An answer, and the character of the passage where it begins.

    `start` is None where the words do not stand side by side: such an answer can be scored, but is
    no span to learn.
    """

    text: str
    start: int | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, and the answers that people gave.

    Args:
        id: that no other question of the file has.
        question: as it was asked.
        context: the passage.
        answers: all of them right; none where the passage does not tell.
        source: such as the article; questions that share it belong to the same part of the data.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    source: str

    @property
    def span(self) -> Answer | None:
        """The answer to learn: the first that is a span; None where there is none."""
        return next((answer for answer in self.answers if answer.start is not None), None)


def make_question(question: str, context: str, answer: str) -> Question:
    """Make a question of a table's row; its answer is trained on where the passage first has it."""
    start = find(context, answer)
    answers = (Answer(answer, None if start < 0 else start),)
    return Question(id="", question=question, context=context, answers=answers, source=context)


def references(questions: Sequence[Question]) -> list[list[str]]:
    """Return the right answers to each question."""
    return [[answer.text for answer in one.answers] for one in questions]


def read_squad(path: str | os.PathLike[str]) -> list[Question]:
    """Read a file in the JSON of SQuAD 1.1 or 2.0 (Rajpurkar et al. 2016 and 2018), plain or .gz.

    A question without answers has none, as `is_impossible` says of it in 2.0, where
    `plausible_answers` are wrong ones and not read.

    Raises:
        DataError: the file is no such JSON, an answer does not stand where the file says, or two
            questions have one id.
    """
    text = decode(read_content(path), path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is no JSON: {error} (was it cut short, or is it JSON lines, which are read as "
            "a table?)"
        ) from error
    questions, seen = [], set[str]()
    for article, where in _items(path, content, "data", ""):
        source = str(article.get("title", where))
        for paragraph, of_paragraph in _items(path, article, "paragraphs", where):
            context = _text(path, paragraph, "context", of_paragraph)
            for row, of_question in _items(path, paragraph, "qas", of_paragraph):
                question = _read_question(path, row, of_question, context, source)
                if question.id in seen:
                    raise DataError(
                        f"{path}, {of_question}: the id {quoted(question.id)} stands there twice; "
                        "expected one for each question (was a file appended to itself?)"
                    )
                seen.add(question.id)
                questions.append(question)
    if not questions:
        raise DataError(f"{path} has no questions: expected one or more")
    return questions


def _read_question(
    path: str | os.PathLike[str], row: dict[str, Any], where: str, context: str, source: str
) -> Question:
    answers = []
    for given, at in _items(path, row, "answers", where):
        answer = Answer(_text(path, given, "text", at), _offset(path, given, at))
        check_answer(answer, context, f"{path}, {at}")
        answers.append(answer)
    if answers and row.get("is_impossible"):
        raise DataError(
            f"{path}, {where}: is_impossible is true, and there are {len(answers)} answers; "
            "expected none (wrong ones are plausible_answers)"
        )
    identity = row.get("id")
    if not isinstance(identity, str | int):
        raise DataError(f"{path}, {where}: the id is {shown(identity)}; expected a text")
    return Question(
        id=str(identity),
        question=_text(path, row, "question", where),
        context=context,
        answers=tuple(answers),
        source=source,
    )


def check_answer(answer: Answer, context: str, where: str) -> None:
    """Refuse an answer that does not stand in the passage where it says.

    Raises:
        DataError: saying what stands there.
    """
    text, start = answer
    found = context[start : start + len(text)] if start is not None and start >= 0 else ""
    if found != text:
        hint = f"; it stands at {context.find(text)}" if text in context else ""
        raise DataError(
            f"{where}: the answer {quoted(text)} should begin at character {start} of the passage, "
            f"where {quoted(found)} stands{hint} (are the offsets counted in bytes, or was the "
            "passage changed afterwards?)"
        )


def _items(
    path: str | os.PathLike[str], parent: Any, name: str, where: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects in a list, and what errors call each, such as data[0].paragraphs[3]."""
    items = parent.get(name) if isinstance(parent, dict) else None
    place = f"{where}.{name}" if where else name
    if not isinstance(items, list):
        raise DataError(
            f"{path}: {place} is {_kind(items)}, expected a list (is this SQuAD's JSON: data, "
            "paragraphs, qas, answers?)"
        )
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise DataError(f"{path}: {place}[{number}] is {_kind(item)}, expected an object")
        yield item, f"{place}[{number}]"


def _text(path: str | os.PathLike[str], row: dict[str, Any], name: str, where: str) -> str:
    text = row.get(name)
    if not isinstance(text, str) or not text.strip():
        raise DataError(
            f"{path}, {where}: the {name} is {_kind(text)}, expected a text that is not empty"
        )
    return text


def _offset(path: str | os.PathLike[str], row: dict[str, Any], where: str) -> int:
    start = row.get("answer_start")
    if not isinstance(start, int):
        raise DataError(f"{path}, {where}: answer_start is {_kind(start)}, expected a number")
    return start


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    return "missing" if value is None else f"a {type(value).__name__}"
