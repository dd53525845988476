"""No function of training and data takes more than eight parameters: settings are objects."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "qkv"


def parameters(path: Path) -> dict[str, int]:
    """The number of parameters of each function of a file, by its place.

    The constructor of a dataclass is not written out, so its fields are not counted.
    """
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return {
        f"{path.name}:{node.lineno} {node.name}": sum(
            one.arg not in ("self", "cls")
            for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        )
        for node in functions
    }


@pytest.mark.parametrize("layer", ["training", "data"])
def test_at_most_eight_parameters(layer):
    counts: dict[str, int] = {}
    for path in (SRC / layer).rglob("*.py"):
        counts |= parameters(path)
    assert max(counts.values()) > 5  # they were read
    assert {place: n for place, n in counts.items() if n > 8} == {}
