"""Build the site of the documentation, offline: `make docs`.

The pages of docs/, the executed notebooks, and a reference of all public modules are gathered in
build/docs/source, and Sphinx makes build/docs/html of them; a warning is an error. MathJax and
reveal.js come from docs/node_modules (`npm ci` in docs/).

    make docs                        build all of it
    make docs ARGS=--serve           and show it on this computer
"""

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from docs_links import check as check_links
from docs_pages import bibliography_page, equations_page, exercises_page, read
from docs_search import LEAST, not_found, undocumented
from docs_teaching import quiz_page
from make_slides import make_slides, read_goals

import qkv

ROOT = Path(__file__).parents[1]
DOCS, BUILD = ROOT / "docs", ROOT / "build" / "docs"
SOURCE, HTML = BUILD / "source", BUILD / "html"
MODULES = DOCS / "node_modules"
PAGES = {
    "equations.md": equations_page,
    "bibliography.md": bibliography_page,
    "teaching/exercises.md": exercises_page,
    "teaching/quiz.md": lambda: quiz_page(read("teaching/quiz.toml")),
    "teaching/slides.md": lambda: slides_page(),
}
# A program, and modules whose names are listed where they are defined.
LEFT_OUT = {"qkv.inference.check", "qkv.api", "qkv.tutorial.show"}
LINK = re.compile(r"\[((?:[^\]\[]|\[[^\]]*\])+)\]\((?:\.\./)+([^)#\s]+)(#[^)\s]*)?\)")


def stage() -> None:
    """Gather what Sphinx reads."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "tutorial").mkdir(parents=True)
    for path in sorted(DOCS.rglob("*.md")):
        if MODULES not in path.parents:
            target = SOURCE / path.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            up = "../" * (len(path.relative_to(DOCS).parts) - 1)
            text = path.read_text(encoding="utf-8")
            target.write_text(with_links(text, up=up), encoding="utf-8")
    for folder in ("images", "examples"):
        shutil.copytree(DOCS / folder, SOURCE / folder)
    for path in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        below = path.relative_to(ROOT / "notebooks")
        book = json.loads(path.read_text(encoding="utf-8"))
        for texts in _markdown(book):
            texts[:] = [with_links("".join(texts), up="../" * len(below.parts))]
        target = SOURCE / "tutorial" / below
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(book), encoding="utf-8")
    write_tutorial()
    (SOURCE / "teaching").mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (SOURCE / name).write_text(make(), encoding="utf-8")
    write_reference()
    copy_scripts()


def write_tutorial() -> None:
    """Write the page that lists the notebooks."""
    folder = SOURCE / "tutorial"
    names = sorted((path.stem for path in folder.glob("*.ipynb")), key=section_order)
    variants = sorted(f"variants/{path.stem}" for path in folder.glob("variants/*.ipynb"))
    text = "Each section is a notebook that runs by itself; what you see here was executed."
    page = ["# Tutorial", "", text, "", *toctree(names), "## Variants of attention", ""]
    about = (
        "A page for each, in one frame: what changes, its limit, its cost, and three live tasks."
    )
    page += [about, "", *toctree(variants)]
    (SOURCE / "tutorial" / "index.md").write_text("\n".join(page), encoding="utf-8")


def toctree(names: list[str]) -> list[str]:
    """Return a list of pages, one level deep."""
    return ["```{toctree}", ":maxdepth: 1", "", *names, "```", ""]


def section_order(name: str) -> tuple[int, str]:
    """Return the place of a notebook: that of its section's number."""
    number = re.match(r"\d+", name)
    return (int(number[0]) if number else 99, name)


def slides_page() -> str:
    """Return the page that links to the slides of each lecture."""
    titles = read_goals((DOCS / "teaching" / "syllabus.md").read_text(encoding="utf-8"))
    page = [
        "# Slides",
        "",
        "One file for each lecture of [the syllabus](syllabus.md), made from the",
    ]
    page += ["executed notebooks. Press S for the speaker's notes, and ? for all keys.", ""]
    for number, (title, _) in enumerate(titles, 1):
        address = f"../slides/lecture_{number:02}.html"
        page += [f'{number}. <a href="{address}">{title}</a>']
    return "\n".join(page) + "\n"


def _markdown(book: dict[str, Any]) -> Iterator[list[str]]:
    """Yield the texts of a notebook: those of its cells, and of what they show."""
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            yield cell["source"]
        for output in cell.get("outputs", ()):
            if isinstance(shown := output.get("data", {}).get("text/markdown"), list):
                yield shown


def with_links(text: str, *, up: str = "") -> str:
    """Turn links to files of the repository into links to pages of the site, or plain text.

    Args:
        text: Markdown.
        up: the way from its page to the first page.
    """

    def page(match: re.Match[str]) -> str:
        label, path = match[1], match[2].rstrip("/")
        if path.startswith("src/qkv/") and path.endswith(".py"):
            address = path.removeprefix("src/").removesuffix(".py")
            return f'<a href="{up}_modules/{address}.html">{_html(label)}</a>'
        package = ".".join(path.removeprefix("src/").split("/"))
        if path.startswith("src/qkv/") and package in packages():
            return f"[{label}]({up}api/{package}.md)"
        if path.startswith("docs/") and path.endswith(".md"):
            return f"[{label}]({up}{path.removeprefix('docs/')})"
        if path.startswith("notebooks/"):
            return f"[{label}]({up}tutorial/{path.removeprefix('notebooks/')})"
        return label

    return LINK.sub(page, text)


