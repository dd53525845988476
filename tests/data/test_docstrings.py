"""The corpus of docstrings: what becomes an example, and parts that share no near copy."""

import ast
import collections
import random
import re
import textwrap
from pathlib import Path

import pytest

from qkv.data.parts import split_by_hash
from qkv.data.sets import docstrings
from qkv.data.sets.docstrings import (
    LICENCES,
    SHARES,
    Function,
    docstring_corpus,
    read_folder,
    read_functions,
    split_functions,
)
from qkv.data.sets.near_copies import NearCopies, similarity
from qkv.errors import DataError, MissingDependencyError

SOURCE = '''
import functools

class Box:
    @functools.cache
    def size(self,
             unit="cm"):
        """Return the size of the box.

        In any unit.
        """
        # as measured
        text = """
not indented"""
        return self._size[unit], text

    def open(self): "Open the box for good."; return 1

    async def ask(self):
        """Ask what the box
        holds."""
        return 2

    def close(self):
        """Close the box."""

    def lock(self):
        """Lock the box at once."""
        raise NotImplementedError("later")

    def shake(self):
        """Shake. 1"""
        def inner():
            """Say what rattles inside."""
            return 3
        return inner
'''


def test_what_becomes_an_example():
    size, inner = read_functions(SOURCE, "box.py")
    assert size == Function(
        code=textwrap.dedent(
            '''\
            @functools.cache
            def size(self,
                     unit="cm"):
                # as measured
                text = """
            not indented"""
                return self._size[unit], text'''
        ),
        summary="Return the size of the box.",
        name="size",
        file="box.py",
    )
    assert (inner.name, inner.code) == ("inner", "def inner():\n    return 3")


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("Sum all numbers.", "Sum all numbers."),
        ("Sum all   numbers\n\n    Of a list.", "Sum all numbers"),
        ("Sum all numbers.\n    And more.", "Sum all numbers."),
        ("\n    Sum all numbers\n    ", "Sum all numbers"),
        ("Sum all numbers of\n    a list.", None),
        ("Sum numbers.", None),
        ("1 2 3 4 5", None),
        ("word " * 31, None),
        ("", None),
    ],
)
def test_a_summary_stands_by_itself_and_has_words(docstring, summary):
    source = f'def f(x):\n    """{docstring}"""\n    return sum(x)\n'
    assert [function.summary for function in read_functions(source, "f.py")] == [summary][
        : summary is not None
    ]


@pytest.mark.parametrize(
    "body", ["pass", "...", "raise NotImplementedError", "raise NotImplementedError('x')", "5"]
)
def test_a_function_that_does_nothing_is_no_example(body):
    assert not list(read_functions(f'def f(x):\n    "Sum all numbers."\n    {body}\n', "f.py"))


def test_what_was_read_is_the_function_without_its_docstring():
    """Of each function of a real file, the code's syntax tree is the function's."""
    source = Path(collections.__file__).read_text("utf-8") + SOURCE
    trees = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:]
            trees.add(ast.dump(ast.Module([node], [])))
    found = list(read_functions(source, "collections.py"))
    assert len(found) >= 20
    for function in found:
        assert ast.dump(ast.parse(function.code)) in trees


def write(folder, files):
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return folder


def example(name, summary, body):
    return f'def {name}(x):\n    """{summary}"""\n{textwrap.indent(body, "    ")}\n'


def test_a_folder_is_read_in_order_without_what_is_not_its_own(tmp_path):
    one = example("one", "Return the first one.", "return 1")
    latin = "# coding: latin-1\n" + example("grüße", "Grüße an alle hier.", "return 2")
    files = {
        "b.py": one,
        "a/z.py": one,
        "a/b/c.py": latin.encode("latin-1"),
        "tests/x.py": one,
        "a/_vendor/x.py": one,
        "test_a.py": one,
        "template.py": "def {{ name }}(): pass",
        "null.py": b"x = '\0'",
        "bytes.py": b"x = '\xff'",
        "a.txt": one,
    }
    functions, n_files, skipped = read_folder(write(tmp_path, files), "pack")
    assert [function.file for function in functions] == [
        "pack/a/b/c.py",
        "pack/a/z.py",
        "pack/b.py",
    ]
    assert functions[0].summary == "Grüße an alle hier."
    assert (n_files, skipped) == (3, 3)


