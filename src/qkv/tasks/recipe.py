"""What every recipe of `qkv train` has: how to train, where the run is kept, what is written."""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch import nn

from qkv.blocks.stack import Stack
from qkv.data.batches import Batches
from qkv.errors import ConfigError
from qkv.files import write_atomically
from qkv.training.checkpointing import (
    Checkpoints,
    average_checkpoints,
    git_revision,
    versions,
)
from qkv.training.history import History
from qkv.training.loop import Loss, Precision, train
from qkv.training.optim import Schedule, constant, cosine, linear, noam
from qkv.training.progress import TensorBoard
from qkv.training.run import Callback
from qkv.training.stopping import KeepBest


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and how fast to learn.

    Args:
        steps: updates of the weights; either these or the epochs are given.
        epochs: times that each example is seen.
        max_tokens: positions of a batch, padding included.
        accumulate: batches that make one update.
        learning_rate: the highest; of "noam" a factor.
        schedule: how the rate falls after the warm-up; "noam" is that of the 2017 Transformer.
        warmup: steps until the rate is reached, or the share of all steps if below 1.
        weight_decay: of the matrices.
        betas: of AdamW.
        clip: largest norm of the gradient.
        smoothing: of the labels.
        precision: of the activations; 16 bits pay on accelerators only.
        ema: decay of a moving average of the weights, which is evaluated and kept.
        average_last: how many of the last checkpoints to average at the end.
        evaluate_every: steps between two looks at the validation data; an epoch if not given.
        patience: evaluations without a better one after which to stop; never if not given.
        save_every: steps between two checkpoints.
        recompute: activations of a block are computed again when needed: slower, less memory.
        compile: let torch compile the computation.
        tensorboard: write curves.
        seed: of the weights, the dropout and the order of the data.
    """

    steps: int | None = None
    epochs: float | None = None
    max_tokens: int = 4_000
    accumulate: int = 1
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "linear", "constant", "noam"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    smoothing: float = 0.0
    precision: Precision = "float32"
    ema: float | None = None
    average_last: int = 1
    evaluate_every: int | None = None
    patience: int | None = None
    save_every: int = 100
    recompute: bool = False
    compile: bool = False
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError(
                f"training.steps = {self.steps} and training.epochs = {self.epochs}; expected one "
                "of the two"
            )

    def n_steps(self, batches: Batches[Any]) -> int:
        """Updates of the weights."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * batches.n_batches / self.accumulate))

    def make_schedule(self, steps: int, d_model: int) -> Schedule:
        """Step to factor of the rate."""
        warmup = round(self.warmup * steps) if self.warmup < 1 else round(self.warmup)
        match self.schedule:
            case "cosine":
                return cosine(warmup, steps)
            case "linear":
                return linear(warmup, steps)
            case "noam":
                return noam(d_model, max(1, warmup))
        return constant(warmup)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run leaves what it makes.

    Args:
        output: folder of the finished model; beside it OUTPUT.training keeps the run itself.
        recipe: that is followed, as JSON has it.
        console: for what a reader should see.
    """

    output: Path
    recipe: dict[str, Any]
    console: Console

    @property
    def kept(self) -> Path:
        """The folder of the run: checkpoints, curves."""
        return self.output.with_name(f"{self.output.name}.training")

    def clear(self) -> None:
        """Forget an earlier run."""
        shutil.rmtree(self.kept, ignore_errors=True)

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
    """
    steps = training.n_steps(batches)
    if training.recompute:
        recompute_activations(model)

    def report(model: nn.Module) -> dict[str, float]:
        scores = evaluate(model)
        said = ", ".join(f"{name} {score:.4f}" for name, score in scores.items())
        place.console.print(f"validation: {said}")
        return scores

    checkpoints = Checkpoints(
        place.kept / "checkpoints",
        every=training.save_every,
        keep=max(2, training.average_last),
        recipe=place.recipe,
    )
    best = (
        []
        if training.average_last > 1
        else [KeepBest(metric, mode="max", patience=training.patience)]
    )
    curves = [TensorBoard(place.kept / "tensorboard")] if training.tensorboard else []
    d_model = getattr(getattr(model, "config", None), "d_model", 1)
    history = train(
        model,
        batches,
        loss,
        steps=steps,
        optimizer=optimizer,
        schedule=training.make_schedule(steps, d_model),
        clip=training.clip,
        accumulate=training.accumulate,
        precision=training.precision,
        ema=training.ema,
        compile=training.compile,
        evaluate=report,
        evaluate_every=training.evaluate_every or max(1, batches.n_batches // training.accumulate),
        callbacks=[*callbacks, *best, *curves, checkpoints],
        device=device,
        description=place.output.name,
        unit=unit,
    )
    if training.average_last > 1:
        average_checkpoints(model, place.kept / "checkpoints", training.average_last)
    return history


def recompute_activations(model: nn.Module) -> None:
    """Keep only what enters each block; the rest is computed again in the backward pass.

    Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    for module in model.modules():
        if isinstance(module, Stack):
            module.recompute = True


def begin(output: Path, recipe: Mapping[str, Any], *, seed: int, fresh: bool) -> Place:
    """Set the seed, and say where the run will be kept.

    Args:
        output: folder of the finished model.
        recipe: dataclasses and numbers.
        seed: of torch.
        fresh: forget an earlier run in its place.
    """
    said = {
        name: asdict(part) if hasattr(part, "__dataclass_fields__") else part
        for name, part in recipe.items()
    }
    torch.manual_seed(seed)
    place = Place(output=output, recipe=json.loads(json.dumps(said)), console=Console())
    if fresh:
        place.clear()
    return place


def count(model: nn.Module) -> int:
    """Count the parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def timed(begin: float) -> float:
    """Seconds since, to a tenth."""
    return round(time.perf_counter() - begin, 1)
