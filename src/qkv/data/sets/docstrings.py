"""A corpus that every machine has: Python functions, and the first line of their docstrings.

With Python 3.11 and the eight packages below, as `constraints.txt` has them, it is 27,794 functions
to train, 1,635 to validate and 1,634 to test; half of them have more than 330 characters, and a
summary has 8 words on average. Reading it takes about a minute.
"""

import ast
import functools
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.parts import split_by_hash
from qkv.data.sets import Folder, NamedSet
from qkv.data.sets.near_copies import NearCopies
from qkv.data.summaries import Summarized
from qkv.errors import DataError, MissingDependencyError

SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
# Whose licences permit to train a model that is given away, and which these are.
LICENCES = {
    "python": "PSF-2.0",
    "numpy": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "sklearn": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "matplotlib": "PSF-based (Matplotlib)",
    "torch": "BSD-3-Clause",
}
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # where it is not the package's name
# Tests, other people's code that is carried along, and what lies in the library's folder by chance.
PASSED_OVER = frozenset(
    """
    test tests idlelib lib2to3 site-packages dist-packages __pycache__ _vendor extern externals
    _external _antlr
    """.split()  # noqa: SIM905 - as long as the list above it
)
WORDS = range(3, 31)  # how many a first line has, to be a summary


class Function(NamedTuple):
    """A function of a file.

    Args:
        code: from its decorators to its end, without the docstring, not indented.
        summary: the first line of the docstring.
        name: of the function.
        file: package and path, such as "numpy/linalg/_linalg.py".
    """

    code: str
    summary: str
    name: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package that functions were taken from.

    Args:
        package: its name; "python" is the standard library.
        version: that is installed.
        licence: of its code and docstrings.
        files: how many were read.
        skipped: how many could not be, such as templates that are no Python.
        functions: how many have a summary and code.
    """

    package: str
    version: str
    licence: str
    files: int
    skipped: int
    functions: int


@dataclass(frozen=True, kw_only=True)
class DocstringCorpus:
    """Functions by parts; two corpora are the same where their sources are.

    Args:
        parts: "train", "validation" and "test".
        sources: what they were taken from, to be named where a model is given away.
        copies: how many were left out as they stand elsewhere, word for word.
        near_copies: how many more of the held-out parts, as they nearly stand in a part before.
    """

    parts: dict[str, list[Function]]
    sources: tuple[Source, ...]
    copies: int
    near_copies: int


def docstring_corpus(packages: Sequence[str] | None = None) -> DocstringCorpus:
    """Read the functions of Python's library and of scientific packages, as they are installed.

    A file is in one part as a whole; what is held out loses the functions that are near copies of
    one in a part before (see `NearCopies`), or have the name and the summary of one. All depends on
    the packages' versions and on nothing else.

    Args:
        packages: of `LICENCES`; by default those of them that are installed.

    Raises:
        DataError: a package whose licence is not known here, or no functions.
        MissingDependencyError: a package that was asked for is not installed.
    """
    folders = {name: folder for name in packages or LICENCES if (folder := _folder(name))}
    if packages and (missing := [name for name in packages if name not in folders]):
        raise MissingDependencyError(
            f"docstrings of {', '.join(missing)} were asked for, which is not installed here"
        )
    functions, sources = list[Function](), []
    for package, folder in folders.items():
        found, files, skipped = read_folder(folder, package)
        version = platform.python_version()
        if package != "python":
            version = importlib.metadata.version(DISTRIBUTIONS.get(package, package))
        sources.append(
            Source(
                package=package,
                version=version,
                licence=LICENCES[package],
                files=files,
                skipped=skipped,
                functions=len(found),
            )
        )
        functions += found
    if not functions:
        raise DataError(
            f"no docstrings in {', '.join(folders)}: are they installed without their source?"
        )
    parts, copies, near = split_functions(functions)
    return DocstringCorpus(parts=parts, sources=tuple(sources), copies=copies, near_copies=near)


def split_functions(functions: Iterable[Function]) -> tuple[dict[str, list[Function]], int, int]:
    """The parts, and how many copies and near copies were left out."""
    functions, different = list(functions), dict[str, Function]()
    for function in functions:
        different.setdefault(" ".join(function.code.split()), function)
    parts: dict[str, list[Function]] = {part: [] for part in SHARES}
    files = [function.file for function in different.values()]
    for function, part in zip(different.values(), split_by_hash(files, SHARES), strict=True):
        parts[part].append(function)
    seen, described, left_out = NearCopies(), set[tuple[str, str]](), 0
    for part, own in parts.items():
        if part != "train":
            parts[part] = [
                function
                for function in own
                if (function.name, function.summary) not in described
                and not seen.has(function.code)
            ]
        left_out += len(own) - len(parts[part])
        for function in parts[part]:
            seen.add(function.code)
            described.add((function.name, function.summary))
    return parts, len(functions) - len(different), left_out


def read_folder(folder: Path, package: str) -> tuple[list[Function], int, int]:
    """The functions in all files under a folder, by path and line; files read, and skipped."""
    functions, files, skipped = list[Function](), 0, 0
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        inner = path.relative_to(folder)
        if PASSED_OVER & {*inner.parts[:-1]} or inner.name.startswith("test_"):
            continue
        try:
            source = importlib.util.decode_source(path.read_bytes())
            functions += read_functions(source, f"{package}/{inner.as_posix()}")
            files += 1
        except (SyntaxError, ValueError):
            skipped += 1
    return functions, files, skipped


def read_functions(source: str, file: str) -> Iterator[Function]:
    """The functions of a file that have a summary and do something, by their lines.

    Raises:
        SyntaxError: it is no Python of this version.
        ValueError: nor text.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python will one day refuse
        tree = ast.parse(source)
    found = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = source.split("\n")
    for node in sorted(found, key=lambda node: node.lineno):
        summary, code = _summary(node), _code(node, lines)
        if summary and code:
            yield Function(code, summary, node.name, file)


