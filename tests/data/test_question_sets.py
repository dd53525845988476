"""Named sets of questions: published sizes, answers where they say, parts of their own sources."""

import functools
import re

import pytest

from qkv.data.babi import read_babi
from qkv.data.qamr import join_tokens, read_qamr
from qkv.data.question_sets import SETS, question_set
from qkv.data.questions import Answer
from qkv.errors import DataError

load = functools.cache(question_set)

SIZES = {
    ("squadshifts", "new_wiki"): 7_938,
    ("xquad", "en"): 1_190,
    ("xquad", "zh"): 1_190,
    ("qamr", "train"): 17_370,
    ("qamr", "validation"): 1_538,
    ("qamr", "test"): 18_770,
    ("jaquad", "validation"): 3_939,
    ("babi", "train"): 10_000,
    ("babi", "test"): 1_000,
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
    parts = [load("qamr", split, shared_data) for split in SETS["qamr"]]
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
        ({"other": "4:Invalid"}, r"line 2: the answer 'Invalid' is no list of numbers .*filtered"),
        ({"key": "Wiki1k:x:1:1:1"}, r"line 2: no sentence 'Wiki1k:x:1:1:1' in .*s\.tsv"),
        ({"question": " "}, r"line 2: the question is empty"),
    ],
)
def test_qamr_that_does_not_fit_is_named_by_line(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read_qamr(*write_qamr(tmp_path, row(), row(**changes)))


def test_a_story_is_told_up_to_the_question(tmp_path):
    path = tmp_path / "qa1.txt"
    path.write_text(
        "1 Mary moved to the bathroom.\n2 John went to the hall.\n3 Where is Mary? \tbathroom\t1\n"
        "4 Mary went to the hall.\n5 Where is Mary? \thall\t4\n"
        "1 Ann is in the hall.\n2 Where is Ann?\thall\t1\n"
    )
    first, second, third = read_babi(path)
    assert first.context == "Mary moved to the bathroom. John went to the hall."
    assert (first.question, first.answers) == ("Where is Mary?", (Answer("bathroom", 18),))
    # The hall where Mary went, and not the one where John did.
    assert second.context == first.context + " Mary went to the hall."
    assert second.answers == (Answer("hall", 68),)
    assert (third.context, third.answers) == ("Ann is in the hall.", (Answer("hall", 14),))
    assert [q.source for q in (first, second, third)] == ["1", "1", "2"]
    assert len({q.id for q in (first, second, third)}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Mary moved.", r"qa1\.txt, line 2, is 'Mary moved\.'; expected '1 A sentence"),
        ("2 Where?\thall\t1 2", r"line 2, is .*is it another task's"),
        ("2 Where?\tkitchen\t1", r"line 2: the answer 'kitchen' does not stand in sentence 1 of"),
        ("2 Where?\thal\t1", r"the answer 'hal' does not stand"),
        ("2 Where?\thall\t9", r"the answer 'hall' does not stand in sentence 9 of the story, ''"),
    ],
)
def test_a_broken_story_is_named_by_line(tmp_path, text, message):
    (tmp_path / "qa1.txt").write_text(f"1 Ann is in the hall.\n{text}\n")
    with pytest.raises(DataError, match=message):
        read_babi(tmp_path / "qa1.txt")


def test_what_is_not_there_is_answered_with_what_is(tmp_path):
    with pytest.raises(DataError, match="no data set 'squad': expected squadshifts, xquad, qamr"):
        question_set("squad", "train")
    with pytest.raises(DataError, match="no part 'fr' of xquad: expected en, de, es, zh"):
        question_set("xquad", "fr")
    with pytest.raises(DataError, match="no data set 'qamr': looked for the folder"):
        question_set("qamr", "test", tmp_path)
    (tmp_path / "jaquad" / "dev").mkdir(parents=True)
    with pytest.raises(DataError, match=r"no \.json in .*jaquad.dev: expected the files of jaquad"):
        question_set("jaquad", "validation", tmp_path)
