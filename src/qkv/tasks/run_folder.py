"""The folder of a training run: its lock, its checkpoints, and its messages."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from qkv.files import only_writer
from qkv.tasks.console import plain_console
from qkv.training import ranks
from qkv.training.run import Callback, Run

MADE = ("checkpoints", "tensorboard", "adapter", "decoder")  # what a run writes to its folder


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """The folder OUTPUT.training, which contains a training run.

    Args:
        output: folder of the trained model.
        recipe: the recipe and the checksum of its data, as JSON values; a run with other values is
            not resumed.
        fresh: whether to delete an earlier run, once this one begins to train.
    """

    output: Path
    recipe: Mapping[str, Any]
    fresh: bool

    @property
    def folder(self) -> Path:
        """The run's folder: checkpoints, curves."""
        return self.output.with_name(f"{self.output.name}.training")

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def on_data(self, data_checksum: str) -> "RunFolder":
        """Return the folder of a run on data with this checksum."""
        return replace(self, recipe={**self.recipe, "data_checksum": data_checksum})

    def print(self, text: str) -> None:
        """Print a line on the first rank."""
        if ranks.is_first():
            plain_console().print(text)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Lock the folder; delete an earlier run on request.

        Raises:
            StorageError: another process is training in this folder, or it is not writable.
        """
        with only_writer(self.folder) if ranks.is_first() else nullcontext():
            if self.fresh and ranks.is_first():
                for made in MADE:  # other files are kept
                    shutil.rmtree(self.folder / made, ignore_errors=True)
            yield


class Announce(Callback):
    """Print evaluation scores and the reason for early stopping."""

    def __init__(self, run: RunFolder):
        self.folder = run

    def evaluated(self, run: Run, scores: dict[str, float]) -> None:
        """Print the scores."""
        listed = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        self.folder.print(f"step {run.step:,} of {run.steps:,}, validation: {listed}")

    def end(self, run: Run) -> None:
        """Print why the run ended early, if it did."""
        if run.stop:
            self.folder.print(f"stopped early, after step {run.step:,}: {run.stop}")