def _summary(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The first line of the docstring, if it stands by itself: PEP 257's, or a whole sentence."""
    first, *rest = (ast.get_docstring(node) or "").split("\n")
    alone = not rest or not rest[0].strip() or first.rstrip().endswith((".", "!", "?"))
    words = first.split()
    said = len(words) in WORDS and re.search(r"[^\W\d_]{2}", first) is not None
    return " ".join(words) if alone and said else None


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str | None:
    """The function without its docstring; None if nothing is left that does something."""
    docstring, *body = node.body
    if not any(_does_something(statement) for statement in body):
        return None
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    cut, resume = docstring.lineno - 1, docstring.end_lineno or 0
    alone = not lines[cut][: docstring.col_offset].strip() and body[0].lineno > resume
    if not alone:  # on the line of the def, or before a semicolon
        return None
    code = lines[first:cut] + lines[resume : node.end_lineno]
    indent = len(lines[first]) - len(lines[first].lstrip())
    return "\n".join(line[indent:] if not line[:indent].strip() else line for line in code)


def _does_something(statement: ast.stmt) -> bool:
    match statement:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return False
        case ast.Raise(exc=ast.Name(id="NotImplementedError")):
            return False
        case ast.Raise(exc=ast.Call(func=ast.Name(id="NotImplementedError"))):
            return False
    return True


def _folder(package: str) -> Path | None:
    if package not in LICENCES:
        raise DataError(
            f"the licence of {package!r} is not known here; expected {', '.join(LICENCES)}"
        )
    if package == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def definition(function: Function) -> str:
    """Return the `def` line of a function, with the names of its arguments, and its docstring."""
    (node,) = ast.parse(function.code).body
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    positional = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
    names = [name for name in positional if name not in ("self", "cls")]
    if node.args.vararg is not None:
        names.append(f"*{node.args.vararg.arg}")
    names += [one.arg for one in node.args.kwonlyargs]
    if node.args.kwarg is not None:
        names.append(f"**{node.args.kwarg.arg}")
    return f'def {function.name}({", ".join(names)}):\n    """{function.summary}"""'


@functools.cache
def _corpus() -> DocstringCorpus:
    return docstring_corpus()


def _summaries(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Summarized]:
    return [Summarized(one.code, (one.summary,)) for one in _corpus().parts[split]]


def _texts(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(definition(one) for one in _corpus().parts[split]))


SETS = (
    NamedSet(
        name="docstrings",
        task="summarize",
        splits=tuple(SHARES),
        read=_summaries,
        summary="31,063 Python functions and the first lines of their docstrings; see LICENCES",
    ),
    NamedSet(
        name="docstrings",
        task="generate",
        splits=tuple(SHARES),
        read=_texts,
        summary="the def lines and docstrings of Python functions; see LICENCES",
    ),
)
