"""Build the tutorial's notebook from its script, and execute it.

Cells tagged ``script`` are left out, and a cell that only calls ``show_source`` becomes text: the
source itself, under a link to its file. The same script gives the same cells on every machine.
"""

import argparse
import ast
import difflib
import hashlib
import os
import re
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from qkv.files import write_atomically
from qkv.tutorial.figures import with_palette
from qkv.tutorial.source import location, source_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "transformers_and_attention_mechanisms.py"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build(script: Path) -> nbformat.NotebookNode:
    """The notebook of a script, without outputs."""
    names = imported_names(script)
    cells: list[nbformat.NotebookNode] = []
    ids: set[str] = set()
    for cell in jupytext.read(script, fmt="py:percent").cells:
        if "script" in cell.metadata.get("tags", []):
            continue
        shown = shown_objects(cell.source, names) if cell.cell_type == "code" else None
        if shown:
            new = nbformat.v4.new_markdown_cell("\n\n".join(as_markdown(one) for one in shown))
        elif cell.cell_type == "code":
            new = nbformat.v4.new_code_cell(cell.source)
        else:
            new = nbformat.v4.new_markdown_cell(cell.source)
        new.id = cell_id(new, ids)
        cells.append(new)
    return nbformat.v4.new_notebook(cells=cells, metadata=METADATA)


def imported_names(script: Path) -> dict[str, Any]:
    """What the script's top-level imports bind; nothing else of it is run."""
    tree = ast.parse(script.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names: dict[str, Any] = {}
    exec(compile(tree, script, "exec", dont_inherit=True), names)
    return names


def shown_objects(source: str, names: dict[str, Any]) -> list[Any] | None:
    """The objects that a cell shows, or None for a cell that does anything else."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a magic command of the notebook
        return None
    shown: list[Any] = []
    for node in body:
        match node:
            case ast.Expr(ast.Call(ast.Name("show_source"), arguments, [])):
                for argument in arguments:
                    shown.append(eval(compile(ast.Expression(argument), source, "eval"), names))
            case _:
                return None
    return shown


def as_markdown(shown: Any) -> str:
    """The source of an object as a block of code, under a link where the file is ours."""
    path, source = location(shown), source_of(shown)
    title = f"[`{path}`]({path})" if (ROOT / path).exists() else f"`{path}`"
    fence = "````" if "```" in source else "```"
    return f"{title}\n\n{fence}python\n{source}\n{fence}"


def cell_id(cell: nbformat.NotebookNode, taken: set[str]) -> str:
    """An id that the cell's content decides, and its place only among equal cells."""
    digest = hashlib.sha256(f"{cell.cell_type} {cell.source}".encode()).hexdigest()[:12]
    copies = sum(other.startswith(digest) for other in taken)
    taken.add(unique := f"{digest}-{copies}" if copies else digest)
    return unique


def execute(notebook: nbformat.NotebookNode, timeout: float) -> None:
    """Run all cells from the root of the repository, and clean what they put out."""
    client = NotebookClient(
        notebook,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(ROOT)}},
    )
    try:
        client.execute()
    except CellExecutionError as error:
        sys.exit(f"The notebook is left as it was, because a cell failed:\n{error}")
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata = nbformat.from_dict({})
            cell.outputs = [clean(output) for output in cell.outputs]


def clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An output without this machine's paths and overwritten progress lines, its image small."""
    if output.output_type == "stream":
        output.text = without_paths(re.sub(r"[^\n]*\r(?!\n)", "", output.text))
    for kind, text in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = without_paths(text)
        elif kind == "image/png":
            output.data[kind] = b64encode(with_palette(b64decode(text))).decode()
    return output


def without_paths(text: str) -> str:
    """The text with paths below the repository made relative, and the home folder as ``~``."""
    text = text.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".")
    text = re.sub(r"\S*ipykernel_\d+[/\\]\d+\.py", "<cell>", text)
    return text.replace(f"{Path.home()}{os.sep}", f"~{os.sep}")


def keep_outputs(notebook: nbformat.NotebookNode, old: nbformat.NotebookNode) -> None:
    """Give unchanged cells the outputs that they had."""
    executed = {cell.id: cell for cell in old.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.id in executed:
            cell.outputs = executed[cell.id].outputs
            cell.execution_count = executed[cell.id].execution_count


def differences(built: nbformat.NotebookNode, committed: nbformat.NotebookNode) -> str:
    """How the cells of two notebooks differ, outputs apart; empty where they agree."""
    new, old = (
        [
            line
            for cell in notebook.cells
            for line in (f"# %% [{cell.cell_type}]", *cell.source.splitlines())
        ]
        for notebook in (built, committed)
    )
    return "\n".join(difflib.unified_diff(old, new, "notebook", "script", lineterm=""))


def main(arguments: list[str] | None = None) -> None:
    """Build, execute and write the notebook, or compare it with its script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("script", type=Path, nargs="?", default=SCRIPT)
    parser.add_argument("--check", action="store_true", help="compare the cells, write nothing")
    parser.add_argument(
        "--no-execute", action="store_true", help="keep the outputs of the cells that are unchanged"
    )
    parser.add_argument("--fast", action="store_true", help="execute with QKV_FAST=1")
    parser.add_argument("--output", type=Path, help="write here and leave the notebook as it is")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one cell")
    options = parser.parse_args(arguments)
    path = options.script.with_suffix(".ipynb")
    notebook = build(options.script)
    old = nbformat.read(path, as_version=4) if path.exists() else nbformat.v4.new_notebook()
    if options.check:
        if difference := differences(notebook, old):
            sys.exit(f"{path.name} differs from its script; run `make notebook`\n{difference}")
        return
    if options.no_execute:
        keep_outputs(notebook, old)
    else:
        if options.fast:
            os.environ["QKV_FAST"] = "1"
        execute(notebook, options.timeout)
    nbformat.validate(notebook)
    write_atomically(options.output or path, nbformat.writes(notebook) + "\n")


if __name__ == "__main__":
    main()
