"""The state of a training run, and the callbacks that observe it."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from qkv.data.batches import Batches
from qkv.data.streamed import StreamedBatches
from qkv.errors import ConfigError, TrainingError
from qkv.training import ranks
from qkv.training.averaging import MovingAverage
from qkv.training.history import History


class Share(NamedTuple):
    """The rows of a batch that one rank computes.

    A rank without rows computes those of another rank, which then do not count, because every rank
    must take part in the sum of the gradients.
    """

    batch: Any
    counts: bool


class Callback:
    """A hook into the training loop; every method is a no-op by default."""

    def begin(self, run: "Run") -> None:
        """Called before the first step."""

    def before_step(self, run: "Run") -> None:
        """Called before step `run.step + 1`."""

    def evaluated(self, run: "Run", scores: dict[str, float]) -> None:
        """Called after an evaluation, while the model still holds the evaluated weights."""

    def after_step(self, run: "Run") -> None:
        """Called after step `run.step` and its evaluation, if any."""

    def end(self, run: "Run") -> None:
        """Called after the last step; the model is in evaluation mode."""

    def close(self) -> None:
        """Called at the very end, even after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs: tensors and values that JSON can hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


@dataclass
class Run:
    """A training run; its `state_dict` and the weights determine every later step, to the bit.

    Args:
        model: the model, trained in place.
        optimizer: holds the parameters that train.
        batches: source of the training batches.
        steps: total number of optimizer steps.
        device: device of the model.
        callbacks: called in this order.
        scaler: scales the gradients in float16, disabled in other precisions.
        average: moving average of the weights, if any.
        rates: learning rate of each parameter group before the schedule's factor.
        step: number of optimizer steps done.
        drawn: number of batches drawn.
        stop: set by a callback to end the run early: the reason.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batches: Iterable[Any]
    steps: int
    device: torch.device
    callbacks: list[Callback]
    scaler: torch.amp.GradScaler
    average: MovingAverage | None = None
    rates: list[float] = field(init=False)
    history: History = field(init=False, default_factory=History)
    step: int = field(init=False, default=0)
    drawn: int = field(init=False, default=0)
    stop: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self._source: Iterator[Any] = iter(self.batches)

    def draw(self) -> Share:
        """Return this rank's share of the next batch, on the device.

        All ranks draw the same batches, and each takes every n-th row, so that they share one
        position in the data, which does not depend on their number. Each rank draws its own
        streamed batches.

        Raises:
            TrainingError: there are no more batches.
            ConfigError: several ranks cannot share a batch of this type.
        """
        batch, n = next(self._source, None), ranks.n_ranks()
        counts = batch is not None
        streamed = isinstance(self.batches, StreamedBatches)
        if streamed and ranks.highest(int(not counts), self.device):  # a rank has no more shards
            others = [one for one in ranks.of_all(batch) if one is not None]
            batch = batch if counts else next(iter(others), None)
        if batch is None:
            raise TrainingError(
                f"the batches ended after {self.step} of {self.steps} steps; pass an endless "
                "iterator, such as one over many epochs"
            )
        self.drawn += 1
        if n == 1 or streamed:
            return Share(batch.to(self.device), counts)
        if not (hasattr(batch, "take") and hasattr(batch, "n_rows")):
            raise ConfigError(
                f"{n} processes share a {type(batch).__name__}; expected a batch with n_rows and "
                "take(rows), as those of qkv.data.batches.Movable have"
            )
        counts = ranks.rank() < batch.n_rows
        own = batch.take(slice(ranks.rank() if counts else 0, None, n))
        return Share(own.to(self.device), counts)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on, except the weights."""
        return {
            "step": self.step,
            "stop": self.stop,
            "drawn": self.drawn,
            "position": self._position(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.weights if self.average else None,
            "history": asdict(self.history),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "random": ranks.of_all(random_state(self.device)),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from where `state_dict` was taken; the caller loads the weights."""
        self.step, self.stop = state["step"], state["stop"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(state["average"])
        vars(self.history).update(state["history"])
        for callback, kept in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(kept)
        if isinstance(self.batches, Batches | StreamedBatches):
            self.batches.seek(state["position"])
            self.drawn = state["drawn"]
        while self.drawn < state["drawn"]:  # batches that cannot seek are drawn again
            self.draw()
        if ranks.rank() < len(state["random"]):  # an additional rank keeps those of its seed
            # Last: everything above may draw random numbers.
            set_random_state(state["random"][ranks.rank()], self.device)

    def _position(self) -> Any:
        """Return the position in the batches, if they have one; if streamed, that of every rank."""
        if isinstance(self.batches, StreamedBatches):
            return {
                key: at for own in ranks.of_all(self.batches.position) for key, at in own.items()
            }
        return self.batches.position if isinstance(self.batches, Batches) else None


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of the random number generators of Python, NumPy and torch."""
    kind, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    states = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def set_random_state(states: dict[str, Any], device: torch.device) -> None:
    """Restore the generators to the states that `random_state` returned."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"])
