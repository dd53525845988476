"""Texts with summaries: formats from made-up files, real sets by their sizes alone."""

import gzip
import io
import json
import tarfile
from collections import Counter

import pytest

from qkv.data.archives import read_members
from qkv.data.sets import docstrings, load_set
from qkv.data.sets.aeslc import read_aeslc
from qkv.data.sets.dialogsum import read_dialogsum
from qkv.data.sets.docstrings import DocstringCorpus, Function, definition
from qkv.data.sets.prose import prose
from qkv.data.summaries import Summarized
from qkv.errors import DataError

SIZES = {
    ("aeslc", "validation"): (1_960, 4),
    ("aeslc", "test"): (1_906, 4),
    ("dialogsum", "validation"): (500, 1),
    ("dialogsum", "test"): (500, 3),
    ("prose", "test"): (60, 2),
}


def pack(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            content = content if isinstance(content, bytes) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "split"), SIZES)
def test_the_real_sets_have_their_published_sizes(shared_data, name, split):
    examples = load_set("summarize", name, split, shared_data)
    n_examples, n_summaries = SIZES[name, split]
    assert len(examples) == n_examples
    # Not even a failure may quote these texts.
    assert {len(example.summaries) for example in examples} == {n_summaries}
    assert not any("@subject" in example.text for example in examples)
    assert all(example.text.strip() and all(example.summaries) for example in examples)


def test_mail_is_parted_at_its_marks(tmp_path):
    files = {
        "dev/b.subject": "Bring your own cup.\n\nNo @subject here.\n\n@subject\nCups\n\n@ann0\n\n"
        "Bring a cup\n@ann1\r\nCup\n",
        "dev/a.subject": "Ünïcode\n@subject \nOne",
    }
    assert read_aeslc(pack(tmp_path / "dev.tar.gz", files)) == [
        Summarized("Bring your own cup.\n\nNo @subject here.", ("Cups", "Bring a cup", "Cup")),
        Summarized("Ünïcode", ("One",)),
    ]


@pytest.mark.parametrize(
    "text",
    ["secret words\n", "\n@subject\nsecret\n", "secret\n@subject\n\n@ann0\nx", "secret\n@ann0\nx"],
)
def test_mail_of_another_form_is_named_and_not_quoted(tmp_path, text):
    path = pack(tmp_path / "dev.tar.gz", {"dev/good": "a\n@subject\nb", "dev/bad": text})
    with pytest.raises(DataError, match=r"dev/bad in .*dev\.tar\.gz has the marks \[") as error:
        read_aeslc(path)
    assert "secret" not in str(error.value)


def test_the_texts_of_the_project_are_of_six_kinds():
    kinds = Counter(one.kind for one in prose())
    assert kinds == {
        "email": 15,
        "news": 12,
        "article": 10,
        "minutes": 8,
        "review": 8,
        "dialogue": 7,
    }
    assert len({one.id for one in prose()}) == len({one.text for one in prose()}) == 60
    assert all(one.id.startswith(one.kind) for one in prose())


def test_dialogues_have_one_summary_or_several(tmp_path):
    rows = [
        {"dialogue": " #Person1#: Hi.\n", "summary": "Greeting ", "topic": "greetings"},
        {"dialogue": "x", "summary2": "two", "summary1": "one", "topic1": "x"},
    ]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_dialogsum(path) == [
        Summarized("#Person1#: Hi.", ("Greeting",)),
        Summarized("x", ("one", "two")),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"dialogue": "x"', r"d\.jsonl, line 2: not JSON"),
        ("[]", r"line 2 has the fields \[\]; expected a dialogue and one summary"),
        ('{"dialogue": "x"}', r"line 2 has the fields \['dialogue'\]"),
        ('{"summary": "x"}', r"has the fields \['summary'\]"),
        ('{"dialogue": "x", "summary": ""}', r"fields \['dialogue', 'summary'\]; .*none of them"),
        ('{"dialogue": 5, "summary": "x"}', r"fields \['dialogue', 'summary'\]"),
    ],
)
def test_a_dialogue_of_another_format_is_named_by_line(tmp_path, line, message):
    path = tmp_path / "d.jsonl"
    path.write_text('{"dialogue": "x", "summary": "y"}\n' + line)
    with pytest.raises(DataError, match=message):
        read_dialogsum(path)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.txz", "w:xz")]
)
def test_a_tar_is_read_however_it_is_packed(tmp_path, name, mode):
    files = {"./x/1": b"one", "x/._1": b"a shadow of macOS", "y": b""}
    assert list(read_members(pack(tmp_path / name, files, mode))) == [("x/1", b"one"), ("y", b"")]


def test_a_broken_tar_says_how_far_it_went(tmp_path):
    path = pack(tmp_path / "a.tar.gz", {f"{i}": bytes(range(256)) * 99 for i in range(5)})
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], b"no tar", content[:20] + b"xx" + content[22:]):
        path.write_bytes(broken)
        with pytest.raises(
            DataError, match=r"a\.tar\.gz is not a complete tar archive: .*after \d files"
        ):
            list(read_members(path))
    path.write_bytes(gzip.compress(gzip.decompress(content)[:1_000]))
    with pytest.raises(
        DataError, match=r"a\.tar\.gz is not a complete tar archive: unexpected end of data"
    ):
        list(read_members(path))
    with pytest.raises(DataError, match=r"a\.tar is a tar archive without files"):
        list(read_members(pack(tmp_path / "a.tar", {}, "w")))
    with pytest.raises(DataError, match=r"cannot read .*none\.tar"):
        list(read_members(tmp_path / "none.tar"))


def test_docstrings_are_summaries_too(monkeypatch):
    function = Function("def f(x):\n    return x", "Return it as it is.", "f", "python/f.py")
    corpus = DocstringCorpus(
        splits={"train": [], "test": [function]}, sources=(), copies=0, near_copies=0
    )
    monkeypatch.setattr(docstrings, "_corpus", lambda: corpus)
    assert load_set("summarize", "docstrings", "test") == [
        Summarized("def f(x):\n    return x", ("Return it as it is.",))
    ]
    assert load_set("generate", "docstrings", "test") == [
        'def f(x):\n    """Return it as it is."""'
    ]


def test_a_definition_has_the_names_of_the_arguments():
    code = "@one\nasync def f(self, a: int, b=(1, 2), /, *c, d: str = 'x', **e) -> int:\n    go()"
    made = definition(Function(code, "Go there.", "f", "python/a.py"))
    assert made == 'def f(a, b, *c, d, **e):\n    """Go there."""'


def test_what_is_not_there_is_answered_with_what_is():
    message = "no data set 'xsum' to summarize; expected aeslc, dialogsum, prose, docstrings"
    with pytest.raises(DataError, match=message):
        load_set("summarize", "xsum", "train")
    with pytest.raises(DataError, match="no split 'dev' of aeslc; expected train, valid"):
        load_set("summarize", "aeslc", "dev")
