"""Early stopping and the best weights of a run."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qkv.errors import ConfigError, TrainingError
from qkv.training.run import Callback, Run
from qkv.training.sharding import copied


class KeepBest(Callback):
    """Keep the weights with the best score, and restore them at the end.

    With `patience` this is early stopping (Prechelt 1998). The copy is in main memory and contains
    what training changes: the parameters of the optimizer, and buffers. On equal scores the weights
    with the lower "loss" are kept, if `evaluate` returns one; this does not reset the patience.

    Args:
        metric: one of the scores that `evaluate` returns.
        mode: whether the best score is the highest ("max") or the lowest ("min").
        patience: stop after this many evaluations without a better score; None never stops.

    Raises:
        ConfigError: an unknown mode or a patience below 1; during the run, if `evaluate` does not
            return the metric; at its end, if nothing was evaluated.
        TrainingError: the metric is NaN.
    """

    def __init__(self, metric: str, *, mode: Literal["max", "min"], patience: int | None = None):
        if mode not in ("max", "min"):
            raise ConfigError(f"mode = {mode!r}; expected 'max' (accuracy) or 'min' (loss)")
        if patience is not None and patience < 1:
            raise ConfigError(f"patience = {patience} evaluations; expected at least 1, or None")
        self.metric, self.mode, self.patience = metric, mode, patience
        self._forget()

    def _forget(self) -> None:
        self.score: float | None = None  # the best
        self.loss = math.inf  # the lowest among evaluations with this score
        self.step = 0
        self.waited = 0  # evaluations since a better score
        self.weights: dict[str, Tensor] = {}

    def begin(self, run: Run) -> None:
        """Forget an earlier run, unless this one resumes it."""
        if run.step == 0:
            self._forget()

    def evaluated(self, run: Run, scores: dict[str, float]) -> None:
        """Keep the weights if they are the best so far."""
        score = self._read(run, scores)
        better = self.score is None or (score - self.score) * (1 if self.mode == "max" else -1) > 0
        loss = float(scores.get("loss", math.inf))
        if better or (score == self.score and loss < self.loss):
            self.score, self.loss, self.step = score, loss, run.step
            self.weights = {}  # first: two copies at a time would be the peak of a run's memory
            self.weights = {name: copied(tensor) for name, tensor in _changing(run)}
        self.waited = 0 if better else self.waited + 1
        if self.waited == self.patience and run.step < run.steps:
            run.stop = (
                f"{self.metric} was {self.score:.4g} at best, and no better in the last "
                f"{self.patience} evaluations"
            )

    @torch.no_grad()
    def end(self, run: Run) -> None:
        """Restore the best weights."""
        if self.score is None and run.step == run.steps:
            raise ConfigError(
                f"nothing was evaluated in {run.steps} steps, so there are no best weights by "
                f"{self.metric!r}; the model holds those of the last step. Pass evaluate to train"
            )
        for name, tensor in _changing(run):
            if name in self.weights:
                tensor.copy_(self.weights[name])

    def state_dict(self) -> dict[str, Any]:
        """Return the best score and weights, and the evaluations since."""
        names = ("score", "loss", "step", "waited", "weights")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        vars(self).update(state)

    def _read(self, run: Run, scores: dict[str, float]) -> float:
        if self.metric not in scores:
            raise ConfigError(
                f"no {self.metric!r} among the scores; evaluate returned {', '.join(scores)}"
            )
        score = float(scores[self.metric])
        if score != score:
            raise TrainingError(
                f"{self.metric} is {score} after step {run.step}; expected a number, "
                "because NaN cannot be compared (did the evaluation get no data?)"
            )
        return score


def _changing(run: Run) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes: the parameters of the optimizer, and buffers."""
    held = {p for group in run.optimizer.param_groups for p in group["params"]}
    model: nn.Module = run.model
    yield from ((name, p) for name, p in model.named_parameters() if p in held)
    yield from model.named_buffers()
