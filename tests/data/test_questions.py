"""SQuAD's JSON: what is read, and each broken file named with its place."""

import copy
import gzip
import json

import pytest

from qkv.data.questions import Answer, Question, read_squad
from qkv.errors import DataError

CONTEXT = "Äpfel from Ulm cost 3 €; pears from Bonn cost 5 €."
FILE = {
    "version": "2.0",
    "data": [
        {
            "title": "Fruit",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Where are the apples from?",
                            "is_impossible": False,
                            "answers": [
                                {"text": "Ulm", "answer_start": 11},
                                {"text": "from Ulm", "answer_start": 6},
                            ],
                        },
                        {
                            "id": 7,
                            "question": "Where are the plums from?",
                            "is_impossible": True,
                            "answers": [],
                            "plausible_answers": [{"text": "Bonn", "answer_start": 36}],
                        },
                    ],
                }
            ],
        }
    ],
}


def write(path, content):
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_questions_and_all_their_answers_are_read(tmp_path, name):
    first, second = read_squad(write(tmp_path / name, FILE))
    assert first == Question(
        id="q1",
        question="Where are the apples from?",
        context=CONTEXT,
        answers=(Answer("Ulm", 11), Answer("from Ulm", 6)),
        source="Fruit",
    )
    assert first.span == ("Ulm", 11)
    # What sounds plausible is wrong.
    assert (second.id, second.answers, second.span) == ("7", (), None)


def test_an_article_without_title_is_known_by_its_place(tmp_path):
    content = copy.deepcopy(FILE)
    del content["data"][0]["title"]
    assert {q.source for q in read_squad(write(tmp_path / "a.json", content))} == {"data[0]"}


def test_the_answer_to_learn_is_the_first_that_is_a_span():
    answers = (Answer("apples pears", None), Answer("Ulm", 11))
    question = Question(id="q", question="?", context=CONTEXT, answers=answers, source="s")
    assert question.span == ("Ulm", 11)


def changed(*path, value):
    """The file with the value at this place; None takes it out."""
    content = copy.deepcopy(FILE)
    at = content
    for key in path[:-1]:
        at = at[key]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return content


PARAGRAPH = ("data", 0, "paragraphs", 0)
QUESTION = (*PARAGRAPH, "qas", 0)
ANSWER = (*QUESTION, "answers", 1)
BROKEN = {
    "no JSON": ('{"data": [', r"a\.json is not JSON: .*\(is it truncated"),
    "JSON lines": ('{"id": 1}\n{"id": 2}', r"is not JSON: Extra data: line 2 .*read as a table"),
    "a list": ([1], r"a\.json: data is missing, expected a list \(is this SQuAD's JSON"),
    "no data": (changed("data", value=None), "data is missing, expected a list"),
    "an article of text": (
        changed("data", 0, value="x"),
        r"data\[0\] is 'x', expected an object",
    ),
    "no paragraphs": (
        changed("data", 0, "paragraphs", value={}),
        r"data\[0\]\.paragraphs is a dict, expected a list",
    ),
    "no context": (
        changed(*PARAGRAPH, "context", value=None),
        r"a\.json, data\[0\]\.paragraphs\[0\]: the context is missing, expected a text",
    ),
    "an empty question": (
        changed(*QUESTION, "question", value=" "),
        r"paragraphs\[0\]\.qas\[0\]: the question is ' ', expected a text that is not empty",
    ),
    "no id": (changed(*QUESTION, "id", value=None), r"qas\[0\]: the id is None; expected a text"),
    "an id twice": (
        changed(*PARAGRAPH, "qas", 1, "id", value="q1"),
        r"qas\[1\]: the id 'q1' occurs twice",
    ),
    "hidden answers": (
        changed(*QUESTION, "answers", value=None),
        r"qas\[0\]\.answers is missing, expected a list",
    ),
    "an empty answer": (
        changed(*ANSWER, "text", value=""),
        r"answers\[1\]: the text is '', expected a text",
    ),
    "no offset": (
        changed(*ANSWER, "answer_start", value=None),
        r"answers\[1\]: answer_start is missing, expected a number",
    ),
    # As if Ä took two bytes.
    "a wrong offset": (
        changed(*ANSWER, "answer_start", value=7),
        r"qas\[0\]\.answers\[1\]: the answer 'from Ulm' should begin at character 7 .*"
        r"but the text there is 'rom Ulm '; the answer is at 6 \(are the offsets counted in bytes",
    ),
    "an offset before the beginning": (
        changed(*ANSWER, "answer_start", value=-1),
        r"should begin at character -1 .*, but the text there is ''; the answer is at 6",
    ),
    "an answer from elsewhere": (
        changed(*ANSWER, "text", value="Ulm in"),
        r"the answer 'Ulm in' should begin at character 6 .* but the text there is 'from U' \(are",
    ),
    "an answer to what has none": (
        changed(*QUESTION, "is_impossible", value=True),
        r"qas\[0\]: is_impossible is true, but there are 2 answers; expected none",
    ),
    "no questions": (
        changed(*PARAGRAPH, "qas", value=[]),
        r"a\.json has no questions; expected at least one",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_named_with_its_place(tmp_path, name):
    content, message = BROKEN[name]
    with pytest.raises(DataError, match=message):
        read_squad(write(tmp_path / "a.json", content))