def _html(label: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", label)


def packages() -> dict[str, list[str]]:
    """Return the public modules of each package, by its name."""
    found = dict[str, list[str]]()
    for info in pkgutil.walk_packages(qkv.__path__, "qkv."):
        name = info.name
        if "._" in name or name in LEFT_OUT or info.ispkg:
            continue
        found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def write_reference() -> None:
    """Write a page for each package with all its public modules, and one that lists them."""
    folder = SOURCE / "api"
    folder.mkdir()
    contents = packages()
    for package, names in contents.items():
        page = [f"# {package}", ""]
        about = (importlib.import_module(package).__doc__ or "").strip()
        page += [about.partition("\n\n")[0], ""] if about else []
        for name in names:
            module = importlib.import_module(name)  # an error is clearer here than in Sphinx
            path = name.replace(".", "/")
            page += [f"## {name.removeprefix('qkv.')}", ""]
            if has_source(module):
                page += [f'<a href="../_modules/{path}.html">source</a>', ""]
            page += ["```{eval-rst}", f".. automodule:: {name}", "```", ""]
        (folder / f"{package}.md").write_text("\n".join(page), encoding="utf-8")
    index = [
        "# Reference",
        "",
        "Every public function, with its source.",
        "",
        *toctree([*contents]),
    ]
    (folder / "index.md").write_text("\n".join(index), encoding="utf-8")


def has_source(module: ModuleType) -> bool:
    """Return whether a module defines functions or classes, so that Sphinx shows its source."""
    own = (it for name, it in vars(module).items() if not name.startswith("_"))
    return any(
        (inspect.isfunction(it) or inspect.isclass(it)) and it.__module__ == module.__name__
        for it in own
    )


def clean_up() -> None:
    """Remove what Sphinx and the theme leave: a template, and a link to no page."""
    (HTML / "_static" / "webpack-macros.html").unlink(missing_ok=True)
    index = HTML / "_modules" / "index.html"
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace('<li><a href="builtins.html">builtins</a></li>', ""), "utf-8")


def copy_scripts() -> None:
    """Copy MathJax with its font; nothing is loaded from another host."""
    static = SOURCE / "_static"
    if (DOCS / "_static").is_dir():
        shutil.copytree(DOCS / "_static", static)
    target = static / "mathjax"
    target.mkdir(parents=True)
    shutil.copy(MODULES / "mathjax" / "tex-svg.js", target)
    (target / "a11y").mkdir()
    shutil.copy(MODULES / "mathjax" / "a11y" / "assistive-mml.js", target / "a11y")
    shutil.copytree(MODULES / "reveal.js" / "dist", static / "reveal.js" / "dist")
    shutil.copytree(MODULES / "@mathjax" / "mathjax-newcm-font" / "svg", target / "font" / "svg")


def main() -> None:
    """Build the site."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", action="store_true", help="show it on this computer")
    parser.add_argument("--port", type=int, default=8600)
    arguments = parser.parse_args()
    if not MODULES.is_dir():
        sys.exit(f"{MODULES.relative_to(ROOT)} is missing; expected MathJax: npm ci in docs/")
    stage()
    shutil.rmtree(HTML, ignore_errors=True)  # pages that are gone
    command = [
        "-W",
        "--keep-going",
        "-q",
        "-j",
        "auto",
        "-c",
        str(DOCS),
        "-d",
        str(BUILD / "cache"),
    ]
    build = [sys.executable, "-m", "sphinx", "-b", "html", *command, str(SOURCE), str(HTML)]
    code = subprocess.run(
        build, check=False, env={**os.environ, "QKV_DOCS": str(SOURCE)}
    ).returncode
    if code:
        sys.exit(code)
    clean_up()
    make_slides(ROOT / "notebooks", HTML / "slides", "../_static")
    broken, others = check_links(HTML.resolve())
    (BUILD / "external.txt").write_text("\n".join(sorted(others)) + "\n", encoding="utf-8")
    if broken:
        sys.exit("\n".join([*broken, f"{len(broken)} broken links"]))
    if missing := not_found(HTML):
        sys.exit(f"the search does not find {', '.join(missing)}")
    bare, count = undocumented(HTML)
    if len(bare) > (1 - LEAST) * count:
        sys.exit("\n".join([*bare, f"{len(bare)} of {count} have no text or no source"]))
    print(f"{count - len(bare)} of {count} functions and classes have a text and their source")
    print(f"no broken link; {len(others)} links to other sites are in build/docs/external.txt")
    print(f"the site is at {(HTML / 'index.html').relative_to(ROOT)}")
    if arguments.serve:
        serve = [sys.executable, "-m", "http.server", str(arguments.port), "--bind", "127.0.0.1"]
        subprocess.run([*serve, "-d", str(HTML)], check=False)


if __name__ == "__main__":
    main()
