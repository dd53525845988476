"""What every recipe of `qkv train` has: how to train, where the run is kept, what is written."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from qkv.data.batches import Batches
from qkv.files import only_writer, write_atomically
from qkv.tasks.console import plain_console
from qkv.tasks.conversion import check_target
from qkv.training.checkpointing import (
    Checkpoints,
    average_checkpoints,
    git_revision,
    versions,
)
from qkv.training.history import History
from qkv.training.loop import Loss, train
from qkv.training.progress import Bar, TensorBoard
from qkv.training.run import Callback, Run
from qkv.training.settings import Training
from qkv.training.stopping import KeepBest


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run leaves what it makes.

    Args:
        output: folder of the finished model; beside it OUTPUT.training keeps the run itself.
        recipe: that is followed, as JSON has it.
        console: for what a reader should see.
        fresh: whether to forget an earlier run, once this one begins to train.
    """

    output: Path
    recipe: dict[str, Any]
    console: Console
    fresh: bool = False

    @property
    def kept(self) -> Path:
        """The folder of the run: checkpoints, curves."""
        return self.output.with_name(f"{self.output.name}.training")

    @property
    def checkpoints(self) -> Path:
        """The folder from which the run goes on."""
        return self.kept / "checkpoints"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the place as the only run in it; forget an earlier run if that was asked for.

        Raises:
            StorageError: another process trains here, or nothing can be written here.
        """
        with only_writer(self.kept):
            if self.fresh:
                shutil.rmtree(self.kept, ignore_errors=True)
            yield

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Write results.json beside the model: scores, recipe, versions, revision."""
        content = {
            **results,
            "threads": torch.get_num_threads(),
            "recipe": self.recipe,
            "versions": versions(),
            "git": git_revision(),
        }
        write_atomically(self.output / "results.json", json.dumps(content, indent=2) + "\n")


def finish(
    place: Place,
    evaluate: Callable[..., Any],
    validation: Any,
    test: Any,
    *,
    save: Callable[[Path], object],
    about: Mapping[str, Any],
    line: Callable[[Any], str],
    hint: str,
) -> None:
    """Score, save, and say how to go on.

    Args:
        place: where the model goes.
        evaluate: the scores, a dataclass, of examples; asked with progress=True.
        validation: examples.
        test: examples, or nothing.
        save: the model to a folder.
        about: the run, such as its seconds.
        line: shows scores.
        hint: a command to try, of which "{}" is the folder.
    """
    before = time.perf_counter()
    scores = {"validation": evaluate(validation, progress=True)}
    scores["test"] = evaluate(test, progress=True) if test else None
    found = {name: one and asdict(one) for name, one in scores.items()}
    save(place.output)
    place.write_results({**found, **about, "seconds of testing": timed(before)})
    for name, one in scores.items():
        if one is not None:
            place.console.print(f"{name}: {line(one)}")
    place.console.print(f"all scores: {place.output / 'results.json'}")
    place.console.print(f"try it: {hint.format(place.output)}")


class Announce(Callback):
    """Says what evaluations gave, and why a run ended early.

    Args:
        console: to say it on.
    """

    def __init__(self, console: Console):
        self.console = console

    def evaluated(self, run: Run, scores: dict[str, float]) -> None:
        """Say the scores."""
        said = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        self.console.print(f"step {run.step:,} of {run.steps:,}, validation: {said}")

    def end(self, run: Run) -> None:
        """Say why there are no more steps, if there should be."""
        if run.stop:
            self.console.print(f"stopped early, after step {run.step:,}: {run.stop}")


def run_training(
    model: nn.Module,
    batches: Batches[Any],
    loss: Loss,
    training: Training,
    place: Place,
    *,
    evaluate: Callable[[nn.Module], dict[str, float]],
    metric: str,
    optimizer: torch.optim.Optimizer,
    device: str,
    unit: str = "tokens",
    callbacks: Sequence[Callback] = (),
) -> History:
    """Train as a recipe says, from where an earlier process of the same run stopped.

    The model is left with the best weights by the metric, or with their average.

    Args:
        model: trained in place.
        batches: without end.
        loss: (model, batch) to a sum over its targets.
        training: the recipe's part.
        place: where the run is kept.
        evaluate: the scores on the validation data; they are printed.
        metric: of these, by which the best weights are chosen; the higher the better.
        optimizer: over what is to be trained.
        device: "auto", "cpu", "cuda" or "mps".
        unit: of a target.
        callbacks: of the task.

    Raises:
        Interrupted: someone asked for a stop; the same call goes on.
        TrainingError: what `train` raises.
        ConfigError: the kept run had another recipe.
        StorageError: another process trains here, or nothing can be written here.
    """
    steps = training.n_steps(batches)
    averaged = training.average_last > 1
    best = KeepBest(metric, mode="max", patience=training.patience)
    chosen = [] if averaged else [best]
    with place.opened():
        history = train(
            model,
            batches,
            loss,
            training,
            optimizer=optimizer,
            evaluate=evaluate,
            callbacks=[
                *callbacks,
                *chosen,
                *_watchers(training, place, steps),
                Bar(place.output.name, unit),
            ],
            device=device,
        )
        if averaged:
            average_checkpoints(model, place.checkpoints, training.average_last)
    if averaged:
        place.console.print(f"the weights are the mean of the last {training.average_last} saved")
    else:
        place.console.print(f"the weights are those of step {best.step:,}, the best by {metric}")
    return history


def _watchers(training: Training, place: Place, steps: int) -> list[Callback]:
    """Who says, draws and saves what happens; saving comes last."""

    def resumed(step: int) -> None:
        place.console.print(
            f"{place.kept} holds {step:,} of {steps:,} steps already, which are not done again; "
            "--fresh begins anew"
        )

    curves = [TensorBoard(place.kept / "tensorboard")] if training.tensorboard else []
    keep = max(2, training.average_last)
    checkpoints = Checkpoints(
        place.checkpoints,
        every=training.save_every,
        keep=keep,
        recipe=place.recipe,
        resumed=resumed,
    )
    return [Announce(place.console), *curves, checkpoints]


def begin(output: Path, recipe: Mapping[str, Any], *, seed: int, fresh: bool) -> Place:
    """Set the seed, and say where the run will be kept.

    Args:
        output: folder of the finished model.
        recipe: dataclasses and numbers.
        seed: of torch.
        fresh: forget an earlier run in its place.

    Raises:
        DataError: the folder holds something that is no checkpoint.
    """
    output = output if output.name.strip(".") else output.resolve()
    check_target(output)
    for part in recipe.values():
        if isinstance(part, Training):
            part.check_batching()
    said = {
        name: asdict(part) if hasattr(part, "__dataclass_fields__") else part
        for name, part in recipe.items()
    }
    torch.manual_seed(seed)
    recorded = json.loads(json.dumps(said, default=str))  # paths as text
    return Place(output=output, recipe=recorded, console=plain_console(), fresh=fresh)


def count(model: nn.Module) -> int:
    """Count the parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def timed(begin: float) -> float:
    """Seconds since, to a tenth."""
    return round(time.perf_counter() - begin, 1)
