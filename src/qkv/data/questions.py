"""Questions whose answers are spans of a passage, and a reader of SQuAD's JSON."""

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
    """An answer, and the index of its first character in the passage.

    `start` is None if the answer is not a span of the passage: it can be scored, not trained on.
    """

    text: str
    start: int | None


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question on a passage, with its reference answers.

    Args:
        id: unique id of the question in its file.
        question: the question.
        context: the passage.
        answers: all correct answers; empty if the passage does not answer the question.
        source: a key such as the article; questions with the same one share a split.
    """

    id: str
    question: str
    context: str
    answers: tuple[Answer, ...]
    source: str

    @property
    def span(self) -> Answer | None:
        """The answer to train on: the first one that is a span; None if none is."""
        return next((answer for answer in self.answers if answer.start is not None), None)


def make_question(question: str, context: str, answer: str) -> Question:
    """Return a question from a row of a table; its span is the first occurrence of the answer."""
    start = find(context, answer)
    answers = (Answer(answer, None if start < 0 else start),)
    return Question(id="", question=question, context=context, answers=answers, source=context)


def references(questions: Sequence[Question]) -> list[list[str]]:
    """Return the correct answers to each question."""
    return [[answer.text for answer in question.answers] for question in questions]


def read_squad(path: str | os.PathLike[str]) -> list[Question]:
    """Read a file in the JSON of SQuAD 1.1 or 2.0 (Rajpurkar et al. 2016 and 2018), plain or .gz.

    Unanswerable questions (`is_impossible` in 2.0) have no answers; their `plausible_answers`,
    which are wrong, are ignored.

    Raises:
        DataError: the file is not such JSON, an answer is not at its offset, or two questions have
            the same id.
    """
    text = decode(read_content(path), path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is not JSON: {error} (is it truncated, or JSON lines, which are read as a "
            "table?)"
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
                        f"{path}, {of_question}: the id {quoted(question.id)} occurs twice; "
                        "expected another one for each question (was a file appended to itself?)"
                    )
                seen.add(question.id)
                questions.append(question)
    if not questions:
        raise DataError(f"{path} has no questions; expected at least one")
    return questions


def _read_question(
    path: str | os.PathLike[str], row: dict[str, Any], where: str, context: str, source: str
) -> Question:
    answers = []
    for item, at in _items(path, row, "answers", where):
        answer = Answer(_text(path, item, "text", at), _offset(path, item, at))
        check_answer(answer, context, f"{path}, {at}")
        answers.append(answer)
    if answers and row.get("is_impossible"):
        raise DataError(
            f"{path}, {where}: is_impossible is true, but there are {len(answers)} answers; "
            "expected none (wrong answers belong in plausible_answers)"
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
    """Check that an answer is in the passage at its offset.

    Raises:
        DataError: the passage has other text there, which the message quotes.
    """
    text, start = answer
    actual = context[start : start + len(text)] if start is not None and start >= 0 else ""
    if actual != text:
        hint = f"; the answer is at {context.find(text)}" if text in context else ""
        raise DataError(
            f"{where}: the answer {quoted(text)} should begin at character {start} of the passage, "
            f"but the text there is {quoted(actual)}{hint} (are the offsets counted in "
            "bytes, or was the passage changed afterwards?)"
        )


def _items(
    path: str | os.PathLike[str], parent: Any, name: str, where: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the objects of a list and their names in errors, such as data[0].paragraphs[3]."""
    items = parent.get(name) if isinstance(parent, dict) else None
    at = f"{where}.{name}" if where else name
    if not isinstance(items, list):
        raise DataError(
            f"{path}: {at} is {_kind(items)}, expected a list (is this SQuAD's JSON: data, "
            "paragraphs, qas, answers?)"
        )
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise DataError(f"{path}: {at}[{number}] is {_kind(item)}, expected an object")
        yield item, f"{at}[{number}]"


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
