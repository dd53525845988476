"""Progress of a run: a bar on the terminal, curves in TensorBoard."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from qkv.errors import MissingDependencyError
from qkv.training import ranks
from qkv.training.run import Callback, Run


class Bar(Callback):
    """A progress bar on the first rank, if the output is a terminal.

    Args:
        description: text before the bar.
        unit: plural of a target, such as "images".
        show: False for no bar.
    """

    def __init__(self, description: str = "training", unit: str = "tokens", *, show: bool = True):
        self.description, self.unit, self.show = description, unit, show
        self.progress = Progress(disable=True)

    def begin(self, run: Run) -> None:
        """Draw the bar."""
        console = Console()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (self.show and console.is_terminal and ranks.is_first()),
        )
        self.progress.start()
        self.task = self.progress.add_task(self.description, total=run.steps, numbers="")

    def after_step(self, run: Run) -> None:
        """Show the last loss that was read."""
        history = run.history
        if not self.progress.disable and history.losses:
            speed = f"{history.targets_per_second:,.0f} {self.unit}/s"
            numbers = f"loss {history.losses[-1]:.4f}, {speed}"
            self.progress.update(self.task, completed=run.step, numbers=numbers)

    def close(self) -> None:
        """Restore the terminal."""
        self.progress.stop()


class TensorBoard(Callback):
    """Log the loss, learning rate, speed and scores: `tensorboard --logdir FOLDER`.

    Args:
        folder: folder of the event files; a resumed run adds a file.

    Raises:
        MissingDependencyError: tensorboard is not installed.
    """

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                'the curves need tensorboard, which is not installed: pip install "qkv[train]"'
            ) from error
        self.folder, self.make = folder, SummaryWriter
        self.writer: Any = None
        self.written = 0

    def begin(self, run: Run) -> None:
        """Hide what an earlier process logged after the step from which this one resumes."""
        self.writer = self.make(str(self.folder), purge_step=run.step + 1)
        self.written = len(run.history.losses)

    def after_step(self, run: Run) -> None:
        """Log the losses that were read since the last call."""
        history = run.history
        for i in range(self.written, len(history.losses)):
            step = history.steps[i]
            self.writer.add_scalar("loss", history.losses[i], step)
            self.writer.add_scalar("learning rate", history.learning_rates[i], step)
        if len(history.losses) > self.written:
            self.writer.add_scalar("targets per second", history.targets_per_second, run.step)
        self.written = len(history.losses)

    def evaluated(self, run: Run, scores: dict[str, float]) -> None:
        """Log the scores under `validation/`."""
        for name, score in scores.items():
            self.writer.add_scalar(f"validation/{name}", score, run.step)

    def close(self) -> None:
        """Close the file."""
        if self.writer is not None:
            self.writer.close()
