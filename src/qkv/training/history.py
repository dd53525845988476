"""What happened in a training run, and the watch over its numbers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qkv.errors import TrainingError

# Copying the weights costs about as much as one optimizer step.
SNAPSHOT_EVERY = 50


@dataclass
class History:
    """What happened in a training run, ready to plot.

    Args:
        steps: numbers of the steps, from 1.
        losses: mean loss of a target at each step.
        learning_rates: of the optimizer's first group, at each step.
        evaluations: (step, what `evaluate` said after it).
        targets: trained on: tokens, or texts where each has one class.
        seconds: spent on training, without evaluations.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    targets: int = 0
    seconds: float = 0.0

    @property
    def targets_per_second(self) -> float:
        """Targets trained on in a second, evaluations not counted."""
        return self.targets / self.seconds


class Watch:
    """Keeps the history, and the weights that were last found good.

    The host has to wait for an accelerator to read a loss: it looks every so many steps.
    """

    def __init__(self, model: nn.Module, history: History, every: int):
        self.model = model
        self.history = history
        self.every = every
        self.pending: list[Tensor] = []  # loss, gradient norm, loss, ... that are not read yet
        self.good: tuple[int, dict[str, Tensor]] | None = None
        self.started = time.perf_counter() - history.seconds

    def add(self, loss: Tensor, norm: Tensor, rate: float, n_targets: int) -> None:
        """Take in the numbers of one more step, before its update."""
        history = self.history
        history.steps.append(len(history.steps) + 1)
        self.pending += loss.float(), norm.float()
        history.learning_rates.append(rate)
        history.targets += n_targets

    def check(self) -> None:
        """Read what is pending in one transfer; keep good weights, or put the last ones back."""
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
            self.good = done, {k: v.clone() for k, v in self.model.state_dict().items()}

    def _stop(self, step: int, loss: float, norm: float) -> None:
        if self.good is not None:
            self.model.load_state_dict(self.good[1])
        kept = self.good[0] if self.good else 0
        rate = self.history.learning_rates[step - 1]
        raise TrainingError(
            f"the loss was {loss:.4g} and the norm of the gradient {norm:.4g} at step {step}, "
            f"expected finite numbers; the model holds its weights of step {kept}, the last that "
            f"were found good. Either the learning rate ({rate:.3g}) is too high, or the batch "
            "holds values that are not finite, or no targets"
        )

    def evaluate(
        self, step: int, evaluate: Callable[[nn.Module], dict[str, float]]
    ) -> dict[str, float]:
        """Ask `evaluate`, and do not count its time as training."""
        before = time.perf_counter()
        self.model.eval()
        with torch.no_grad():
            scores = evaluate(self.model)
        self.history.evaluations.append((step, scores))
        self.model.train()
        self.started += time.perf_counter() - before
        return scores