def random_functions(n, seed=0):
    """Functions of random words, some of them copied with few changes into other files."""
    rng, functions = random.Random(seed), []
    words = [f"{a}{b}" for a in "bcdfgklm" for b in ("ar", "el", "ix", "o", "un")]
    for i in range(n):
        body = rng.choices(words, k=rng.randint(5, 60))
        functions.append(
            Function(
                f"def f{i}(x): " + " ".join(body), f"Do {i} {body[0]} now.", f"f{i}", f"p/{i}.py"
            )
        )
        if i % 3 == 0:
            body[rng.randrange(len(body))] = "changed"
            copy = f"def g{i}(x): " + " ".join(body)
            functions.append(Function(copy, f"Make {i} {body[0]} so.", f"g{i}", f"q/{i}.py"))
        if i % 5 == 0:
            functions.append(functions[-1]._replace(file=f"r/{i}.py"))
        if i % 7 == 0:
            body = " ".join(rng.choices(words, k=30))
            functions.append(Function(body, f"Do {i} again and again.", f"f{i}", f"s/{i}.py"))
            functions.append(functions[-1]._replace(code=body[::-1], file=f"t/{i}.py"))
    return functions


def shingles(code):
    words = re.findall(r"\w+|[^\w\s]", code)
    return {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}


def test_no_near_copy_crosses_the_parts():
    functions = random_functions(600)
    parts, copies, near = split_functions(functions)
    kept = [function for part in parts.values() for function in part]
    assert copies == 120
    assert len(kept) + copies + near == len(functions)
    assert len({function.code for function in kept}) == len(kept)
    assert near > 20
    for part, own in parts.items():
        assert {*split_by_hash([function.file for function in own], SHARES)} <= {part}
        assert [f for f in dict.fromkeys(functions) if f in {*own}] == own  # in order
    before = [*parts["train"]]
    for part in ("validation", "test"):
        sets = [shingles(function.code) for function in before]
        described = {(function.name, function.summary) for function in before}
        assert len(parts[part]) > 10
        for function in parts[part]:
            assert (function.name, function.summary) not in described
            mine = shingles(function.code)
            closest = max(len(mine & other) / len(mine | other) for other in sets)
            # Exact below 32 different rows of words, an estimate above.
            assert closest < (0.5 if len(mine) <= 16 else 0.7)
        before += parts[part]


def test_all_depends_on_the_functions_and_not_on_their_order():
    functions = random_functions(120)
    parts, *_ = split_functions(functions)
    shuffled = random.Random(1).sample(functions, len(functions))
    again, *_ = split_functions(iter(shuffled))
    assert {f.code for f in again["test"]} <= {f.code for f in functions}
    assert split_functions(functions)[0] == parts
    kept = {part: {f.code for f in own} for part, own in parts.items()}
    for part in ("validation", "test"):
        assert len(kept[part] ^ {f.code for f in again[part]}) <= 8  # whose copy came first


def test_similarity_is_exact_for_short_texts_and_near_for_long_ones():
    assert similarity(frozenset({1, 2, 3}), frozenset({2, 3, 4})) == 2 / 4
    assert similarity(frozenset({1}), frozenset({2})) == 0
    copies = NearCopies()
    assert not copies.has("a b c d e")
    copies.add("a b c d e f g h")
    # Four rows of five words; one word more at the end keeps all four of five.
    assert copies.has("a b c d e f g h i")
    assert not copies.has("x b c d e f g y")
    assert copies.has("a  b c\nd e f g h")
    copies.add("if")
    assert copies.has("if")
    assert not copies.has("else")
    assert not copies.has("")
    copies.add("")
    assert copies.has(" ")


def test_a_real_part_of_the_library(monkeypatch):
    monkeypatch.setattr(docstrings, "_folder", lambda name: Path(collections.__file__).parent)
    corpus = docstring_corpus(["python"])
    (source,) = corpus.sources
    assert (source.package, source.licence) == ("python", "PSF-2.0")
    assert source.files >= 2
    n_kept = sum(map(len, corpus.splits.values()))
    assert source.functions == n_kept + corpus.copies + corpus.near_copies > 20
    for function in corpus.splits["train"]:
        assert function.file.startswith("python/")
        assert function.summary not in function.code


def test_only_known_licences_are_read(monkeypatch):
    with pytest.raises(DataError, match="licence of 'requests' is unknown here; expected python"):
        docstring_corpus(["requests"])
    assert all(licence.startswith(("PSF", "BSD")) for licence in LICENCES.values())
    monkeypatch.setattr(docstrings, "_folder", lambda name: None)
    with pytest.raises(MissingDependencyError, match="docstrings of scipy: not installed"):
        docstring_corpus(["scipy"])


def test_a_library_without_source_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(docstrings, "_folder", lambda name: tmp_path)
    with pytest.raises(DataError, match="no docstrings in python: are they installed without"):
        docstring_corpus(["python"])
