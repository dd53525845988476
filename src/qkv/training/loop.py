"""The training loop: one function over (model, batches, loss), the same for every model."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, distributed, nn

from qkv.blocks.stack import Stack
from qkv.errors import ConfigError, MissingDependencyError, TrainingError
from qkv.inference.optimize import is_optimized
from qkv.training import ranks
from qkv.training.averaging import MovingAverage
from qkv.training.history import History, Watch
from qkv.training.progress import Bar
from qkv.training.run import Callback, Run
from qkv.training.settings import Precision, Training
from qkv.training.sharding import gathered, shard, whole

Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[[Model, Any], Tensor]


def train(
    model: Model,
    batches: Iterable[Any],
    loss: Loss[Model],
    settings: Training,
    *,
    optimizer: torch.optim.Optimizer | Callable[[nn.Module], torch.optim.Optimizer] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    callbacks: Sequence[Callback] = (),
    device: str = "auto",
) -> History:
    """Minimize the mean loss per target; return the history.

    The model is trained in place, and left in evaluation mode on the training device.

        train(model, batches, pair_loss, Training(steps=300))

    Args:
        model: a model in float32; other precisions apply to activations only.
        batches: an endless or sufficiently long iterable; batches have `.to(device)` and
            `.n_targets` (tokens, or examples with one class each), and for several processes
            `.n_rows` and `.take(rows)`.
        loss: function of (model, batch) that returns the sum of the losses of the batch's targets.
        settings: number of steps, learning rate, precision, and so on.
        optimizer: an optimizer of the model's parameters, or a function that creates one from the
            model; default `settings.make_optimizer`. Sharding replaces the parameters, so it needs
            a function.
        evaluate: returns scores; called without gradients and in evaluation mode.
        callbacks: called in this order; a progress `Bar` is added unless there is one.
        device: "auto" (an accelerator if there is one), "cpu", "cuda" or "mps".

    Raises:
        TrainingError: a loss or gradient is not finite (the model then holds its last good
            weights), the batches end too early, or a batch does not fit into memory.
        ConfigError: the device does not exist, the settings do not suit the batches, or the model
            is optimized for inference.
        MissingDependencyError: accelerate is not installed.
    """
    if is_optimized(model):
        raise ConfigError(
            f"this {type(model).__name__} is optimized for inference; expected the model that it "
            "was made of: packed weights cannot be trained"
        )
    accelerator = connect(device)
    device_type = accelerator.device.type
    model.to(accelerator.device)
    if ranks.n_ranks() > 1:  # the ranks drop different activations
        torch.manual_seed(torch.initial_seed() + ranks.rank())
    if settings.recompute:
        recompute_activations(model)
    objective: Any = _Objective(model, loss, device_type, settings.precision)
    sharded = settings.sharding == "fsdp2" and ranks.n_ranks() > 1
    if sharded:
        shard(objective, accelerator.device)
    optimizer = optimizer or settings.make_optimizer
    if sharded and isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"training.sharding = fsdp2 with a finished {type(optimizer).__name__}; expected a "
            "function that makes it, such as settings.make_optimizer: sharding replaces the "
            "parameters that this one holds"
        )
    run = Run(
        model,
        optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer(model),
        batches,
        steps=settings.n_steps(batches),
        device=accelerator.device,
        callbacks=[*callbacks, *([] if any(isinstance(c, Bar) for c in callbacks) else [Bar()])],
        scaler=torch.amp.GradScaler(device_type, enabled=settings.precision == "float16"),
        average=None if settings.ema is None else MovingAverage(model, settings.ema),
    )
    if not sharded:
        # Not the optimizer: in 32 bits its wrapper only searches the path for a package each step.
        objective = accelerator.prepare(objective)
    if settings.compile:
        objective.compile()
    with _training(run):
        run_steps(run, objective, settings, accelerator, evaluate)
        if run.average is not None:
            run.average.apply()
    return run.history


def run_steps(
    run: Run,
    objective: nn.Module,
    settings: Training,
    accelerator: Any,
    evaluate: Callable[[nn.Module], dict[str, float]] | None,
) -> None:
    """Run the remaining steps; everything happens in the order in which it is written here."""
    schedule = settings.schedule_for(run.steps, _d_model(run.model))
    every = settings.evaluation_interval(run.batches, run.steps)
    watch = Watch(run.model, run.history, check_interval(run.device))
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    while run.step < run.steps and run.stop is None:
        step = run.step + 1
        for callback in run.callbacks:
            callback.before_step(run)

        factor = schedule(step)
        for group, rate in zip(run.optimizer.param_groups, run.rates, strict=True):
            group["lr"] = rate * factor

        total, n_targets = _backward(run, objective, accelerator, settings.accumulate)
        run.scaler.unscale_(run.optimizer)
        norm = whole(nn.utils.clip_grad_norm_(parameters, settings.clip))
        if run.scaler.is_enabled():  # float16 may overflow at times: the scaler skips that update
            norm = norm.nan_to_num(0.0, 0.0)

        # Checked before the update: finite numbers here were computed by good weights.
        watch.add(total / n_targets, norm, run.rates[0] * factor, n_targets)
        due = step == run.steps or step % every == 0
        if due or step % watch.every == 0 or step == 1:
            watch.check()

        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.step = step
        if run.average is not None:
            run.average.update(step)

        if evaluate and due:
            with run.average.applied() if run.average is not None else nullcontext():
                with gathered(objective):
                    scores = watch.evaluate(step, evaluate)
                for callback in run.callbacks:
                    callback.evaluated(run, scores)
        for callback in run.callbacks:
            callback.after_step(run)


def _backward(
    run: Run, objective: nn.Module, accelerator: Any, accumulate: int
) -> tuple[Tensor, int]:
    """Accumulate the gradients of the mean over all targets; return their summed loss and number.

    Both are totals over all ranks.
    """
    shares = [run.draw() for _ in range(accumulate)]
    n_targets = sum(share.batch.n_targets for share in shares if share.counts)
    if accelerator.num_processes > 1:
        n_targets = int(accelerator.reduce(torch.tensor(n_targets, device=run.device)))
    if n_targets < 1:
        raise TrainingError(
            f"the batches of step {run.step + 1} have no targets: there is nothing to learn from "
            "them (are the texts empty, or all of them padding?)"
        )
    run.optimizer.zero_grad()
    total = torch.zeros((), device=run.device)
    for i, (batch, counts) in enumerate(shares, start=1):
        # Ranks synchronize once per step, at the last batch; they average, but we need the sum.
        with nullcontext() if i == accumulate else accelerator.no_sync(objective):
            try:
                loss = objective(batch) * counts
                run.scaler.scale(loss * (accelerator.num_processes / n_targets)).backward()
            except (MemoryError, RuntimeError) as error:
                _explain_memory(error, batch, accumulate)
                raise
        total += loss.detach()
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total)
    return total, n_targets


def _explain_memory(error: Exception, batch: Any, accumulate: int) -> None:
    """Raise TrainingError with advice if a batch does not fit into memory."""
    full = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if full or "allocate memory" in str(error) or "not enough memory" in str(error):
        shapes = [tuple(x.shape) for x in vars(batch).values() if isinstance(x, Tensor)]
        raise TrainingError(
            f"a batch of the shapes {', '.join(map(str, shapes))} did not fit into memory. Lower "
            f"the size of a batch and raise accumulate (now {accumulate}) as much, for the same "
            "updates; recompute activations; or train fewer layers"
        ) from error


def check_interval(device: torch.device) -> int:
    """Return the steps between reads of the losses, which make the host wait for an accelerator."""
    return 1 if device.type == "cpu" else 50


class _Objective(nn.Module, Generic[Model]):
    """The loss as a module: wrappers for many devices act only on calls of a module."""

    def __init__(self, model: Model, loss: Loss[Model], device_type: str, precision: Precision):
        super().__init__()
        self.model = model
        self.loss = loss
        self.device_type, self.dtype = device_type, getattr(torch, precision)

    def forward(self, batch: Any) -> Tensor:
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype != torch.float32):
            return self.loss(self.model, batch)


def recompute_activations(model: nn.Module) -> None:
    """Keep only the input of each block, and compute the rest again in the backward pass.

    Chen et al. 2016, "Training deep nets with sublinear memory cost".
    """
    for module in model.modules():
        if isinstance(module, Stack):
            module.recompute = True


def _d_model(model: nn.Module) -> int | None:
    return getattr(getattr(model, "config", None), "d_model", None)


@contextmanager
def _training(run: Run) -> Iterator[None]:
    """Set training mode, and begin, end and close all callbacks."""
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


@contextmanager
def connected(device: str) -> Iterator[None]:
    """Connect the ranks that torchrun has started, if any, while they train.

    Raises:
        ConfigError: the device does not exist, or the other ranks cannot be reached.
        MissingDependencyError: accelerate is not installed.
    """
    if ranks.n_ranks() == 1:
        yield
        return
    connect(device)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def connect(device: str) -> Any:
    """Return Accelerate's view of the device, connected to the other ranks if there are any.

    Raises:
        ConfigError: the device does not exist, or the other ranks cannot be reached.
        MissingDependencyError: accelerate is not installed.
    """
    try:
        with warnings.catch_warnings():
            # In a notebook, its progress bars need widgets; ours are shown instead.
            warnings.filterwarnings("ignore", message="IProgress not found")
            from accelerate import Accelerator
            from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingDependencyError(
            'training needs accelerate, which is not installed: pip install "qkv[train]"'
        ) from error
    # One state serves the whole process: without this, a second run would keep the first's device.
    AcceleratorState._reset_state(reset_partial_state=True)
    if not ranks.connected():
        ranks.reach_first()
    # Without an accelerator, and unless told so, it would leave the processes unconnected.
    cpu = device == "cpu" or (device == "auto" and not torch.accelerator.is_available())
    try:
        accelerator = Accelerator(cpu=cpu)
    except (RuntimeError, ValueError) as error:
        if ranks.n_ranks() == 1:
            raise
        raise ConfigError(
            f"process {ranks.rank()} of {ranks.n_ranks()} cannot reach the others: {error}; "
            "expected all of them to be started by torchrun, with the same address"
        ) from error
    if accelerator.num_processes != ranks.n_ranks():
        raise ConfigError(
            f"the environment has WORLD_SIZE={ranks.n_ranks()}, but Accelerate sees "
            f"{accelerator.num_processes} process; expected LOCAL_RANK, as torchrun sets it, and "
            f"a device that connects processes, not {accelerator.device.type}"
        )
    if device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f'device is "{device}", but the accelerator here is "{accelerator.device.type}"; '
            'use "auto", or a build of PyTorch for that device'
        )
    return accelerator
