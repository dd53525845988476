"""The history of a training run, and the checks of its losses."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qkv.errors import TrainingError
from qkv.training import ranks

# Copying the weights costs about as much as one optimizer step.
SNAPSHOT_EVERY = 50


@dataclass
class History:
    """The losses, learning rates and scores of a training run, ready to plot.

    Args:
        steps: step numbers, from 1.
        losses: mean loss per target, of each step.
        learning_rates: learning rate of the optimizer's first group, of each step.
        evaluations: (step, scores that `evaluate` returned after it).
        targets: number of targets trained on: tokens, or examples with one class each.
        seconds: training time without evaluations.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    targets: int = 0
    seconds: float = 0.0

    @property
    def targets_per_second(self) -> float:
        """Training speed, evaluations not counted."""
        return self.targets / self.seconds


class Watch:
    """Record the history and keep a copy of the last good weights.

    Reading a loss makes the host wait for an accelerator, so losses are read every `every` steps.
    """

    def __init__(self, model: nn.Module, history: History, every: int):
        self.model = model
        self.history = history
        self.every = every
        self.pending: list[Tensor] = []  # loss, gradient norm, loss, ... not read yet
        self.good: tuple[int, dict[str, Tensor]] | None = None
        self.started = time.perf_counter() - history.seconds

    def add(self, loss: Tensor, norm: Tensor, rate: float, n_targets: int) -> None:
        """Record the numbers of a step, before its update."""
        history = self.history
        history.steps.append(len(history.steps) + 1)
        self.pending += loss.float(), norm.float()
        history.learning_rates.append(rate)
        history.targets += n_targets

    def check(self) -> None:
        """Read the pending losses in one transfer; keep a copy of good weights.

        Raises:
            TrainingError: one is not finite; the last good weights are restored.
        """
        history = self.history
        if not self.pending:
            return
        for loss, norm in torch.stack(self.pending).view(-1, 2).tolist():
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._stop(history.steps[len(history.losses)], loss, norm)
            history.losses.append(loss)
        self.pending.clear()
        history.seconds = time.perf_counter() - self.started
        done = history.steps[-1] - 1
        if self.good is None or done - self.good[0] >= SNAPSHOT_EVERY:
            self.good = None  # first: two copies at a time would be the peak of a run's memory
            self.good = done, {k: v.clone() for k, v in self.model.state_dict().items()}

    def _stop(self, step: int, loss: float, norm: float) -> None:
        if self.good is not None:
            self.model.load_state_dict(self.good[1])
        kept = self.good[0] if self.good else 0
        rate = self.history.learning_rates[step - 1]
        raise TrainingError(
            f"the loss was {loss:.4g} and the norm of the gradient {norm:.4g} at step {step}, "
            f"expected finite numbers; the model holds its weights of step {kept}, the "
            f"last good ones. Either the learning rate ({rate:.3g}) is too high, or the batch "
            "holds values that are not finite, or no targets"
        )

    def evaluate(
        self, step: int, evaluate: Callable[[nn.Module], dict[str, float]]
    ) -> dict[str, float]:
        """Return the scores of the model; their time does not count as training."""
        before = time.perf_counter()
        self.model.eval()
        with torch.no_grad():
            scores = ranks.of_first(evaluate(self.model))  # the same decisions on all ranks
        self.history.evaluations.append((step, scores))
        self.model.train()
        self.started += time.perf_counter() - before
        return scores
