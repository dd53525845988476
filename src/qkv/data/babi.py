"""bAbI: made-up stories with questions, each answered by one word of the story.

Weston et al. 2015, https://arxiv.org/abs/1502.05698.
"""

import os
import re

from qkv.data.questions import Answer, Question
from qkv.data.text import read_lines
from qkv.errors import DataError
from qkv.json_fields import quoted

LINE = re.compile(r"(?P<number>\d+) (?P<text>[^\t]*)(\t(?P<answer>[^\t]+)\t(?P<support>\d+))?")


def read_babi(path: str | os.PathLike[str]) -> list[Question]:
    """Read stories with one supporting fact: the passage is what was told before the question.

    Raises:
        DataError: the file cannot be read, a line is none of this task, or an answer does not stand
            in the sentence that supports it.
    """
    questions, story, told = list[Question](), 0, dict[str, tuple[str, int]]()
    context = ""
    for line, text in enumerate(read_lines(path), start=1):
        found = LINE.fullmatch(text)
        if not found:
            raise DataError(
                f"{path}, line {line}, is {quoted(text)}; expected '1 A sentence.', or a "
                "question, its answer and one number of a sentence with tabs between (is it "
                "another task's?)"
            )
        if found["number"] == "1":
            story, told, context = story + 1, {}, ""
        if found["answer"] is None:
            start = len(context) + bool(context)
            told[found["number"]] = found["text"].strip(), start
            context += " " * bool(context) + found["text"].strip()
            continue
        sentence, start = told.get(found["support"], ("", 0))
        word = re.search(rf"\b{re.escape(found['answer'])}\b", sentence)
        if word is None:
            raise DataError(
                f"{path}, line {line}: the answer {quoted(found['answer'])} does not stand "
                f"in sentence {found['support']} of the story, {quoted(sentence)}"
            )
        questions.append(
            Question(
                id=f"{story}/{found['number']}",
                question=found["text"].strip(),
                context=context,
                answers=(Answer(found["answer"], start + word.start()),),
                source=str(story),
            )
        )
    return questions
