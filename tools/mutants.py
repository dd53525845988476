"""Test the tests: seed errors into a copy of the code, and list those that no test notices.

A mutant is one small change in a function: a flipped comparison, + for -, a dropped `not`, an
integer off by one, swapped branches. Its name is its file, function, kind of change and ordinal.
"""

import argparse
import ast
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

SETTINGS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TESTS, EQUIVALENT = SETTINGS["tests"], SETTINGS["equivalent"]

OPPOSITES = "Eq NotEq, Lt LtE, Gt GtE, Is IsNot, In NotIn, And Or, Add Sub, Mult Div, BitAnd BitOr"
PAIRS = [[getattr(ast, name) for name in pair.split()] for pair in OPPOSITES.split(", ")]
FLIPS = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
NAMES = re.compile(r"(?!(?:and|or|not|in|is|if|else|for|lambda)\b)\b[A-Za-z_][\w.]*")
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any"}
TYPES = {"annotation", "returns", "decorator_list", "bases"}  # fields that do nothing at run time


class Mutant(NamedTuple):
    """One change; `apply` makes it in `module`."""

    name: str
    place: tuple[str, str, str, int]  # where it is in another version, whatever was renamed
    text: str
    kind: str
    module: ast.Module
    apply: Callable[[], None]


def mutants(file: str, tree: Path) -> list[Mutant]:
    """Return the mutants of a file of the package, in the order of its text."""
    module = ast.parse((tree / "src" / "qkv" / file).read_text(encoding="utf-8"))
    found, ordinals, places = [], Counter(), Counter()
    for function, node, whole in _nodes(module, "", None):
        for kind, apply in _changes(node) if function else ():
            shape = NAMES.sub("_", ast.unparse(whole))
            place = (file, kind, shape, places[kind, shape])
            name = f"{file} {function} {kind} {ordinals[function, kind]}"
            text = ast.unparse(whole if isinstance(node, ast.Constant) else node)
            found.append(Mutant(name, place, text, kind, module, apply))
            places[kind, shape] += 1
            ordinals[function, kind] += 1
    return found


