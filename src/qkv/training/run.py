"""A run of training: all that its next step depends on, and those who watch it."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from qkv.data.batches import Batches
from qkv.errors import TrainingError
from qkv.training.averaging import MovingAverage
from qkv.training.history import History


class Callback:
    """Something that happens beside training: the methods do nothing until a subclass says what."""

    def begin(self, run: "Run") -> None:
        """Before the first step, in the order of the callbacks."""

    def before_step(self, run: "Run") -> None:
        """Before step number `run.step + 1`."""

    def evaluated(self, run: "Run", scores: dict[str, float]) -> None:
        """After an evaluation; the model still holds the weights that were evaluated."""

    def after_step(self, run: "Run") -> None:
        """After step number `run.step`, and after its evaluation where there was one."""

    def end(self, run: "Run") -> None:
        """After the last step; the model is in evaluation mode."""

    def close(self) -> None:
        """At the very end, whatever happened."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs to know: tensors, and what JSON can hold."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""


@dataclass
class Run:
    """A run of training; what `state_dict` holds decides every later step, to the bit.

    Args:
        model: trained in place.
        optimizer: over its parameters.
        batches: that are drawn from.
        steps: updates in all.
        device: of the model.
        callbacks: those who watch.
        scaler: of float16's gradients; off in any other precision.
        average: of the weights, where one is kept.
        rates: of each group of the optimizer, before the schedule's factor.
        step: updates done.
        stop: why the run ended before its last step, if it did.
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

    def draw(self) -> Any:
        """The next batch, on the device.

        Raises:
            TrainingError: the batches have ended.
        """
        try:
            batch = next(self._source)
        except StopIteration:
            raise TrainingError(
                f"the batches ended after {self.step} of {self.steps} steps; pass an iterator that "
                "does not end, such as one over many epochs"
            ) from None
        self.drawn += 1
        return batch.to(self.device)

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, the weights apart."""
        return {
            "step": self.step,
            "stop": self.stop,
            "drawn": self.drawn,
            "position": self.batches.position if isinstance(self.batches, Batches) else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.weights if self.average else None,
            "history": asdict(self.history),
            "callbacks": [callback.state_dict() for callback in self.callbacks],
            "random": random_state(self.device),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; the weights are loaded by the caller."""
        self.step, self.stop = state["step"], state["stop"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load(state["average"])
        vars(self.history).update(state["history"])
        for callback, kept in zip(self.callbacks, state["callbacks"], strict=True):
            callback.load_state_dict(kept)
        if isinstance(self.batches, Batches):
            self.batches.seek(state["position"])
            self.drawn = state["drawn"]
        while self.drawn < state["drawn"]:  # other batches have to be drawn again
            self.draw()
        set_random_state(state["random"], self.device)  # last: all before it may have drawn


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of the random number generators of Python, NumPy and torch."""
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
    """Put the generators back into the states that `random_state` gave."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states["device"])
