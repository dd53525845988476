"""The training loop: one function over (model, batches, loss), the same for every model."""

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from qkv.errors import ConfigError, MissingDependencyError, TrainingError
from qkv.training.optim import Schedule, adamw, constant

Loss = Callable[[nn.Module, Any], tuple[Tensor, int]]

# Copying the weights costs about as much as one optimizer step.
SNAPSHOT_EVERY = 50


@dataclass
class History:
    """What happened in a training run, ready to plot.

    Args:
        steps: numbers of the steps, from 1.
        losses: mean loss of a target token at each step.
        learning_rates: of the optimizer's first group, at each step.
        evaluations: (step, what `evaluate` said after it).
        tokens: target tokens seen.
        seconds: spent on training, without evaluations.
    """

    steps: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    learning_rates: list[float] = field(default_factory=list)
    evaluations: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Target tokens trained on in a second, evaluations not counted."""
        return self.tokens / self.seconds


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    schedule: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    clip: float = 1.0,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    device: str = "auto",
    progress: bool = True,
    description: str = "training",
) -> History:
    """Minimize the mean loss of a token for a number of steps; the model is left ready for use.

    Ready for use means in evaluation mode, on the device of the training.

    Args:
        model: trained in place.
        batches: anything that gives batches with `.to(device)`, endless or long enough.
        loss: (model, batch) to (sum of the losses of the tokens, number of tokens).
        steps: updates of the weights, one a batch.
        learning_rate: of the AdamW that is made if no `optimizer` is given.
        schedule: step, from 1, to a factor of each group's rate; constant by default.
        optimizer: over the model's parameters.
        clip: largest norm of the gradient; `math.inf` never clips.
        evaluate: called without gradients in evaluation mode every `evaluate_every` steps and at
            the end.
        evaluate_every: steps; by default only the end.
        device: "auto" (an accelerator if there is one), "cpu", "cuda" or "mps".
        progress: show a bar, if the output is a terminal.
        description: stands before the bar.

    Raises:
        TrainingError: a loss or gradient is not finite (the model then holds its last good
            weights), or the batches end too early.
        ConfigError: the device is not there.
        MissingDependencyError: accelerate is not installed.
    """
    accelerator = _accelerator(device)
    model.to(accelerator.device)
    optimizer = optimizer or adamw(model, learning_rate=learning_rate)
    # Not the optimizer: in 32 bits its wrapper only searches the path for a package at each step.
    objective = accelerator.prepare(_Objective(model, loss))
    schedule = schedule or constant()
    rates = [group["lr"] for group in optimizer.param_groups]
    log = _Log(model, check_interval(accelerator.device))
    progress = progress and accelerator.is_main_process
    with _training(model), _Bar(description, steps, progress) as bar:
        for step, batch in _numbered(batches, steps):
            factor = schedule(step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            total, n_tokens = objective(batch.to(accelerator.device))
            optimizer.zero_grad()
            accelerator.backward(total / n_tokens)
            norm = accelerator.clip_grad_norm_(model.parameters(), clip)
            log.add(step, total.detach() / n_tokens, norm, rates[0] * factor, n_tokens)
            # Looked at before the update: what is found finite here was made by good weights.
            if step % log.every == 0 or step in (1, steps):
                log.check()
                bar.update(log.history)
            optimizer.step()
            if evaluate and (step == steps or (evaluate_every and step % evaluate_every == 0)):
                log.evaluate(step, evaluate)
    return log.history


def check_interval(device: torch.device) -> int:
    """Steps between two looks at the losses, for which the host has to wait for an accelerator."""
    return 1 if device.type == "cpu" else 50


class _Objective(nn.Module):
    """The loss as a module: what wraps a model for many devices acts on calls of a module only."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, batch: Any) -> tuple[Tensor, int]:
        return self.loss(self.model, batch)


class _Log:
    """The history, and the weights that it last found good."""

    def __init__(self, model: nn.Module, every: int):
        self.model = model
        self.every = every
        self.history = History()
        self.pending: list[Tensor] = []  # loss, gradient norm, loss, ... that are not read yet
        self.good: tuple[int, dict[str, Tensor]] | None = None
        self.started = time.perf_counter()

    def add(self, step: int, loss: Tensor, norm: Tensor, rate: float, n_tokens: int) -> None:
        self.pending += loss.float(), norm.float()
        self.history.steps.append(step)
        self.history.learning_rates.append(rate)
        self.history.tokens += n_tokens

    def check(self) -> None:
        """Read what is pending in one transfer; keep good weights, or put the last ones back."""
        history = self.history
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
            "holds values that are not finite, or no tokens"
        )

    def evaluate(self, step: int, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
        """Ask `evaluate`, and do not count its time as training."""
        before = time.perf_counter()
        self.model.eval()
        with torch.no_grad():
            self.history.evaluations.append((step, evaluate(self.model)))
        self.model.train()
        self.started += time.perf_counter() - before


class _Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self, description: str, steps: int, wanted: bool):
        console = Console()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (wanted and console.is_terminal),
        )
        self.task = self.progress.add_task(description, total=steps, numbers="")

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self, history: History) -> None:
        if not self.progress.disable:
            numbers = f"loss {history.losses[-1]:.4f}, {history.tokens_per_second:,.0f} tokens/s"
            self.progress.update(self.task, completed=history.steps[-1], numbers=numbers)


@contextmanager
def _training(model: nn.Module) -> Iterator[None]:
    model.train()
    try:
        yield
    finally:
        model.eval()


def _numbered(batches: Iterable[Any], steps: int) -> Iterator[tuple[int, Any]]:
    iterator = iter(batches)
    for step in range(1, steps + 1):
        try:
            yield step, next(iterator)
        except StopIteration:
            raise TrainingError(
                f"the batches ended after {step - 1} of {steps} steps; pass an iterator that does "
                "not end, such as one over many epochs"
            ) from None


def _accelerator(device: str) -> Any:
    try:
        with warnings.catch_warnings():
            # In a notebook its progress bars ask for widgets; ours are the ones that show.
            warnings.filterwarnings("ignore", message="IProgress not found")
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingDependencyError(
            'training needs accelerate, which is not installed: pip install "qkv[train]"'
        ) from error
    # One state serves the whole process: without this, a second run would keep the first's device.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device == "cpu")
    if device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f'device is "{device}", but the accelerator found here is "{accelerator.device.type}"; '
            'use "auto", or a build of PyTorch for that device'
        )
    return accelerator
