"""Training a task by a recipe: read the data, build, train, evaluate, save."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from qkv.data.batches import Batches
from qkv.errors import ConfigError
from qkv.files import write_atomically
from qkv.tasks.console import show_table
from qkv.tasks.conversion import check_target
from qkv.tasks.finetuning import FineTuning, check_base, keep_adapter
from qkv.tasks.pipeline import OURS, Pipeline, with_parameters
from qkv.tasks.pretrained import save
from qkv.tasks.run_folder import Announce, RunFolder
from qkv.tasks.splits import DataConfig, Splits, checksum, read_splits
from qkv.tasks.task import Task
from qkv.training import loop, ranks
from qkv.training.checkpointing import Checkpoints, average_checkpoints, git_revision, versions
from qkv.training.history import History
from qkv.training.progress import Bar, TensorBoard
from qkv.training.report import describe_training
from qkv.training.run import Callback
from qkv.training.settings import Training
from qkv.training.sharding import is_sharded, whole
from qkv.training.stopping import KeepBest

P = TypeVar("P", bound=Pipeline[Any, Any, Any])


class TrainingBatches(NamedTuple):
    """Batches to train on.

    Args:
        batches: endless batches.
        length: mean number of tokens of an example, for the estimate of the memory.
        remarks: remarks on the examples, for the reader.
        rows: number of rows to train on; None: one per training example.
    """

    batches: Batches[Any]
    length: int
    remarks: tuple[str, ...] = ()
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe(Generic[P]):
    """The fields of a recipe. A task adds its own, and the methods that build, batch, and score.

    Args:
        output: folder of the trained model, created or replaced; OUTPUT.training contains the run,
            so that the same command resumes it if it was stopped.
        base: pretrained model to start from: a folder, a shipped model, or an id of the Hub.
        data: where the examples come from.
        finetuning: which parameters of the base model train.
        training: training settings.
        device: auto, cpu, cuda or mps.
        fresh: start over, even if an earlier run was not finished.
    """

    output: Path
    base: str | None = None
    data: DataConfig
    finetuning: FineTuning = field(default_factory=FineTuning)
    training: Training
    device: str = "auto"
    fresh: bool = False

    metric: ClassVar[str]  # the validation score that chooses the best weights
    unit: ClassVar[str] = "tokens"  # what the loss is averaged over
    hint: ClassVar[str]  # a command to try the model, with {} for its folder
    new_head: ClassVar[bool] = False  # whether training puts a new head on a base, and needs one
    sizes: ClassVar[tuple[str, ...]] = ()  # fields that describe a model without a base
    batched_by: ClassVar[str] = ""  # "batch_size" or "max_tokens", if only one of them fits
    smooths: ClassVar[bool] = True  # whether label smoothing fits the loss

    def check(self) -> None:
        """Raise ConfigError for errors that can be found before the data is read."""
        self._check_base()
        if self.training.smoothing and not self.smooths:
            raise ConfigError(
                f"training.smoothing = {self.training.smoothing}; expected 0: the loss of "
                f"{type(self).__name__} has no label smoothing"
            )
        self.training.check_batching()
        if self.batched_by and getattr(self.training, self.batched_by) is None:
            other = "batch_size" if self.batched_by == "max_tokens" else "max_tokens"
            raise ConfigError(
                f"training.{other} = {getattr(self.training, other)}; {type(self).__name__} needs "
                f"training.{self.batched_by} instead"
            )

    def _check_base(self) -> None:
        if self.base is None:
            if self.new_head or self.finetuning != FineTuning():
                raise ConfigError(
                    f"base = null with finetuning.train = {self.finetuning.train}; expected base, "
                    "the pretrained model to fine-tune, such as all-MiniLM-L6-v2"
                )
            return
        check_base(self.base, self.output)
        default = {one.name: one.default for one in fields(self)}
        changed = [name for name in self.sizes if getattr(self, name) != default[name]]
        if self.finetuning.train == "scratch" and not self.new_head:
            changed.append("finetuning.train")
        if changed:
            raise ConfigError(
                f"base = {self.base} with {', '.join(changed)}; expected no other value than the "
                "default: sizes, tokenizer and weights are those of the base"
            )

    def read(self, task: Task[Any, Any]) -> Splits[Any]:
        """Read the data."""
        return read_splits(task, self.data)

    def checksum(self, task: Task[Any, Any], pipeline: P, splits: Splits[Any]) -> str:
        """Return the checksum of the data: a run is only resumed on the same data."""
        return checksum([[task.content(one) for one in split] for split in splits])

    def remarks(self, splits: Splits[Any]) -> Iterable[str]:
        """Return remarks on the data to print before training."""
        return ()

    def build(self, splits: Splits[Any]) -> P:
        """Build a pipeline with new weights, or with those of the base."""
        raise NotImplementedError(f"{type(self).__name__} does not define build")

    def batches(self, pipeline: P, splits: Splits[Any]) -> TrainingBatches:
        """Make the batches to train on."""
        raise NotImplementedError(f"{type(self).__name__} does not define batches")

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Return the sum of the losses of a batch's targets."""
        raise NotImplementedError(f"{type(self).__name__} does not define loss")

    def metrics(self, scores: Any) -> dict[str, float]:
        """Return the scores that are printed during the training; higher is better in `metric`."""
        raise NotImplementedError(f"{type(self).__name__} does not define metrics")

    def validator(
        self, pipeline: P, splits: Splits[Any]
    ) -> Callable[[nn.Module], dict[str, float]]:
        """Return the function that scores the validation split during the training."""
        return lambda _: self.metrics(pipeline.evaluate(splits.validation))

    def prepare(self, model: nn.Module, steps: int) -> list[Callback]:
        """Freeze the parameters that do not train; return callbacks of the task."""
        return self.finetuning.prepare(model, steps) if self.base is not None else []

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer; fine-tuning uses BERT's epsilon (Devlin et al. 2019)."""
        if self.base is None:
            return self.training.make_optimizer(model)
        decay = self.finetuning.layer_decay
        return self.training.make_optimizer(model, layer_decay=decay, eps=1e-8)

    def settle(self, pipeline: P, splits: Splits[Any]) -> P:
        """Choose settings on the validation split once the weights are final."""
        return pipeline

    def facts(self, pipeline: P) -> dict[str, Any]:
        """Return further entries of results.json, besides scores, counts and seconds."""
        return {}

    def save(self, pipeline: P, run: "RunFolder") -> None:
        """Save the trained model."""
        save(pipeline.loaded, self.output)


