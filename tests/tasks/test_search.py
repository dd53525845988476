"""`qkv search`: the closest texts first, from lines and tables, with stored vectors."""

import json

import numpy as np
import pytest
import torch
from tests.tasks.small import write_base

import qkv
from qkv.cli import main
from qkv.errors import ConfigError, DataError
from qkv.tasks.embedding import Embedder
from qkv.tasks.pretrained import load
from qkv.tasks.search import Searcher

DOCUMENTS = [
    "The library opens at nine on weekdays.",
    "Bananas and oranges are sold by the pound.",
    "My car's engine makes a strange noise.",
    "Refunds are paid within ten days.",
]


@pytest.fixture
def folder(tmp_path):
    return write_base(tmp_path / "base")


def test_an_obvious_match_is_first():
    search = qkv.task("search")
    for query, best in (
        ("when can I get my money back", 3),
        ("fruit", 1),
        ("opening hours", 0),
        ("vehicle trouble", 2),
    ):
        found = search(query, documents=DOCUMENTS, top_k=2)
        assert (found.query, len(found.hits)) == (query, 2)
        assert found.hits[0].text == DOCUMENTS[best]
        assert found.hits[0].where == str(best + 1)
        assert found.hits[0].score > found.hits[1].score


def test_scores_are_cosines_and_ties_keep_the_order(folder):
    loaded = load(folder, dtype=torch.float64)
    search, embed = Searcher.of(loaded), Embedder.of(loaded)
    documents = ["the film", "soup", "the film", "a rude book ."]
    queries = ["the film", "a tool"]
    found = search(queries, documents=documents)
    assert [one.query for one in found] == queries
    assert [hit.where for hit in found[0].hits][:2] == ["1", "3"]
    scores = embed(queries) @ embed(documents).T
    for one, row in zip(found, scores, strict=True):
        ranked = [hit.score for hit in one.hits]
        np.testing.assert_allclose(ranked, sorted(row, reverse=True), atol=1e-13)
    assert search(queries, documents=documents, vectors=embed(documents)) == found
    with pytest.raises(ConfigError, match="top_k = 0; expected at least 1"):
        search("a", documents=documents, top_k=0)
    with pytest.raises(DataError, match="documents = 'soup'; expected a list of texts"):
        search("a", documents="soup")
    with pytest.raises(DataError, match=r"vectors of shape \(4, 5\) for 4 documents and a model "):
        search("a", documents=documents, vectors=np.zeros((4, 5)))


@pytest.mark.parametrize("name", ["notes.md", "notes.txt"])
def test_lines_of_a_file(folder, tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text("the film was fine\n\n  \na soup .\na rude\tbook !\n")
    options = ["-m", str(folder), "--file", str(path)]
    assert main(["search", *options, "--top-k", "2", "a soup ."]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "1.000\tline 4\ta soup ."
    assert second.split("\t")[1] in ("line 1", "line 5")
    assert main(["search", *options, "a soup .", "the film"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["a soup ."] * 3 + ["the film"] * 3
    assert main(["search", *options, "--json", "a rude book !"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["query"] == "a rude book !"
    assert found["hits"][0]["where"] == "line 5"
    assert found["hits"][0]["text"] == "a rude\tbook !"


def test_a_table_and_stored_vectors(folder, tmp_path, capsys, monkeypatch):
    table = tmp_path / "docs.csv"
    table.write_text("id,body\n1,the film was fine\n2,a soup\n")
    options = ["-m", str(folder), "--file", str(table), "--columns.text", "body"]
    stored, output = tmp_path / "v.npy", tmp_path / "hits.jsonl"
    assert main(["embed", *options, "--output", str(stored)]) == 0
    assert main(["search", *options, "--output", str(output), "soup"]) == 0
    expected = json.loads(output.read_text())
    assert expected["hits"][0]["where"] == "line 3"
    assert main(["search", *options, "--vectors", str(stored), "--json", "soup"]) == 0
    assert json.loads(capsys.readouterr().out) == expected
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["search", *options, "soup"]) == 0
    out = capsys.readouterr().out
    assert "soup" in out.splitlines()[0]
    assert "│ line 3 │ a soup" in out


def test_bad_rows_are_reported_and_the_rest_is_searched(folder, tmp_path, capsys):
    table = tmp_path / "docs.jsonl"
    table.write_text('{"text": "a soup"}\n{"text": ""}\n')
    assert main(["search", "-m", str(folder), "-f", str(table), "soup"]) == 2
    out, err = capsys.readouterr()
    assert out.endswith("line 1\ta soup\n")
    assert "docs.jsonl, line 2: the text is empty" in err
    assert "1 of 2 texts were left out, see above" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["soup"], "qkv search needs --file FILE, whose lines or rows it searches"),
        (["-f", "docs.txt", "--top-k", "0", "soup"], "--top-k 0; expected at least 1"),
        (["-f", "docs.txt", ""], "argument 1: empty; expected a text"),
        (["-f", "blank.txt", "soup"], "blank.txt is empty; expected text"),
        (["-f", "zeros.pdf", "soup"], "zeros.pdf has zero bytes; expected a text or a table"),
        (["-f", "docs.txt", "--vectors", "none.npy", "soup"], "none.npy cannot be read as a .npy"),
        (["-f", "docs.txt", "--vectors", "docs.txt", "soup"], "docs.txt cannot be read as a .npy"),
        (["-f", "docs.txt", "--vectors", "nan.npy", "soup"], "nan.npy has no matrix of finite nu"),
        (["-f", "docs.txt", "--vectors", "two.npy", "soup"], "vectors of shape (2, 3) for 1 docum"),
        (["-f", "docs.txt", "-o", "docs.txt", "soup"], "docs.txt would replace the file that cont"),
    ],
)
def test_what_is_refused(folder, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs.txt").write_text("a soup\n")
    (tmp_path / "blank.txt").write_text("\n \n")
    (tmp_path / "zeros.pdf").write_bytes(b"%PDF\n\0\1")
    np.save(tmp_path / "nan.npy", np.full((1, 22), np.nan))
    np.save(tmp_path / "two.npy", np.zeros((2, 3)))
    assert main(["search", "-m", str(folder), *options]) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "docs.txt").read_text() == "a soup\n"