def _nodes(node: ast.AST, function: str, whole: ast.AST | None) -> Iterator[tuple]:
    """Yield each node with its function, and with the whole expression or statement around it."""
    if isinstance(node, ast.JoinedStr):  # a message
        return
    whole = node if whole is None or isinstance(node, ast.stmt) else whole
    yield function, node, whole
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    inner = None if isinstance(node, ast.stmt | ast.arguments) else whole
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and field not in TYPES:
                yield from _nodes(child, function, inner)


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the changes of a node: their kinds, and functions that make them."""
    match node:
        case ast.Compare():
            for i, op in enumerate(node.ops):
                yield "comparison", lambda i=i, op=op: node.ops.__setitem__(i, FLIPS[type(op)]())
        case ast.BoolOp() | ast.BinOp() | ast.AugAssign() if type(node.op) in FLIPS:
            yield "operator", lambda: setattr(node, "op", FLIPS[type(node.op)]())
        case ast.UnaryOp(op=ast.Not() | ast.Invert()):  # twice is not at all
            yield "not", lambda: setattr(node, "operand", ast.UnaryOp(node.op, node.operand))
        case ast.Constant(value=bool()):
            yield "boolean", lambda: setattr(node, "value", not node.value)
        case ast.Constant(value=int()):
            yield "integer", lambda: setattr(node, "value", node.value + 1)
        case ast.IfExp():
            yield "branches", lambda: vars(node).update(body=node.orelse, orelse=node.body)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in TWINS:
            yield "call", lambda: vars(node.func).update(id=TWINS[name], attr=TWINS[name])
        case ast.Expr(value=ast.Call()):  # the call is left out
            yield "statement", lambda: setattr(node, "value", ast.Constant(None))


def draw(count: int, seed: int, trees: Sequence[Path]) -> list[Mutant]:
    """Draw mutants of the first tree, evenly over its files and over the kinds of change.

    Mutants that another tree does not have, because the code was rewritten, are not drawn.
    """
    columns = []
    for file in TESTS:
        pool, *others = (mutants(file, tree) for tree in trees)
        places = [{one.place for one in other} for other in others]
        common = [one for one in pool if all(one.place in other for other in places)]
        print(f"{file}: {len(pool)} mutants, {len(pool) - len(common)} of them not in every tree")
        random.Random(f"{seed} {file}").shuffle(common)
        names = dict.fromkeys(one.kind for one in common)
        kinds = ([one for one in common if one.kind == name] for name in names)
        columns.append([one for one in _in_turn(kinds) if one.name not in EQUIVALENT])
    return _in_turn(columns)[:count]


def _in_turn(columns: Iterable[list[Mutant]]) -> list[Mutant]:
    return [one for row in zip_longest(*columns) for one in row if one is not None]


def run(folder: Path, tests: Iterable[str], limit: float) -> tuple[str, str]:
    """Run tests of a tree; return "survived", "killed" or "timed out", and the output."""
    options = ("-n0", "-x", "-q", "--tb=line", "-pno:cacheprovider")
    paths = ["tests/" + re.sub(r"\w+$", r"test_\g<0>.py", name) for name in tests]
    command = [sys.executable, "-m", "pytest", *options, *paths]
    environment = os.environ | {"PYTHONPATH": str(folder / "src")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, **pipes
    )
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests started
        return "timed out", process.communicate()[0]
    return "killed" if process.returncode else "survived", output


def test(mutant: Mutant, tree: Path, folder: Path, limit: float) -> dict[str, str | float]:
    """Test a mutant in `folder`, which is a copy of the tree; return the verdict."""
    file, start = mutant.place[0], time.monotonic()
    own = next(one for one in mutants(file, tree) if one.place == mutant.place)
    own.apply()
    path = folder / "src" / "qkv" / file
    path.write_text(ast.unparse(own.module), encoding="utf-8")
    verdict, output = run(folder, TESTS[file].split(), limit)
    shutil.copy2(tree / "src" / "qkv" / file, path)
    by = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    seconds = round(time.monotonic() - start, 1)
    return {"verdict": verdict, "seconds": seconds, "by": by[1] if by else "", "text": mutant.text}


def main() -> None:
    """Draw mutants, test them and print the verdicts; exit with 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    option = parser.add_argument
    option("--count", type=int, default=60)
    option("--seed", type=int, default=15)
    option("--list", action="store_true", help="print the mutants and test none")
    option("--only", default="", help="part of the names of those to test")
    option("--limit", type=float, default=120, help="seconds per mutant")
    option("--trees", type=Path, nargs="*", default=[], help="draw what these versions also have")
    option("--test-in", type=Path, default=ROOT, help="the version to test")
    option("--json", type=Path, help="the verdicts so far; new ones are added")
    options = parser.parse_args()
    done = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    drawn = sorted(draw(options.count, options.seed, [ROOT, *options.trees]), key=lambda m: m.name)
    drawn = [one for one in drawn if options.only in one.name and one.name not in done]
    if options.list:
        return print(*(f"{one.name}: {one.text}" for one in drawn), sep="\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("src", "tests"):
            shutil.copytree(options.test_in / part, folder / part)
        shutil.copy2(options.test_in / "pyproject.toml", folder)
        tests = dict.fromkeys(name for one in drawn for name in TESTS[one.place[0]].split())
        verdict, output = run(folder, tests, limit=600) if drawn else ("survived", "")
        if verdict != "survived":
            raise SystemExit(f"the tests fail without a mutant:\n{output[-2000:]}")
        for one in drawn:
            done[one.name] = test(one, options.test_in, folder, options.limit)
            print(one.name, *done[one.name].values(), sep=" | ", flush=True)
            if options.json:
                options.json.write_text(json.dumps(done, indent=1), encoding="utf-8")
    verdicts = Counter(result["verdict"] for result in done.values())
    print(", ".join(f"{number} {verdict}" for verdict, number in verdicts.items()))
    raise SystemExit("survived" in verdicts)


if __name__ == "__main__":
    main()
