"""A corpus from installed packages: Python functions and the first lines of their docstrings.

With Python 3.11 and the eight packages below in the versions of `constraints.txt`, it has 27,794
training, 1,635 validation and 1,634 test functions. Their median length is 330 characters; a
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

from qkv.data.conversations import Conversation, conversation
from qkv.data.parts import split_by_hash
from qkv.data.sets import Folder, NamedSet
from qkv.data.sets.near_copies import NearCopies
from qkv.data.summaries import Summarized
from qkv.errors import DataError, MissingDependencyError

SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
# Packages whose licences permit training and redistributing a model, with the licence.
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
DISTRIBUTIONS = {"sklearn": "scikit-learn"}  # if it differs from the package's name
# Folders of tests, of vendored code, and of packages installed below the standard library.
SKIPPED_FOLDERS = frozenset(
    """
    test tests idlelib lib2to3 site-packages dist-packages __pycache__ _vendor extern externals
    _external _antlr
    """.split()  # noqa: SIM905 - as long as the list above it
)
WORDS = range(3, 31)  # number of words in a summary
REQUEST = "Write the docstring of this function:\n\n{}"
SHORT = 500  # characters of a function in a conversation
FEW = {"train": 200, "validation": 50, "test": 100}  # conversations, enough to learn a form


class Function(NamedTuple):
    """A function in a file.

    Args:
        code: source from the decorators to the end, dedented, without the docstring.
        summary: the first line of the docstring.
        name: name of the function.
        file: package and path, such as "numpy/linalg/_linalg.py".
    """

    code: str
    summary: str
    name: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package that functions were read from.

    Args:
        package: name of the package; "python" is the standard library.
        version: installed version.
        licence: licence of its code and docstrings.
        files: number of files that were read.
        skipped: number of files that could not be read, such as templates that are not Python.
        functions: number of functions with a summary and code.
    """

    package: str
    version: str
    licence: str
    files: int
    skipped: int
    functions: int


@dataclass(frozen=True, kw_only=True)
class DocstringCorpus:
    """Functions by split; corpora with the same sources are the same.

    Args:
        splits: functions of "train", "validation" and "test".
        sources: the packages, to be credited when a model is redistributed.
        copies: number of functions left out because another one has the same code.
        near_copies: number of held-out functions left out because an earlier split has a near copy.
    """

    splits: dict[str, list[Function]]
    sources: tuple[Source, ...]
    copies: int
    near_copies: int


def docstring_corpus(packages: Sequence[str] | None = None) -> DocstringCorpus:
    """Read the functions of Python's library and of installed scientific packages.

    All functions of a file are in the same split. Functions of the validation and test splits are
    left out if an earlier split has a near copy (see `NearCopies`), or one with the same name and
    summary. The result depends only on the versions of the packages.

    Args:
        packages: names from `LICENCES`; default: all that are installed.

    Raises:
        DataError: the licence of a package is unknown here, or there are no functions.
        MissingDependencyError: one of `packages` is not installed.
    """
    folders = {name: folder for name in packages or LICENCES if (folder := _folder(name))}
    if packages and (missing := [name for name in packages if name not in folders]):
        raise MissingDependencyError(
            f"docstrings of {', '.join(missing)}: not installed; expected installed packages"
        )
    functions, sources = list[Function](), []
    for package, folder in folders.items():
        own, files, skipped = read_folder(folder, package)
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
                functions=len(own),
            )
        )
        functions += own
    if not functions:
        raise DataError(
            f"no docstrings in {', '.join(folders)}: are they installed without their source?"
        )
    splits, copies, near = split_functions(functions)
    return DocstringCorpus(splits=splits, sources=tuple(sources), copies=copies, near_copies=near)


def split_functions(functions: Iterable[Function]) -> tuple[dict[str, list[Function]], int, int]:
    """Return the splits, and the numbers of copies and near copies that were left out."""
    functions, different = list(functions), dict[str, Function]()
    for function in functions:
        different.setdefault(" ".join(function.code.split()), function)
    splits: dict[str, list[Function]] = {split: [] for split in SHARES}
    files = [function.file for function in different.values()]
    for function, split in zip(different.values(), split_by_hash(files, SHARES), strict=True):
        splits[split].append(function)
    seen, described, left_out = NearCopies(), set[tuple[str, str]](), 0
    for split, own in splits.items():
        if split != "train":
            splits[split] = [
                function
                for function in own
                if (function.name, function.summary) not in described
                and not seen.has(function.code)
            ]
        left_out += len(own) - len(splits[split])
        for function in splits[split]:
            seen.add(function.code)
            described.add((function.name, function.summary))
    return splits, len(functions) - len(different), left_out


def read_folder(folder: Path, package: str) -> tuple[list[Function], int, int]:
    """Return the functions in all files of a folder, and the numbers of files read and skipped."""
    functions, files, skipped = list[Function](), 0, 0
    for path in sorted(folder.rglob("*.py"), key=lambda path: path.relative_to(folder).as_posix()):
        inner = path.relative_to(folder)
        if SKIPPED_FOLDERS & {*inner.parts[:-1]} or inner.name.startswith("test_"):
            continue
        try:
            source = importlib.util.decode_source(path.read_bytes())
            functions += read_functions(source, f"{package}/{inner.as_posix()}")
            files += 1
        except (SyntaxError, ValueError):
            skipped += 1
    return functions, files, skipped


def read_functions(source: str, file: str) -> Iterator[Function]:
    """Yield the functions of a file that have a summary and a body, in the order of their lines.

    Raises:
        SyntaxError: the source is not valid in this version of Python.
        ValueError: the source contains null bytes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about invalid escape sequences
        tree = ast.parse(source)
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = source.split("\n")
    for node in sorted(nodes, key=lambda node: node.lineno):
        summary, code = _summary(node), _code(node, lines)
        if summary and code:
            yield Function(code, summary, node.name, file)


def _summary(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """Return the first line of the docstring if it is a summary as in PEP 257 or a sentence."""
    first, *rest = (ast.get_docstring(node) or "").split("\n")
    alone = not rest or not rest[0].strip() or first.rstrip().endswith((".", "!", "?"))
    words = first.split()
    has_words = len(words) in WORDS and re.search(r"[^\W\d_]{2}", first) is not None
    return " ".join(words) if alone and has_words else None


def _code(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str | None:
    """Return the function without its docstring; None if the rest of its body is empty."""
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
            f"the licence of {package!r} is unknown here; expected {', '.join(LICENCES)}"
        )
    if package == "python":
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec and spec.origin else None


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
    return [Summarized(one.code, (one.summary,)) for one in _corpus().splits[split]]


def _texts(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(definition(one) for one in _corpus().splits[split]))


def _chats(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Conversation]:
    """Return requests for docstrings of a few short functions from the whole corpus."""
    short = [one for one in _corpus().splits[split] if len(one.code) <= SHORT]
    some = [short[i * len(short) // FEW[split]] for i in range(FEW[split])]
    return [conversation(REQUEST.format(one.code.strip()), one.summary) for one in some]


SETS = (
    NamedSet(
        name="docstrings",
        task="chat",
        splits=tuple(SHARES),
        read=_chats,
        summary="350 requests for the docstrings of short Python functions; see LICENCES",
    ),
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
