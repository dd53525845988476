"""Count the lines of the tutorial by what they are for.

Each line of a code cell counts once, blank lines apart:

- *shown source*: a cell that only calls ``show_source``;
- *concept*: functions, classes, computations, and the asserts that test what the text claims;
- *glue*: all else, namely imports, the set-up cell, cells for scripts only, tables, figures,
  prints, and assignments and loops whose names are only read by glue of the same section.

A blank line counts as the line above it.
"""

import argparse
import ast
import itertools
from collections import Counter
from pathlib import Path

from qkv.tutorial.script import Cell, read_cells

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "transformers_and_attention_mechanisms.py"
# Calls that present what was computed; a `with` of one of them draws.
_ASSIGNS = ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For
PRESENTING = ("show_", "draw_", "print", "figure")


def count(path: Path) -> dict[int, Counter[str]]:
    """Return the number of lines by kind for each section; -1 is what comes before section 0."""
    sections: dict[int, list[Cell]] = {}
    current = -1
    for cell in read_cells(path):
        current = current if cell.section is None else cell.section
        sections.setdefault(current, []).append(cell)
    return {number: count_section(number, cells) for number, cells in sections.items()}


def count_section(number: int, cells: list[Cell]) -> Counter[str]:
    """Count the lines of one section by kind."""
    lines: Counter[str] = Counter()
    statements: list[tuple[ast.stmt, int]] = []
    for cell in cells:
        n_lines = len(cell.source.rstrip().splitlines())
        if "[markdown]" in cell.marker:
            lines["text"] += n_lines
        elif number == -1 or not cell.runs:
            lines["glue"] += n_lines
        else:
            body = ast.parse(cell.source).body
            if body and all(_calls(statement, ("show_source",)) for statement in body):
                lines["shown source"] += n_lines
                continue
            begins = [1, *(_first_line(statement) for statement in body[1:]), n_lines + 1]
            pairs = zip(body, itertools.pairwise(begins), strict=True)
            statements += [(statement, end - begin) for statement, (begin, end) in pairs]
    glue = _glue([statement for statement, _ in statements])
    for (_, n_lines), is_glue in zip(statements, glue, strict=True):
        lines["glue" if is_glue else "concept"] += n_lines
    return lines


def _first_line(statement: ast.stmt) -> int:
    decorators = getattr(statement, "decorator_list", [])
    return min(part.lineno for part in (statement, *decorators))


def _glue(statements: list[ast.stmt]) -> list[bool]:
    """Return for each statement whether it is glue."""
    glue = [_presents(statement) for statement in statements]
    changed = True
    while changed:  # a statement may be read by one that turned out to be glue
        changed = False
        for i, statement in enumerate(statements):
            if glue[i] or not isinstance(statement, _ASSIGNS) or _tests(statement):
                continue
            later = list(zip(statements, glue, strict=True))[i + 1 :]
            if not any(_is_read(name, later) for name in _made(statement)):
                glue[i] = changed = True
    return glue


def _is_read(name: str, later: list[tuple[ast.stmt, bool]]) -> bool:
    """Return whether a statement that is no glue reads a name before it is bound again."""
    for statement, is_glue in later:
        if not is_glue and name in _names(statement, ast.Load) - _own(statement):
            return True
        if isinstance(statement, _ASSIGNS) and name in _names(statement, ast.Store):
            return False
    return False


def _made(statement: ast.stmt) -> set[str]:
    """Return the names that a statement binds or fills."""
    filled = {
        node.value.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Subscript | ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (isinstance(node.ctx, ast.Store) or getattr(node, "attr", "") == "append")
    }
    return _names(statement, ast.Store) | filled


def _own(statement: ast.stmt) -> set[str]:
    """Return the names that a loop or a comprehension binds before it reads them."""
    nodes = list(ast.walk(statement))
    targets = [node.target for node in nodes if isinstance(node, ast.For | ast.comprehension)]
    if isinstance(statement, ast.For):
        assigned = [node.targets for node in nodes if isinstance(node, ast.Assign)]
        targets += itertools.chain.from_iterable(assigned)
    return {name for target in targets for name in _names(target, ast.Store)}


def _tests(statement: ast.stmt) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(statement))


def _names(tree: ast.AST, context: type) -> set[str]:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in nodes if isinstance(node.ctx, context)}


def _presents(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom():
            return True
        case ast.With(items=[ast.withitem(context_expr=ast.Call() as call), *_]):
            return _calls(ast.Expr(call), PRESENTING)
        case ast.For() | ast.If():
            return all(_presents(inner) for inner in (*statement.body, *statement.orelse))
    return _calls(statement, PRESENTING)


def _calls(statement: ast.stmt, names: tuple[str, ...]) -> bool:
    match statement:
        case ast.Expr(ast.Call(func=ast.Name(id=name))):
            return name.startswith(names)
    return False


def main(arguments: list[str] | None = None) -> None:
    """Print the numbers of lines by section and kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("script", type=Path, nargs="?", default=SCRIPT)
    script = parser.parse_args(arguments).script
    kinds, total = ("text", "shown source", "concept", "glue"), Counter[str]()
    print("section", *(f"{kind:>12}" for kind in kinds))
    for number, lines in count(script).items():
        total += lines
        print(f"{number:7}", *(f"{lines[kind]:12}" for kind in kinds))
    print("    all", *(f"{total[kind]:12}" for kind in kinds))


if __name__ == "__main__":
    main()
