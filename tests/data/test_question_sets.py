"""Named sets of questions: published sizes, answers where they say, parts of their own sources."""

import functools
import itertools
import json
import re

import pytest

from qkv.data.questions import Answer
from qkv.data.sets import load_set, named_sets
from qkv.data.sets.passages import read_passages
from qkv.data.sets.qamr import join_tokens, read_qamr
from qkv.errors import DataError

load = functools.cache(functools.partial(load_set, "answer"))

SIZES = {
    ("squadshifts", "new_wiki"): 7_938,
    ("xquad", "en"): 1_190,
    ("xquad", "zh"): 1_190,
    ("qamr", "train"): 17_370,
    ("qamr", "validation"): 1_538,
    ("qamr", "test"): 18_770,
}


@pytest.mark.parametrize(("name", "split"), SIZES)
def test_the_real_sets_have_their_published_sizes(shared_data, name, split):
    questions = load(name, split, shared_data)
    assert len(questions) == len({question.id for question in questions}) == SIZES[name, split]
    for question in questions:
        assert question.answers
        for text, start in question.answers:
            assert text.strip()
            if start is not None:
                assert question.context[start : start + len(text)] == text


def test_qamr_parts_share_no_article(shared_data):
    parts = [load("qamr", split, shared_data) for split in named_sets("answer")["qamr"].splits]
    assert len(parts[0]) + len(parts[1]) == 18_908
    sources = [{question.source for question in part} for part in parts]
    assert not sources[0] & sources[1]
    assert not (sources[0] | sources[1]) & sources[2]
    whole = [question.answers[0].start is not None for part in parts for question in part]
    assert sum(whole) / len(whole) == pytest.approx(0.975, abs=0.005)


def test_qamr_reads_as_one_writes(shared_data):
    questions = load("qamr", "test", shared_data)
    (question,) = (q for q in questions if q.question.startswith("Where did Holder need to"))
    assert question.context.startswith("Obama instructed Eric Holder, the US attorney general, to")
    assert question.answers == (Answer("federal law", 94), Answer("in federal law.", 91))
    for context in {q.context for q in questions}:
        assert not re.search(r"-[LR][RSC]B-|``|''| ,| \.$| n't| 's\b|\( ", context), context


def test_passages_share_nothing_and_have_their_answers():
    parts = {split: load("passages", split) for split in named_sets("answer")["passages"].splits}
    counts = {"train": (277, 1600, 1500), "validation": (34, 192, 193), "test": (40, 200, 200)}
    for split, (n_passages, n_answerable, n_unanswerable) in counts.items():
        part = parts[split]
        assert len({one.context for one in part}) == n_passages
        assert len({one.source for one in part}) == n_passages
        assert sum(bool(one.answers) for one in part) == n_answerable
        assert sum(not one.answers for one in part) == n_unanswerable
        assert split != "test" or all("\n\n" in one.context for one in part)
        for one in part:
            for text, start in one.answers:
                assert one.context[start : start + len(text)] == text
    everything = [one for part in parts.values() for one in part]
    assert len({one.id for one in everything}) == len(everything)
    assert len({(one.question, one.context) for one in everything}) == len(everything)
    for one, other in itertools.combinations(parts.values(), 2):
        assert not {x.context for x in one} & {x.context for x in other}
        assert not {x.source for x in one} & {x.source for x in other}
        assert not {x.question for x in one} & {x.question for x in other}
        assert not runs_of_words(one, 9) & runs_of_words(other, 9)


def runs_of_words(questions, n):
    words = [context.split() for context in {one.context for one in questions}]
    return {tuple(of[i : i + n]) for of in words for i in range(len(of) - n + 1)}


def test_an_answer_of_a_passage_is_a_whole_word_of_it(tmp_path):
    row = {"title": "t", "passage": "None but one.", "questions": [{"question": "How many?"}]}
    row["questions"][0]["answers"] = ["one"]
    (tmp_path / "my.jsonl").write_text(json.dumps(row))
    (question,) = read_passages(tmp_path / "my.jsonl")
    assert question.answers == (Answer("one", 9),)
    row["questions"][0]["answers"] = ["on"]
    (tmp_path / "my.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match="line 1, question 1: the answer 'on' is not in the pass"):
        read_passages(tmp_path / "my.jsonl")


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("He did n't , -LRB- yet -RRB- .", "He didn't, (yet)."),
        ("`` Stop ! '' she 'd said ; I 'm 5 % off .", "\"Stop!\" she'd said; I'm 5% off."),
        ("It cost $ 3 : that 's the girls ' own", "It cost $3: that's the girls' own"),
        ("AC\\/DC -LSB- ... -RSB- 5\\*", "AC/DC [...] 5*"),
        (", a", ", a"),
    ],
)
def test_tokens_are_joined_and_stay_where_they_are(tokens, text):
    joined, spans = join_tokens(tokens.split(" "))
    assert joined == text
    kept = [joined[start:end] for start, end in spans]
    assert "".join(kept) == text.replace(" ", "")
    assert len(kept) == len(tokens.split(" "))


def write_qamr(folder, *rows, sentence="The red , old dogs of Mr. Poe barked ."):
    (folder / "q.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (folder / "s.tsv").write_text(f"Wiki1k:wikipedia:5:7:0\t{sentence}\n")
    return folder / "q.tsv", folder / "s.tsv"


def row(answer="8", one="3:8", other="4:8", key="Wiki1k:wikipedia:5:7:0", question="Who?"):
    return [key, "1 2", "9", "0", "1", question, answer, one, other]


def test_answers_are_words_by_their_numbers(tmp_path):
    paths = write_qamr(tmp_path, row("7 6", "3:0 1 3 4", "4:1 2 3 4"), row())
    first, second = read_qamr(*paths)
    assert first.context == "The red, old dogs of Mr. Poe barked."
    # "Mr. Poe"; "The red" and "old dogs", which a comma parts; and with the comma.
    assert first.answers == (
        Answer("Mr. Poe", 21),
        Answer("The red old dogs", None),
        Answer("red, old dogs", 4),
    )
    assert second.answers == (Answer("barked", 29),)
    assert (first.id, first.source) == ("Wiki1k:wikipedia:5:7:0/1 2/9/0", "Wiki1k:wikipedia:5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": "9 10"}, r"q\.tsv, line 2: the answer has the words 9 10, but .* has 10"),
        ({"one": "3:-1"}, r"line 2: the answer has the words -1, but the sentence has 10"),
        (
            {"other": "4:Invalid"},
            r"line 2: the answer 'Invalid' is not a list of word indices",
        ),
        ({"key": "Wiki1k:x:1:1:1"}, r"line 2: no sentence 'Wiki1k:x:1:1:1' in .*s\.tsv"),
        ({"question": " "}, r"line 2: the question is empty"),
    ],
)
def test_qamr_that_does_not_fit_is_named_by_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_qamr(*write_qamr(tmp_path, row(), row(**changes)))


def test_what_is_not_there_is_answered_with_what_is(tmp_path):
    with pytest.raises(
        DataError,
        match="no data set 'squad' to answer; expected qamr, squadshifts, x",
    ):
        load("squad", "train")
    with pytest.raises(DataError, match="no split 'fr' of xquad; expected en, de, es, zh"):
        load("xquad", "fr")
    with pytest.raises(DataError, match="no data set 'qamr': looked for the folder"):
        load("qamr", "test", tmp_path)
