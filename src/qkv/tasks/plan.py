"""`qkv plan`: what a recipe needs on these machines, or on others, before anything is trained."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from qkv.checkpoints.building import count_classes
from qkv.checkpoints.registry import family_of
from qkv.errors import ConfigError
from qkv.models.heads import ModelWithHead
from qkv.models.inspection import Rows, cached_per_token, size
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.means import DAY, Means, machine_memory, measured_flops, read_size
from qkv.tasks.outputs import dumps
from qkv.tasks.overview import show_tables
from qkv.tasks.pretrained import Loaded
from qkv.tasks.task import Task
from qkv.tasks.train import Recipe, TrainingBatches, count
from qkv.training.planning import PlannedMemory, flops_per_token, plan_memory, step_memory
from qkv.training.scaling import LAYERS, Scaled, scaled_model
from qkv.training.settings import Training

SIZES = ("d_model", "n_heads", "n_kv_heads", "d_ff", *LAYERS)
LOOKED_AT = 300  # batches, the largest of which is planned with


@dataclass(frozen=True)
class Change:
    """A change to a recipe, and the memory of one process after it and all earlier changes."""

    change: str
    total: int
    fits: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The requirements of a training run; sizes are in bytes per process.

    Args:
        model: class, parameters, and sizes.
        batch: examples, tokens per example, and batches per step.
        machine: processes, their memory, and their speed.
        memory: memory by sharding and precision.
        changes: changes that make the recipe fit, in order; empty if it already fits.
        cache: key-value cache of one sequence during decoding; empty if the model has none.
        time: operations and steps.
    """

    model: dict[str, Any]
    batch: dict[str, int]
    machine: dict[str, Any]
    memory: dict[tuple[str, str], PlannedMemory]
    changes: list[Change] = field(default_factory=list[Change])
    cache: dict[str, int] = field(default_factory=dict[str, int])
    time: dict[str, float]


def plan(task: Task[Any, Any], recipe: Recipe[Any], means: Means) -> None:
    """Print the requirements of a recipe.

    Raises:
        ConfigError: fields that do not fit each other, or a model that cannot be planned.
        DataError: examples cannot be read.
    """
    made = make_plan(task, recipe, means)
    if means.json:
        memory = [
            {"sharding": sharding, "precision": precision, **asdict(one), "total": one.total}
            for (sharding, precision), one in made.memory.items()
        ]
        print(dumps({**asdict(replace(made, memory={})), "memory": memory}))
        return
    show_tables(tables(made, recipe), False)
    print(verdict(made))


