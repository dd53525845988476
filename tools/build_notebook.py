"""Build the tutorial's notebooks from its script, and execute them.

There is one notebook of everything, and one for each section in `notebooks/`, with the same cells
and outputs. Cells tagged ``script`` are left out, a cell that only calls ``show_source`` becomes
text: the source itself, under a link to its file, and the cell tagged ``contents`` gets the list of
the headings. The same script gives the same cells on every machine.

The pages that follow the tutorial have sources of their own, one for each, below `notebooks/src`;
those of the variants of attention share the cells of a frame.
"""

import argparse
import ast
import difflib
import hashlib
import itertools
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
from qkv.tutorial.figures import WIDGET, with_palette
from qkv.tutorial.script import Heading, read_cells
from qkv.tutorial.source import location, source_of

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "transformers_and_attention_mechanisms.py"
PARTS = "notebooks"  # the folder of the sections
LIMITS = 2_500_000, 600_000  # bytes of the whole notebook, and of one section
SOURCES = ROOT / PARTS / "src"  # of the pages that are no section
VARIANTS, FRAME = "variants", "variant.py"  # the folder of the variants, and the cells they share
VARIANT_LIMIT = 60_000  # bytes
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def build(script: Path) -> nbformat.NotebookNode:
    """The notebook of a script, without outputs."""
    names = imported_names(script)
    cells: list[nbformat.NotebookNode] = []
    ids: set[str] = set()
    for cell in source_cells(script):
        if "script" in tags(cell):
            continue
        if "contents" in tags(cell):
            cell.source += "\n\n" + contents(script)
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


def source_cells(script: Path) -> list[Any]:
    """The cells of a script; those of a variant stand in the frame that all variants share.

    A cell of the frame that is tagged ``variant`` is a comment with a tag: the variant's cells with
    this tag take its place.
    """
    cells = jupytext.read(script, fmt="py:percent").cells
    if script.parent.name != VARIANTS:
        return cells
    framed = []
    for cell in jupytext.read(script.parent.parent / FRAME, fmt="py:percent").cells:
        name = cell.source.removeprefix("# ")
        found = [one for one in cells if name in tags(one)] if "variant" in tags(cell) else [cell]
        if not found:
            sys.exit(f"{script.name} has no cell tagged {name}, for which {FRAME} has a place")
        framed += found
    return framed


def tags(cell: Any) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def sources() -> list[Path]:
    """The sources of all pages that are no section."""
    return [
        path
        for path in sorted((*SOURCES.glob("*.py"), *(SOURCES / VARIANTS).glob("*.py")))
        if path.name != FRAME
    ]


def notebook_of(script: Path) -> Path:
    """Where the notebook of a script is: beside it, or in `notebooks` if it is one of `sources`."""
    if SOURCES in script.resolve().parents:
        return SOURCES.parent / script.resolve().relative_to(SOURCES).with_suffix(".ipynb")
    return script.with_suffix(".ipynb")


def contents(script: Path) -> str:
    """The list of the sections and their parts, with links."""
    lines = []
    for heading in (one for cell in read_cells(script) for one in cell.headings):
        if heading.section is None:
            continue
        link = f"[{heading.title}](#{anchor(heading.title)})"
        if heading.level == 2:
            minutes = f", {heading.minutes.rstrip('.')}" if heading.minutes else ""
            lines.append(f"- {link} ([alone]({PARTS}/{part_name(heading)})){minutes}")
        else:
            lines.append(f"  - {link}")
    return "\n".join(lines)


def anchor(title: str) -> str:
    """The name that Jupyter gives to a heading."""
    return title.replace(" ", "-").replace("(", "%28").replace(")", "%29")


def part_name(heading: Heading) -> str:
    """The file name of a section's notebook."""
    return re.sub(r"\W+", "_", heading.title.lower()).strip("_") + ".ipynb"


def parts(notebook: nbformat.NotebookNode, script: Path) -> dict[str, nbformat.NotebookNode]:
    """The notebooks of the sections by file name: the set-up, then the section."""
    sections = [one for cell in read_cells(script) for one in cell.headings if one.level == 2]
    found: dict[str, nbformat.NotebookNode] = {}
    before: list[nbformat.NotebookNode] = []
    current = before
    for cell in notebook.cells:
        first = cell.source.partition("\n")[0]
        match = [one for one in sections if first == f"## {one.title}"]
        if match and match[0].section is not None:
            title = f"# {match[0].title}\n\nFrom [the whole tutorial](../{script.stem}.ipynb)."
            top = nbformat.v4.new_markdown_cell(title, id=f"section-{match[0].section}")
            set_up = [one for one in before if one.source.startswith("## Setting up")]
            begin = before.index(set_up[0]) if set_up else len(before)
            current = [top, *before[begin:]]
            found[part_name(match[0])] = nbformat.v4.new_notebook(cells=current, metadata=METADATA)
        current.append(nbformat.from_dict(cell))
    for part in found.values():
        relink(part, "../")
    return found


