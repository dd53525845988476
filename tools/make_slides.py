"""Make the slides of the lectures from the executed notebooks: one HTML file each, with reveal.js.

docs/teaching/slides.toml lists for each slide the section of the tutorial and what to show of it:
formulas, figures, tables and functions, each by a part of its text. They come from the notebooks,
and so do the speaker's notes, which are the text of the section. The goals come from the syllabus
and the last slides from the bank of questions.

    python tools/make_slides.py build/slides --static ../static
"""

import argparse
import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

ROOT = Path(__file__).parents[1]
TEACHING = ROOT / "docs" / "teaching"
KINDS = ("formula", "code", "table", "figure")  # in the order in which a slide shows them
HEADING = re.compile(r"#{2,3} (\d+(?:\.\d+)?) (.*)")
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{static}/reveal.js/dist/reset.css">
<link rel="stylesheet" href="{static}/reveal.js/dist/reveal.css">
<link rel="stylesheet" href="{static}/reveal.js/dist/theme/white.css">
<style>
.reveal {{ font-size: 30px; }}
.reveal h2, .reveal h1 {{ text-transform: none; font-size: 1.5em; }}
.reveal ul, .reveal ol, .reveal table {{ text-align: left; }}
.reveal table {{ font-size: 0.7em; }}
.reveal table.long {{ font-size: 0.48em; line-height: 1.2; }}
.reveal mjx-container[display] {{ font-size: 0.9em; }}
.reveal table td, .reveal table th {{ padding: 0.15em 0.5em; }}
.reveal pre {{ width: 100%; font-size: 0.55em; }}
.reveal .caption, .reveal .place {{ font-size: 0.6em; color: #555; }}
.reveal img {{ max-height: 480px; }}
.reveal li {{ margin-bottom: 0.3em; }}
</style>
<script>
window.MathJax = {{
  tex: {{inlineMath: [["\\\\(", "\\\\)"]]}},
  output: {{fontPath: "{static}/mathjax/font"}},
  loader: {{load: ["a11y/assistive-mml"]}},
  options: {{
    enableAssistiveMml: true,
    menuOptions: {{settings: {{enrich: false, speech: false, braille: false, assistiveMml: true}}}},
  }},
}};
</script>
<script defer src="{static}/mathjax/tex-svg.js"></script>
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
<script src="{static}/reveal.js/dist/reveal.js"></script>
<script src="{static}/reveal.js/dist/plugin/notes.js"></script>
<script>
Reveal.initialize({{
  hash: true, slideNumber: true, width: 1200, height: 700, plugins: [RevealNotes],
}});
</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Part:
    """A paragraph, a formula, a code cell, or an output of a section.

    Args:
        kind: "text", or one of KINDS.
        text: what identifies it: its Markdown, its TeX, its source, or the titles of a figure.
        image: a figure as PNG in base64.
    """

    kind: str
    text: str
    image: str = ""


@dataclass
class Section:
    """A heading of the tutorial, what is below it, and how much of its text is in notes already."""

    title: str
    parts: list[Part] = field(default_factory=list)
    told: int = 0

    def find(self, kind: str, text: str) -> int:
        """Return the index of the one part of a kind that contains a text.

        Raises:
            ValueError: there is none, or there are several.
        """
        if kind == "code":
            found = [i for i, one in enumerate(self.parts) if _function(one, text)]
        else:
            same = [i for i, one in enumerate(self.parts) if one.kind == kind]
            found = [i for i in same if _line(text) in _line(self.parts[i].text)]
        if len(found) != 1:
            raise ValueError(f"{self.title}: {len(found)} times {kind} {text!r}; expected 1")
        return found[0]

    def notes(self, end: int) -> str:
        """Return the text up to a part, from where the last notes ended."""
        texts = [one.text for one in self.parts[self.told : end] if one.kind == "text"]
        self.told = max(self.told, end)
        return "\n\n".join(texts)


def make_slides(
    notebooks: Path, target: Path, static: str, *, teaching: Path = TEACHING
) -> list[Path]:
    """Write the slides of every lecture, and return the files.

    Args:
        notebooks: folder of the executed notebooks.
        target: folder for lecture_01.html and so on.
        static: address, as seen from the files, of a folder with reveal.js and mathjax.
        teaching: folder of slides.toml, syllabus.md and quiz.toml.

    Raises:
        ValueError: a slide shows something that its section does not have.
    """
    plan = tomllib.loads((teaching / "slides.toml").read_text(encoding="utf-8"))["lecture"]
    quiz = tomllib.loads((teaching / "quiz.toml").read_text(encoding="utf-8"))["question"]
    sections = read_sections(notebooks)
    titles = read_goals((teaching / "syllabus.md").read_text(encoding="utf-8"))
    target.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    for number, (lecture, (title, goals)) in enumerate(zip(plan, titles, strict=True), 1):
        name = f"Lecture {number}: {title}"
        slides = [_section(f"<h1>{_inline(name)}</h1>"), _section(f"<h2>Goals</h2>{_html(goals)}")]
        slides += lecture_slides(lecture["slide"], sections)
        slides += [_question(_find_question(text, quiz)) for text in lecture["quiz"]]
        files.append(target / f"lecture_{number:02}.html")
        page = PAGE.format(title=escape(name), static=static, slides="\n".join(slides))
        files[-1].write_text(page, encoding="utf-8")
    return files


def read_sections(notebooks: Path) -> dict[str, Section]:
    """Return the sections of all notebooks by their number, such as "2" and "2.3"."""
    sections: dict[str, Section] = {}
    for path in sorted(notebooks.glob("*.ipynb")):
        current = Section("")  # the set-up, which no slide shows
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code":
                current.parts += [Part("code", source), *_outputs(cell["outputs"])]
                continue
            for part in _paragraphs(source):
                if match := HEADING.fullmatch(part.text):
                    current = sections[match[1]] = Section(match[2])
                else:
                    current.parts.append(part)
    return sections


def read_goals(syllabus: str) -> list[tuple[str, str]]:
    """Return title and goals of each lecture, the goals in Markdown."""
    pattern = r"^### Lecture \d+: (.+?)\n.*?^(After this you can\n.*?)\n\n\*\*"
    return re.findall(pattern, syllabus, flags=re.DOTALL | re.MULTILINE)


def lecture_slides(
    slides: Sequence[Mapping[str, Any]], sections: Mapping[str, Section]
) -> Iterator[str]:
    """Yield the slides of a lecture in HTML.

    Raises:
        ValueError: there is no such section, or not what a slide shows of it.
    """
    for i, slide in enumerate(slides):
        if slide["section"] not in sections:
            raise ValueError(f"there is no section {slide['section']}")
        section = sections[slide["section"]]
        shown = [
            (kind, text, section.find(kind, text)) for kind in KINDS for text in slide.get(kind, ())
        ]
        later = any(one["section"] == slide["section"] for one in slides[i + 1 :])
        last = max((place for *_, place in shown), default=-1) + 1
        notes = section.notes(last if later else len(section.parts))
        body = f"<h2>{_inline(slide.get('title', section.title))}</h2>"
        body += _html("\n".join(f"- {point}" for point in slide.get("points", ())))
        body += "".join(_show(section.parts[place], text) for _, text, place in shown)
        yield _section(body, notes, f"{slide['section']} {section.title}")


def _paragraphs(source: str) -> Iterator[Part]:
    """Yield headings, paragraphs and display formulas; listings of the library are left out."""
    for piece in re.split(r"(```.*?```|\$\$.*?\$\$)", source, flags=re.DOTALL):
        if piece.startswith("$$"):
            yield Part("formula", piece.strip("$"))
        elif not piece.startswith("```") and not re.match(r"\[`[^\]]*\]\([^)]*\)\s*$", piece):
            yield from (Part("text", text.strip()) for text in piece.split("\n\n") if text.strip())


def _outputs(outputs: Sequence[Mapping[str, Any]]) -> Iterator[Part]:
    """Yield the figures and tables among the outputs of a cell."""
    for output in outputs:
        data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
        if "image/png" in data:
            yield Part("figure", data.get("text/plain", ""), data["image/png"].replace("\n", ""))
        elif "| --- |" in data.get("text/markdown", ""):
            yield Part("table", data["text/markdown"])


def _function(part: Part, name: str) -> str | None:
    """Return the source of a function or class that a code cell defines."""
    if part.kind != "code" or not re.search(rf"^(def|class) {name}\b", part.text, re.MULTILINE):
        return None
    nodes = (ast.FunctionDef, ast.ClassDef)
    for node in ast.parse(part.text).body:
        if isinstance(node, nodes) and node.name == name:
            return ast.get_source_segment(part.text, node)
    return None


def _show(part: Part, text: str) -> str:
    """Return a part in HTML; the text names a function of a code cell."""
    if part.kind == "formula":
        return f"<p>\\[{escape(part.text)}\\]</p>"
    if part.kind == "code":
        return f"<pre><code>{escape(_function(part, text) or '')}</code></pre>"
    if part.kind == "figure":
        alt = escape(part.text, quote=True)
        return f'<img alt="{alt}" src="data:image/png;base64,{part.image}">'
    title, _, table = part.text.partition("\n\n")
    long = ' class="long"' if table.count("\n") > 9 else ""
    table = _html(table).replace("<table>", f"<table{long}>")
    return f'<p class="caption">{_inline(title)}</p>{table}'


def _find_question(text: str, quiz: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the question that begins with a text.

    Raises:
        ValueError: there is none, or there are several.
    """
    found = [one for one in quiz if one["text"].startswith(text)]
    if len(found) != 1:
        raise ValueError(f"{len(found)} questions begin with {text!r}; expected 1")
    return found[0]


def _question(one: Mapping[str, Any]) -> str:
    """Return a slide with a question, whose answer is in the notes."""
    choices = "".join(f"<li>{_inline(choice['text'])}</li>" for choice in one["choice"])
    body = f'<h2>{_inline(one["text"])}</h2><ol type="A">{choices}</ol>'
    verdicts = [
        f"{letter}: {'right' if choice['right'] else 'no'}. {choice['why']}"
        for letter, choice in zip("ABCD", one["choice"], strict=True)
    ]
    return _section(body, "\n\n".join(verdicts), f"quiz, section {one['section']}")


def _section(body: str, notes: str = "", place: str = "") -> str:
    """Return a slide; its notes are Markdown."""
    where = f'<p class="place">{_inline(place)}</p>' if place else ""
    aside = f'<aside class="notes">{_html(notes)}</aside>' if notes else ""
    return f"<section>{body}{where}{aside}</section>"


def _markdown() -> MarkdownIt:
    """Return a reader of Markdown with tables and formulas."""

    def formula(text: str, options: Mapping[str, Any]) -> str:
        brackets = "\\[{}\\]" if options["display_mode"] else "\\({}\\)"
        return brackets.format(escape(text))

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    return reader.use(dollarmath_plugin, renderer=formula)


MARKDOWN = _markdown()


def _html(text: str) -> str:
    """Return Markdown as HTML, its links as their labels, since their files may not be there."""
    return MARKDOWN.render(re.sub(r"(?<!!)\[([^\]]+)\]\([^)]*\)", r"\1", text))


def _inline(text: str) -> str:
    return MARKDOWN.renderInline(text)


def _line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(text.split())


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the slides."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("target", type=Path, help="folder for the files")
    parser.add_argument("--static", default="../_static", help="address of reveal.js and mathjax")
    parser.add_argument("--notebooks", type=Path, default=ROOT / "notebooks")
    options = parser.parse_args(arguments)
    for path in make_slides(options.notebooks, options.target, options.static):
        print(path)


if __name__ == "__main__":
    main()