def make_plan(task: Task[Any, Any], recipe: Recipe[Any], means: Means) -> Plan:
    """Plan a recipe; see `plan` for the errors."""
    recipe.check()
    torch.manual_seed(recipe.training.seed)
    splits = recipe.read(task)
    pipeline = recipe.build(splits)
    prepared = recipe.batches(pipeline, splits)
    scaled = _scaled(pipeline.loaded, means.parameters)
    model, steps = scaled.model, recipe.training.n_steps(prepared.batches)
    n_processes = means.gpus or max(1, torch.cuda.device_count())
    room = machine_memory() if means.memory is None else read_size(means.memory)
    planned = _Planned(recipe, model, largest_batch(prepared), n_processes)
    settings, length = recipe.training, prepared.length
    rows = min(settings.rows(length), prepared.rows or len(splits.train))
    if n_processes > rows:
        raise ConfigError(
            f"{n_processes:,} processes share a batch of {rows:,} examples; expected at most as "
            "many, or a larger batch (--training.batch_size or --training.max_tokens)"
        )
    n_tokens = rows * length * settings.accumulate
    trained = planned.trained(recipe)
    per_step = n_tokens * flops_per_token(trained, length, recompute=settings.recompute)
    flops = means.flops or measured_flops()
    a_second = flops * means.utilization * n_processes
    memory = planned.by_sharding_and_precision()
    own = memory[settings.sharding if n_processes > 1 else "none", settings.precision]
    cache = 4 * length * cached_per_token(model)
    return Plan(
        model={
            "class": type(model).__name__,
            "parameters": count(trained),
            "trained": sum(p.numel() for p in trained.parameters() if p.requires_grad),
            "sizes": scaled.sizes,
            "rule": scaled.rule,
        },
        batch={"rows": rows, "length": length, "accumulate": settings.accumulate},
        machine={
            "processes": n_processes,
            "memory": room,
            "flops": flops,
            "measured": means.flops is None,
            "utilization": means.utilization,
        },
        memory=memory,
        changes=[] if own.total <= room else list(planned.changes(room)),
        cache={"tokens": length, "float32": cache, "bfloat16": cache // 2} if cache else {},
        time={
            "flops_per_step": per_step,
            "steps_per_day": a_second * DAY / per_step,
            "steps": steps,
            "days": steps * per_step / a_second / DAY,
        },
    )


def _scaled(loaded: Loaded, n_parameters: float | None) -> Scaled:
    """Return the model of a recipe on the meta device, scaled if a size is given."""
    model, config = loaded.model, getattr(loaded.model, "config", None)
    if n_parameters is None:
        sizes = {name: getattr(config, name) for name in SIZES if getattr(config, name, None)}
        return Scaled(without_numbers(model), sizes, "")
    make: Callable[[Any], nn.Module] = type(model)
    if isinstance(model, ModelWithHead):
        family, n_classes = family_of(loaded.config.get("model_type")), count_classes(loaded.config)
        [build] = [one.build for one in family.architectures if one.model is type(model)][:1]
        make = partial(_with_head, build, n_classes)
    return scaled_model(config, make, int(n_parameters))


def _with_head(build: Callable[[Any, int], nn.Module], n_classes: int, config: Any) -> nn.Module:
    return build(config, n_classes)


def without_numbers(model: nn.Module) -> nn.Module:
    """Copy a model to the meta device; tied parameters stay tied."""
    memo: dict[int, Any] = {}
    for one in [*model.parameters(), *model.buffers()]:
        empty = torch.empty_like(one, device="meta")
        is_parameter = isinstance(one, nn.Parameter)
        memo[id(one)] = nn.Parameter(empty, one.requires_grad) if is_parameter else empty
    return copy.deepcopy(model, memo)


def largest_batch(prepared: TrainingBatches) -> Any:
    """Return the batch with the most elements among the first ones of an epoch."""
    n_batches = min(prepared.batches.n_batches, LOOKED_AT)
    return max(islice(prepared.batches, n_batches), key=_numbers)


def _numbers(batch: Any) -> int:
    return sum(one.numel() for one in vars(batch).values() if isinstance(one, Tensor))


class _Planned:
    """A recipe's model, and the memory of its training with changed settings."""

    def __init__(self, recipe: Recipe[Any], model: nn.Module, batch: Any, n_processes: int):
        self.recipe, self.model, self.batch, self.n = recipe, model, batch, n_processes

    def trained(self, recipe: Recipe[Any]) -> nn.Module:
        """Return the model with its frozen parameters and the layers of adapters."""
        model = copy.deepcopy(self.model)
        recipe.prepare(model, 1)
        return model

    def memory(self, recipe: Recipe[Any], *, share: int = 1, step: Any = None) -> PlannedMemory:
        """Return the memory of one process, with one in `share` rows of the batch."""
        model = self.trained(recipe)
        batch, settings = self.batch.take(slice(0, None, share)), recipe.training
        options: Any = {"n_processes": self.n, "step": step}
        return plan_memory(model, recipe.optimizer(model), batch, recipe.loss, settings, **options)

    def by_sharding_and_precision(self) -> dict[tuple[str, str], PlannedMemory]:
        """Return the memory for each kind of sharding, in float32 and in 16 bits."""
        settings = self.recipe.training
        mixed = "bfloat16" if settings.precision == "float32" else settings.precision
        found: dict[tuple[str, str], PlannedMemory] = {}
        for precision in ("float32", mixed):
            other: Any = replace(settings, precision=precision)
            share = self.batch.take(slice(0, None, self.n))
            step = step_memory(self.trained(self.recipe), share, self.recipe.loss, other)
            for sharding in ("none", "fsdp2") if self.n > 1 else ("none",):
                recipe = replace(self.recipe, training=replace(other, sharding=sharding))
                found[sharding, precision] = self.memory(recipe, step=step)
        return found

    def changes(self, room: int) -> Iterator[Change]:
        """Yield changes, which accumulate, until the recipe fits."""
        recipe, share, fixed = self.recipe, 1, 0
        for name, changed, fewer in self._proposals():
            if fewer > 1 and fixed > room:
                continue  # no batch is small enough
            recipe, share = changed(recipe), share * fewer
            memory = self.memory(recipe, share=share)
            fixed = memory.total - memory.activations
            yield Change(name, memory.total, memory.total <= room)
            if memory.total <= room:
                return

    def _proposals(self) -> Iterator[tuple[str, Callable[[Any], Any], int]]:
        """Yield changes to a recipe, and the factor by which each divides the batch."""
        settings: Training = self.recipe.training
        if self.n > 1 and settings.sharding == "none":
            yield "--training.sharding fsdp2", partial(_with, sharding="fsdp2"), 1
        if not settings.recompute:
            yield "--training.recompute", partial(_with, recompute=True), 1
        share, rows = 1, self.batch.n_rows
        while rows // (2 * share) >= self.n:
            share *= 2
            fewer = partial(_with, accumulate=settings.accumulate * share)
            kind = "batch_size" if settings.batch_size else "max_tokens"
            number = (settings.batch_size or settings.max_tokens or rows) // share
            name = f"--training.{kind} {number} --training.accumulate {settings.accumulate * share}"
            yield name, fewer, 2
        if self.recipe.base is not None and self.recipe.finetuning.train != "lora":
            lora = FineTuning(train="lora")
            yield "--finetuning.train lora", partial(replace, finetuning=lora), 1


def _with(recipe: Recipe[Any], **settings: Any) -> Recipe[Any]:
    return replace(recipe, training=replace(recipe.training, **settings))


def tables(plan: Plan, recipe: Recipe[Any]) -> dict[str, Rows]:
    """Return a plan as tables of text."""
    model, batch, machine = plan.model, plan.batch, plan.machine
    sizes = ", ".join(f"{name} {value:,}" for name, value in model["sizes"].items())
    facts = {
        "model": f"{model['class']}, {model['parameters']:,} parameters, "
        f"{model['trained']:,} train",
        "sizes": sizes + (f" ({model['rule']})" if model["rule"] else ""),
        "batch": f"{batch['rows']:,} examples of {batch['length']:,} tokens"
        + (f", {batch['accumulate']:,} times per step" if batch["accumulate"] > 1 else ""),
        "processes": f"{machine['processes']}, with {size(machine['memory'])} each",
        "counted": "tensors only; allocators keep more, on a CPU about a fifth",
    }
    parts = (*PARTS, "total")
    n = f" of {machine['processes']}" if machine["processes"] > 1 else ""
    memory = [
        {"what": PARTS.get(part, "all")}
        | {_setting(key): size(getattr(one, part)) for key, one in plan.memory.items()}
        for part in parts
        if part != "exchange" or n
    ]
    fits = {_setting(k): _yes(one.total <= machine["memory"]) for k, one in plan.memory.items()}
    shown = {
        "plan": [{"what": what, "value": value} for what, value in facts.items() if value],
        f"memory of one process{n} at its peak": [*memory, {"what": "fits", **fits}],
    }
    if plan.changes:
        shown["what to change, one after the other"] = [
            {"change": one.change, "needs": size(one.total), "fits": _yes(one.fits)}
            for one in plan.changes
        ]
    if plan.cache:
        row = {name: size(plan.cache[name]) for name in ("float32", "bfloat16")}
        shown[f"cache of one sequence of {plan.cache['tokens']:,} tokens"] = [row]
    shown["time"] = _time(plan)
    return shown


PARTS = {
    "weights": "weights",
    "copies": "copies of them",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "exchange": "exchanged, or whole",
    "activations": "activations, beyond gradients",
}


def _setting(key: tuple[str, str]) -> str:
    return ", ".join(key)


def _yes(is_true: bool) -> str:
    return "yes" if is_true else "no"


def _time(plan: Plan) -> Rows:
    machine, spent = plan.machine, plan.time
    origin = "measured in float32" if machine["measured"] else "as given"
    facts = {
        "operations per step": f"{spent['flops_per_step']:.3g}",
        "operations per second": f"{machine['processes']} x {machine['flops']:.3g}, {origin}",
        "utilization (--utilization)": f"{machine['utilization']:.0%}",
        "steps per day": f"{spent['steps_per_day']:,.0f}",
        f"{spent['steps']:,} steps": _duration(spent["days"] * DAY),
    }
    return [{"what": what, "value": value} for what, value in facts.items()]


def _duration(seconds: float) -> str:
    for unit, length in (("days", DAY), ("hours", 3600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:,.1f} seconds"


def verdict(plan: Plan) -> str:
    """Return whether the recipe fits, or which changes make it fit, as text."""
    room = size(plan.machine["memory"])
    if not plan.changes:
        return f"the recipe fits into {room}"
    if plan.changes[-1].fits:
        return f"the recipe does not fit into {room}; with the changes it does"
    return (
        f"the recipe does not fit into {room}, with no change either; expected more memory, more "
        "GPUs, or fewer parameters"
    )