def relink(notebook: nbformat.NotebookNode, up: str) -> None:
    """Make links to files of the repository relative to a folder below it."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\]\((src|docs|notebooks)/", rf"]({up}\1/", cell.source)


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
    """An output without widgets, this machine's paths and overwritten lines, its image small."""
    if output.output_type == "stream":
        output.text = without_paths(re.sub(r"[^\n]*\r(?!\n)", "", output.text))
    output.get("data", {}).pop(WIDGET, None)  # its figure stays; without a kernel it is an error
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
    """Give cells the outputs that they have in another notebook, and all cells their numbers."""
    executed = {cell.id: cell for cell in old.cells if cell.cell_type == "code"}
    numbers = itertools.count(1)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        number = next(numbers)
        if cell.id in executed:
            cell.outputs = executed[cell.id].outputs
            cell.execution_count = executed[cell.id].execution_count and number
            for output in cell.outputs:
                if "execution_count" in output:
                    output.execution_count = number


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


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook; an empty one if there is none."""
    return nbformat.read(path, as_version=4) if path.exists() else nbformat.v4.new_notebook()


def check(notebook: nbformat.NotebookNode, path: Path, script: Path) -> None:
    """Compare the committed notebooks with their script, and their sizes with the limits."""
    built = {path: notebook} | {
        path.parent / PARTS / name: part for name, part in parts(notebook, script).items()
    }
    for file, expected in built.items():
        if difference := differences(expected, read(file)):
            sys.exit(f"{file.name} differs from its script; run `make notebook`\n{difference}")
        limit = LIMITS[file != path or is_page(script)]
        if script.parent.name == VARIANTS:
            limit = VARIANT_LIMIT
        if (size := file.stat().st_size) > limit:
            sys.exit(f"{file.name} has {size:,} bytes; expected at most {limit:,} (large figures?)")


def is_page(script: Path) -> bool:
    """Whether a script is the source of one page, which is no section."""
    return notebook_of(script) != script.with_suffix(".ipynb")


def main(arguments: list[str] | None = None) -> None:
    """Build, execute and write the notebooks, or compare them with their scripts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "scripts",
        type=Path,
        nargs="*",
        help="default: the tutorial; where nothing is executed, also all sources of pages",
    )
    parser.add_argument("--check", action="store_true", help="compare the cells, write nothing")
    parser.add_argument(
        "--no-execute", action="store_true", help="keep the outputs of the cells that are unchanged"
    )
    parser.add_argument(
        "--section", type=int, nargs="+", default=[], help="execute these, keep the other outputs"
    )
    parser.add_argument("--fast", action="store_true", help="execute with QKV_FAST=1")
    parser.add_argument("--output", type=Path, help="write here and leave the notebook as it is")
    parser.add_argument("--timeout", type=float, default=1200, help="seconds for one cell")
    options = parser.parse_args(arguments)
    if options.fast:
        os.environ["QKV_FAST"] = "1"
    pages = sources() if options.check or options.no_execute else []
    for script in options.scripts or [SCRIPT, *pages]:
        make(script, options)


def make(script: Path, options: argparse.Namespace) -> None:
    """Build the notebook of one script, and its parts."""
    path = notebook_of(script)
    notebook = build(script)
    if is_page(script):
        relink(notebook, "../" * len(path.relative_to(SOURCES.parents[1]).parent.parts))
    if options.check:
        check(notebook, path, script)
        return
    if options.no_execute or options.section:
        keep_outputs(notebook, read(path))
    else:
        execute(notebook, options.timeout)
    for part in parts(notebook, script).values():
        if int(part.cells[0].id.removeprefix("section-")) in options.section:
            execute(part, options.timeout)
            keep_outputs(notebook, part)
    nbformat.validate(notebook)
    (options.output or path).parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output or path, nbformat.writes(notebook) + "\n")
    if options.output is None and not is_page(script):
        folder = path.parent / PARTS
        folder.mkdir(exist_ok=True)
        written = parts(notebook, script)
        for name, part in written.items():
            nbformat.validate(part)
            write_atomically(folder / name, nbformat.writes(part) + "\n")
        pages = {notebook_of(one).name for one in sources()}
        for left in {file.name for file in folder.glob("*.ipynb")} - set(written) - pages:
            (folder / left).unlink()  # a section that was renamed


if __name__ == "__main__":
    main()
