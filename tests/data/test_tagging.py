"""Tagged sentences: both formats, problems by line, and the set that ships with the package."""

import gzip
import json
import re

import pytest

from qkv.data.sets import load_set, named_sets
from qkv.data.tagging import TaggedSentence, read_tagged
from qkv.errors import DataError
from qkv.evaluation.entities import spans

ANN = TaggedSentence(("Ann", "saw", "New", "York"), ("B-PER", "O", "B-LOC", "I-LOC"))
BOB = TaggedSentence(("Bob", "slept"), ("B-PER", "O"))
CONLL = (
    "-DOCSTART- -X- O O\n\nAnn NNP B-NP B-PER\nsaw VBD B-VP O\nNew NNP B-NP B-LOC\n"
    "York NNP I-NP I-LOC\n\n\nBob NNP B-NP B-PER\nslept VBD B-VP O\n"
)


def write(path, text):
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def as_json(*sentences):
    return "".join(json.dumps(sentence._asdict()) + "\n" for sentence in sentences)


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.conll.gz"])
@pytest.mark.parametrize("change", [("", ""), (" ", "\t"), ("\n", "\r\n"), ("\n\n", "\n \t\n")])
def test_both_formats_give_the_same_sentences(tmp_path, name, change):
    assert read_tagged(write(tmp_path / name, CONLL.replace(*change))) == [ANN, BOB]
    assert read_tagged(write(tmp_path / "a.jsonl", as_json(ANN, BOB))) == [ANN, BOB]


def test_columns_are_chosen_by_number_or_name(tmp_path):
    path = write(tmp_path / "a.conll", CONLL)
    assert read_tagged(path, columns=(0, 1))[1] == (("Bob", "slept"), ("NNP", "VBD"))
    path = write(tmp_path / "a.jsonl", json.dumps({"words": ["Bob"], "pos": ["NNP"]}))
    assert read_tagged(path, columns=("words", "pos")) == [(("Bob",), ("NNP",))]


CONLL_PROBLEMS = {
    "wrong number of columns": ("Ann\tB-PER\nNew York\tO\n", "line 2, has 3 columns, expected 2"),
    "one column": ("Ann\tB-PER\nsaw\n", "line 2, has 1 columns, expected 2 as in the first line"),
    "I- without B-": (
        "Ann O\nYork I-LOC\n",
        r"sentence at line 1, token 2 \('York'\): I-LOC follows O; expected B-LOC .*IOB1",
    ),
    "another type": ("Ann B-PER\nYork I-LOC\n", "I-LOC follows B-PER; expected B-LOC"),
    "not a BIO tag": ("Ann B-PER\nYork NNP\n", "the tag 'NNP' is not a BIO tag; expected O, B-T"),
}
JSON_PROBLEMS = {
    "cut": ('{"tokens": ["a"]', "line 1, is not JSON"),
    "a list": ("[1]", "line 1, has tokens = None and tags = None; expected two lists of texts"),
    "a number": ('{"tokens": ["a"], "tags": [1]}', r"tags = \[1\]; expected two lists"),
    "a tag less": ('{"tokens": ["a", "b"], "tags": ["O"]}', "line 1: 2 tokens and 1 tags; exp"),
    "nothing": ('{"tokens": [], "tags": []}', "0 tokens and 0 tags; .* at least one token"),
    "an empty token": ('{"tokens": [" "], "tags": ["O"]}', "a token or a tag is empty"),
}


@pytest.mark.parametrize("name", [*CONLL_PROBLEMS, *JSON_PROBLEMS])
def test_a_problem_is_located(tmp_path, name):
    content, message = {**CONLL_PROBLEMS, **JSON_PROBLEMS}[name]
    path = tmp_path / ("a.conll" if name in CONLL_PROBLEMS else "a.jsonl")
    with pytest.raises(DataError, match=message):
        read_tagged(write(path, content))


def test_all_problems_are_reported_and_good_sentences_kept(tmp_path):
    parts = ["Ann B-PER\n", "York I-LOC\n", "Bob B-PER\nslept\n", "York I-LOC\n"]
    path = write(tmp_path / "a.conll", "\n".join(parts))
    with pytest.raises(DataError) as caught:
        read_tagged(path)
    first, *rest = str(caught.value).split("\n")
    assert first.startswith("3 of the 4 rows of ")
    assert rest[0].startswith("- I- without B- (2): sentence at line 3, token 1 ('York'): I-LOC")
    assert rest[1] == "  also in lines 8"
    assert rest[2].startswith("- wrong number of columns (1): line 6, has 1 columns, expected 2")
    problems = []
    assert read_tagged(path, problems=problems) == [(("Ann",), ("B-PER",))]
    assert len(problems) == 3
    with pytest.raises(DataError, match="has no sentences; expected at least one"):
        read_tagged(write(tmp_path / "b.conll", "-DOCSTART- O\n\n"))


SPLITS = {"train": 475, "validation": 113, "test": 186}


@pytest.fixture(scope="module")
def news():
    return {split: load_set("tag", "town_news", split) for split in SPLITS}


def test_the_news_are_enough_of_each_kind(news):
    assert named_sets("tag")["town_news"].splits == tuple(SPLITS)
    assert {split: len(rows) for split, rows in news.items()} == SPLITS
    for rows in news.values():
        kinds = [one.label for row in rows for one in spans(row.tags)]
        assert set(kinds) == {"PER", "LOC", "ORG", "DATE"}
        assert min(kinds.count(kind) for kind in set(kinds)) > 0.1 * len(kinds)
        assert len(set(rows)) == len(rows)


def test_the_splits_of_the_news_share_no_pattern_and_no_name(news):
    patterns, names = {}, {}
    for split, rows in news.items():
        patterns[split] = {
            re.sub(
                r"\b(the|The|in) (?=[A-Z])",
                "",
                " ".join(
                    token if tag == "O" else tag[2:]
                    for token, tag in zip(*row, strict=True)
                    if not tag.startswith("I-")
                ),
            )
            for row in rows
        }
        names[split] = {
            " ".join(row.tokens[one.start : one.end])
            for row in rows
            for one in spans(row.tags)
            if one.label != "DATE"
        }
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        assert not patterns[one] & patterns[other]
        assert not names[one] & names[other]
