"""What `qkv generate` and `qkv chat` write for the sixty prompts of prompts.jsonl.

    python benchmarks/prompts.py              write what is missing, and count
    python benchmarks/prompts.py --again      write all of them again

Four checks count. Three are computed: no run of six words occurs twice, there is no markup, and
the text ends with a sentence (code: with a line, and Python can parse it). The fourth is a
reader's: whether the text makes sense. It is the field "sensible" in results/prompts.json, is
filled in by hand, with a reason, and is forgotten when a text changes.
"""

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

from _common import DOCS, RESULTS, load, machine, provenance, publish, save

from qkv.tasks.chat import Chat
from qkv.tasks.console import progress_bar
from qkv.tasks.generation import Generator
from qkv.tutorial.tables import markdown_table, show_table

PROMPTS, FILE = Path(__file__).parent / "prompts.jsonl", RESULTS / "prompts.json"
DOCUMENT = DOCS / "results.md"
MARKUP = re.compile(r"<\|.*?\|>|`|\*\*|^#+ |^\s*[*+] |</?[a-z]+[^>]*>|\]\(", re.MULTILINE)
SENTENCE = re.compile(r"[.!?\u2026][\"'\u201d\u2019)]*$")
CHECKS = ("no repetition", "no markup", "whole sentences", "sensible")


def repeats(text: str, n: int = 6) -> bool:
    """Return whether a run of n words occurs twice."""
    words = re.findall(r"\w+", text.lower())
    runs = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(runs)) < len(runs)


def is_python(text: str) -> bool:
    """Return whether Python can parse a text."""
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def checked(row: dict[str, Any]) -> dict[str, Any]:
    """Return an output with the checks that can be computed."""
    code, text = row["id"].startswith("code"), row["text"].strip()
    markup = text if not code else re.sub(r"#.*|\*\*", "", text)
    letter = row["id"].startswith("letter") and "\n" in text  # may end with a name
    ends = is_python(row["prompt"] + row["text"]) if code else bool(SENTENCE.search(text)) or letter
    return {
        **row,
        "no repetition": not repeats(text),
        "no markup": not MARKUP.search(markup),
        "whole sentences": bool(text) and ends,
    }


def write(prompt: dict[str, Any], generator: Generator, chat: Chat) -> str:
    """Return what the command writes for a prompt, with its default settings."""
    if prompt["command"] == "chat":
        return chat(prompt["prompt"]).text
    return generator(prompt["prompt"]).text


def main() -> None:
    """Write, check, and publish the counts."""
    prompts = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    content = load(FILE) if FILE.is_file() else {"outputs": []}
    again = "--again" in sys.argv
    before = {one["id"]: one for one in content["outputs"]}
    known = {} if again else before
    generator, chat = Generator.load("smollm2"), Chat.load("smollm2")
    outputs = []
    for prompt in progress_bar(prompts, "writing", show=True):
        new = prompt["id"] not in known
        text = write(prompt, generator, chat) if new else known[prompt["id"]]["text"]
        old = before.get(prompt["id"], {})
        read = (
            {name: old.get(name) for name in ("sensible", "why")} if old.get("text") == text else {}
        )
        outputs.append(checked({**prompt, "text": text}) | read)
        rest = [before[one["id"]] for one in prompts[len(outputs) :] if one["id"] in before]
        where = machine() if new else content["machine"]  # of what was written last
        content = {"machine": where, "outputs": [*outputs, *rest]}
        save(FILE, content)
    kinds = list(dict.fromkeys(re.sub(r"-\d+$", "", one["id"]) for one in outputs))
    rows = []
    for kind in [*kinds, "all"]:
        own = [one for one in outputs if kind in ("all", re.sub(r"-\d+$", "", one["id"]))]
        counts = {name: str(sum(bool(one.get(name)) for one in own)) for name in CHECKS}
        passed = sum(all(one.get(name) for name in CHECKS) for one in own)
        rows.append({"prompts": kind, "number": str(len(own)), **counts, "all four": str(passed)})
    show_table("sixty prompts, smollm2", rows)
    markdown = f"{markdown_table(rows)}\n\n{provenance(FILE, content)}"
    publish("prompts", markdown, DOCUMENT)


if __name__ == "__main__":
    main()