def train(task: Task[Any, Any], recipe: Recipe[Any]) -> None:
    """Train a model by a recipe, evaluate it, and save it in the Hugging Face layout.

    Raises:
        ConfigError: fields that do not fit each other or the model.
        DataError: examples cannot be read, or the output has files but no checkpoint.
        TrainingError: see `qkv.training.loop.train`.
        Interrupted: the process was stopped by a signal; the same call continues.
    """
    recipe.check()
    with loop.connected(recipe.device):
        ranks.check_same("versions", versions())
        _train(task, recipe)


def _train(task: Task[Any, Any], recipe: Recipe[Any]) -> None:
    splits = recipe.read(task)
    run = open_run(task, recipe)
    ranks.check_same("recipes", run.recipe)
    pipeline = recipe.build(splits)
    prepared = recipe.batches(pipeline, splits)
    run = run.on_data(recipe.checksum(task, pipeline, splits))
    ranks.check_same("data: checksums", run.recipe["data_checksum"])
    for remark in (*splits.remarks, *recipe.remarks(splits), *prepared.remarks):
        run.print(remark)
    parameters = count(pipeline.model)
    history = fit(recipe, pipeline, prepared, splits, run)
    trained = sum(p.numel() for p in pipeline.model.parameters() if p.requires_grad)
    if is_sharded(pipeline.model):
        pipeline = _made_whole(recipe, pipeline, splits)
    pipeline = recipe.settle(pipeline, splits)
    adapter = run.folder / "adapter"
    base = recipe.base if ranks.is_first() else None
    if base is not None and keep_adapter(pipeline.loaded, base, adapter):
        run.print(f"the adapter alone, in PEFT's format: {adapter}")
    facts = {
        **recipe.facts(pipeline),
        "train_examples": len(splits.train),
        "parameters": parameters,
        "trained_parameters": trained,
        "train_seconds": round(history.seconds, 1),
    }
    close_run(task, recipe, pipeline, splits, run, facts)


def _made_whole(recipe: Recipe[P], pipeline: P, splits: Splits[Any]) -> P:
    """Return the pipeline with an ordinary model, on every rank, in place of a sharded one."""
    weights = {name: whole(one.detach()) for name, one in pipeline.model.state_dict().items()}
    again = recipe.build(splits)
    recipe.prepare(again.model, 1)  # adds the layers of adapters
    again.model.load_state_dict(weights)
    again.model.eval()
    return again


def fit(
    recipe: Recipe[P],
    pipeline: P,
    prepared: TrainingBatches,
    splits: Splits[Any],
    run: "RunFolder",
) -> History:
    """Train, resuming where an earlier process of the same run stopped.

    The model is left with the best weights by the validation metric, or with their average.
    """
    model, batches, settings = pipeline.model, prepared.batches, recipe.training
    steps = settings.n_steps(batches)
    callbacks = recipe.prepare(model, steps)
    optimizer = recipe.optimizer(model)
    validate = recipe.validator(pipeline, splits)
    if settings.recompute:
        loop.recompute_activations(model)
    _announce(recipe, model, optimizer, prepared, splits, run)
    averaged = settings.average_last > 1
    best = KeepBest(recipe.metric, mode="max", patience=settings.patience)
    with run.opened():
        history = loop.train(
            model,
            batches,
            recipe.loss,
            settings,
            optimizer=recipe.optimizer if settings.sharding != "none" else optimizer,
            evaluate=validate,
            callbacks=[
                *callbacks,
                *([] if averaged else [best]),
                *_watchers(recipe, run, steps),
                Bar(recipe.output.name, recipe.unit),  # last, as it always was in checkpoints
            ],
            device=recipe.device,
        )
        if averaged:
            average_checkpoints(model, run.checkpoints, settings.average_last)
    if averaged:
        run.print(f"the weights are the average of the last {settings.average_last} checkpoints")
    else:
        run.print(f"the weights are those of step {best.step:,}, the best by {recipe.metric}")
    return history


