"""The training loop: one function over (model, batches, loss), the same for every model."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from qkv.errors import ConfigError, MissingDependencyError, TrainingError
from qkv.training.averaging import MovingAverage
from qkv.training.history import History, Watch
from qkv.training.optim import Schedule, adamw, constant_rate
from qkv.training.progress import Bar
from qkv.training.run import Callback, Run

Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[[Model, Any], Tensor]
Precision = Literal["float32", "bfloat16", "float16"]


def train(
    model: Model,
    batches: Iterable[Any],
    loss: Loss[Model],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    schedule: Schedule | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    clip: float = 1.0,
    accumulate: int = 1,
    precision: Precision = "float32",
    ema: float | None = None,
    compile: bool = False,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    evaluate_every: int | None = None,
    callbacks: Sequence[Callback] = (),
    device: str = "auto",
    progress: bool = True,
    description: str = "training",
    unit: str = "tokens",
) -> History:
    """Minimize the mean loss of a target for a number of steps; the model is left ready for use.

    Ready for use means in evaluation mode, on the device of the training.

    Args:
        model: trained in place.
        batches: anything that gives batches with `.to(device)` and `.n_targets` (tokens, or rows
            that have one class each), endless or long enough.
        loss: (model, batch) to the sum of the losses of its targets.
        steps: updates of the weights.
        learning_rate: of the AdamW that is made if no `optimizer` is given.
        schedule: step, from 1, to a factor of each group's rate; constant by default.
        optimizer: over the model's parameters.
        clip: largest norm of the gradient; `math.inf` never clips.
        accumulate: batches whose gradients make one update, as one batch of all would.
        precision: of the activations; weights, losses and updates stay in float32.
        ema: decay of a moving average of the weights: it is evaluated, and left in the model.
        compile: let torch compile the loss's computation.
        evaluate: called without gradients in evaluation mode every `evaluate_every` steps and at
            the end.
        evaluate_every: steps; by default only the end.
        callbacks: what happens beside it, in this order: checkpoints, curves, early stopping...
        device: "auto" (an accelerator if there is one), "cpu", "cuda" or "mps".
        progress: show a bar, if the output is a terminal.
        description: stands before the bar.
        unit: of a target.

    Raises:
        TrainingError: a loss or gradient is not finite (the model then holds its last good
            weights), the batches end too early, or one does not fit the memory.
        ConfigError: the device is not there, or a number is out of its range.
        MissingDependencyError: accelerate is not installed.
    """
    accelerator = _accelerator(device)
    progress = progress and accelerator.is_main_process
    model.to(accelerator.device)
    run = Run(
        model,
        optimizer or adamw(model, learning_rate=learning_rate),
        batches,
        steps=steps,
        device=accelerator.device,
        callbacks=[
            *callbacks,
            Bar(description, unit, wanted=progress and accelerator.is_main_process),
        ],
        scaler=torch.amp.GradScaler(accelerator.device.type, enabled=precision == "float16"),
        average=MovingAverage(model, ema) if ema is not None else None,
    )
    # Not the optimizer: in 32 bits its wrapper only searches the path for a package at each step.
    objective = accelerator.prepare(_Objective(model, loss, accelerator.device, precision))
    if compile:
        objective.compile()
    schedule = schedule or constant_rate()
    with _training(run):
        watch = Watch(model, run.history, check_interval(accelerator.device))
        while run.step < steps and run.stop is None:
            for callback in run.callbacks:
                callback.before_step(run)
            factor = schedule(run.step + 1)
            for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
                group["lr"] = rate * factor
            total, n_targets = _gradients(run, objective, accelerator, accumulate)
            norm = _clip(run, clip)
            watch.add(total / n_targets, norm, run.rates[0] * factor, n_targets)
            due = run.step + 1 == steps or (evaluate_every and (run.step + 1) % evaluate_every == 0)
            # Looked at before the update: what is found finite here was made by good weights.
            if due or (run.step + 1) % watch.every == 0 or run.step == 0:
                watch.check()
            run.scaler.step(run.optimizer)
            run.scaler.update()
            run.step += 1
            if run.average is not None:
                run.average.update(run.step)
            if evaluate and due:
                _evaluate(run, watch, evaluate)
            for callback in run.callbacks:
                callback.after_step(run)
        if run.average is not None:
            run.average.apply()
    return run.history


def check_interval(device: torch.device) -> int:
    """Steps between two looks at the losses, for which the host has to wait for an accelerator."""
    return 1 if device.type == "cpu" else 50


class _Objective(nn.Module, Generic[Model]):
    """The loss as a module: what wraps a model for many devices acts on calls of a module only."""

    def __init__(self, model: Model, loss: Loss[Model], device: torch.device, precision: Precision):
        super().__init__()
        self.model = model
        self.loss = loss
        self.device, self.dtype = device.type, getattr(torch, precision)

    def forward(self, batch: Any) -> Tensor:
        with torch.autocast(self.device, self.dtype, enabled=self.dtype != torch.float32):
            return self.loss(self.model, batch)


def _gradients(
    run: Run, objective: nn.Module, accelerator: Any, accumulate: int
) -> tuple[Tensor, int]:
    """The gradients of the mean over all targets of a step, on all ranks; the sum, the number."""
    batches = [run.draw() for _ in range(accumulate)]
    n_targets = sum(batch.n_targets for batch in batches)
    if n_targets < 1:
        raise TrainingError(
            f"the batches of step {run.step + 1} have no targets: there is nothing to learn from "
            "them (are the texts empty, or is all of them padding?)"
        )
    if accelerator.num_processes > 1:
        n_targets = int(accelerator.reduce(torch.tensor(n_targets, device=run.device)))
    run.optimizer.zero_grad()
    total = torch.zeros((), device=run.device)
    for i, batch in enumerate(batches, start=1):
        # Ranks meet once a step, at the last batch; they average, where we need their sum.
        with nullcontext() if i == accumulate else accelerator.no_sync(objective):
            try:
                loss = objective(batch)
                run.scaler.scale(loss * (accelerator.num_processes / n_targets)).backward()
            except (MemoryError, RuntimeError) as error:
                _explain_memory(error, batch, accumulate)
                raise
        total += loss.detach()
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total)
    return total, n_targets


def _explain_memory(error: Exception, batch: Any, accumulate: int) -> None:
    """Say what to lower where a batch did not fit."""
    full = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if full or "allocate memory" in str(error) or "not enough memory" in str(error):
        shapes = [tuple(x.shape) for x in vars(batch).values() if isinstance(x, Tensor)]
        raise TrainingError(
            f"a batch of the shapes {', '.join(map(str, shapes))} did not fit the memory. Lower "
            f"the size of a batch and raise accumulate (now {accumulate}) as much, for the same "
            "updates; recompute activations; or train fewer layers"
        ) from error


def _clip(run: Run, largest: float) -> Tensor:
    """Clip the gradient; float16 may overflow at times, then the scaler leaves the update out."""
    run.scaler.unscale_(run.optimizer)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, largest)
    return norm.nan_to_num(0.0, 0.0) if run.scaler.is_enabled() else norm


def _evaluate(run: Run, watch: Watch, evaluate: Callable[[nn.Module], dict[str, float]]) -> None:
    with run.average.applied() if run.average is not None else nullcontext():
        scores = watch.evaluate(run.step, evaluate)
        for callback in run.callbacks:
            callback.evaluated(run, scores)


@contextmanager
def _training(run: Run) -> Iterator[None]:
    """Training mode, and all callbacks from their beginning to their end."""
    run.model.train()
    try:
        for callback in run.callbacks:
            callback.begin(run)
        yield
        run.model.eval()
        for callback in run.callbacks:
            callback.end(run)
    finally:
        run.model.eval()
        for callback in run.callbacks:
            callback.close()


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