def _announce(
    recipe: Recipe[Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    prepared: TrainingBatches,
    splits: Splits[Any],
    run: "RunFolder",
) -> None:
    """Print the trained parameters, their memory, and the numbers of examples and steps."""
    settings, length = recipe.training, prepared.length
    rows = min(settings.rows(length), prepared.rows or len(splits.train))
    if recipe.base is not None:
        tables = describe_training(
            model,
            optimizer,
            rows=rows,
            length=length,
            best=settings.average_last == 1,
            average=settings.ema is not None,
        )
        for title, table in tables.items() if ranks.is_first() else ():
            show_table(title, table)
    run.print(
        f"{len(splits.train):,} examples to train on, {len(splits.validation):,} to validate, "
        f"{len(splits.test):,} to test; {count(model):,} parameters"
    )
    batches = prepared.batches
    run.print(
        f"{settings.n_steps(batches):,} steps, about {settings.steps_per_epoch(batches):,} per "
        f"epoch -> {recipe.output}"
    )


def open_run(task: Task[Any, Any], recipe: Recipe[Any]) -> RunFolder:
    """Check the output folder and set the seed.

    Raises:
        DataError: the folder has files but no checkpoint.
    """
    output = recipe.output if recipe.output.name.strip(".") else recipe.output.resolve()
    check_target(output)
    _check_sources(recipe)
    content = {"task": task.name, **asdict(recipe)}
    for name in ("output", "device", "fresh"):  # these may differ when a run is resumed
        del content[name]
    torch.manual_seed(recipe.training.seed)
    recorded = json.loads(json.dumps(content, default=str))  # paths as text
    return RunFolder(output=output, recipe=recorded, fresh=recipe.fresh)


def _check_sources(recipe: Recipe[Any]) -> None:
    """Raise ConfigError if a file of the data lies in the output folder, which is replaced."""
    data, output = recipe.data, recipe.output.resolve()
    sources = filter(None, (*data.train, data.validation, data.test))
    for path in (Path(name) for source in sources for name in (source, *source.split(","))):
        if path.exists() and path.resolve().is_relative_to(output):
            raise ConfigError(
                f"data has {path}, which lies in the output folder {recipe.output} and would be "
                "deleted with its old content; expected another output"
            )


def close_run(
    task: Task[Any, Any],
    recipe: Recipe[P],
    pipeline: P,
    splits: Splits[Any],
    run: RunFolder,
    facts: Mapping[str, Any],
) -> None:
    """Evaluate, save the model and its scores, and print the next command."""
    before = time.perf_counter()
    scores = {"validation": pipeline.evaluate(splits.validation, progress=True)}
    if len(splits.test):
        scores["test"] = pipeline.evaluate(splits.test, progress=True)
    if not ranks.is_first():
        return
    seconds = round(time.perf_counter() - before, 1)
    recorded = {"task": task.name, "columns": dict(splits.columns)}
    pipeline = replace(pipeline, loaded=with_parameters(pipeline.loaded, **{OURS: recorded}))
    recipe.save(pipeline, run)
    results = {
        **{name: asdict(one) for name, one in scores.items()},
        **facts,
        "test_seconds": seconds,
        "threads": torch.get_num_threads(),
        "recipe": run.recipe,
        "versions": versions(),
        "git": git_revision(),
    }
    write_atomically(recipe.output / "results.json", json.dumps(results, indent=2) + "\n")
    for name, one in scores.items():
        run.print(f"{name}: {task.summary(one)}")
    run.print(f"all scores: {recipe.output / 'results.json'}")
    run.print(f"try it: {recipe.hint.format(recipe.output)}")


def _watchers(recipe: Recipe[Any], run: RunFolder, steps: int) -> list[Callback]:
    """Return the callbacks that print, draw and save; saving comes last."""
    settings = recipe.training

    def resumed(step: int) -> None:
        run.print(
            f"{run.folder} has {step:,} of {steps:,} steps, which are not repeated; --fresh "
            "starts over"
        )

    logs = settings.tensorboard and ranks.is_first()
    curves = [TensorBoard(run.folder / "tensorboard")] if logs else []
    checkpoints = Checkpoints(
        run.checkpoints,
        every=settings.save_every,
        keep=max(2, settings.average_last),
        recipe=dict(run.recipe),
        resumed=resumed,
    )
    return [Announce(run), *curves, checkpoints]


def count(model: nn.Module) -> int:
    """Return the number of parameters, counting shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
