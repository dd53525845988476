"""The commands of the tasks: one per task for predictions, and `qkv evaluate` for all."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from cyclopts import Parameter

from qkv.data.language import NAMES, other_language
from qkv.data.rows import EVERY, Span
from qkv.errors import ConfigError, DataError
from qkv.tasks.console import show_table
from qkv.tasks.inputs import Item, count_inputs, pick_device, text_item, text_items
from qkv.tasks.options import (
    AllowDownload,
    Columns,
    Device,
    Dtype,
    File,
    Json,
    JsonTables,
    Model,
    NewLabels,
    Output,
    ShardOption,
)
from qkv.tasks.outputs import answer_all, dumps, more_fields, remark
from qkv.tasks.pipeline import Pipeline, recorded
from qkv.tasks.shards import Part, part_of, write_part
from qkv.tasks.splits import Source, name_columns
from qkv.tasks.streams import complain
from qkv.tasks.task import PAGES, Task, find_task, task_of
from qkv.zoo.catalog import ZOO, Entry

P = TypeVar("P", bound=Pipeline[Any, Any, Any])
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class Predict(Generic[P]):
    """The options of a command that makes predictions. A task adds its own, and its inputs."""

    model: Model = None
    file: File = None
    columns: Columns = None
    output: Output = None
    shard: ShardOption = None
    json: Json = False
    device: Device = "auto"
    dtype: Dtype = None
    allow_download: AllowDownload = False
    span: Annotated[Span, Parameter(parse=False)] = EVERY  # the rows of the file that are read

    inputs: ClassVar[str]  # help text of the positional arguments
    about: ClassVar[str] = ""  # help text after the command's summary
    roles: ClassVar[tuple[str, ...]] = ("text",)  # columns of a table that are read
    settings: ClassVar[tuple[str, ...]] = ()  # options that are keyword arguments of Pipeline.of
    loads: ClassVar[tuple[str, ...]] = ()  # options that name models, which no request may choose
    only_json: ClassVar[bool] = False  # whether every prediction is printed as JSON
    whole: ClassVar[bool] = False  # whether a .txt file, or standard input, is a single input

    def items(self, inputs: Sequence[str], columns: Mapping[str, str]) -> Iterable[Item]:
        """Return the inputs: arguments, rows or lines of a file, or lines of standard input."""
        return text_items(inputs, self.file, columns, span=self.span, whole=self.whole)

    def count(self) -> int:
        """Return the number of inputs in the file."""
        return count_inputs(self.file or Path(), whole=self.whole)

    def repeated(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return each input once per prediction for it."""
        return items

    @property
    def part(self) -> Part | None:
        """The part of the predictions that this process makes; None: all of them."""
        return part_of(self)

    def requested(self, inputs: Sequence[Any]) -> list[Item]:
        """Return the inputs of a request; they are never read as names of files.

        Args:
            inputs: the equivalent of the command's arguments.
        """
        return [text_item(self.roles[0], one, f"argument {i}") for i, one in enumerate(inputs, 1)]

    @property
    def apart(self) -> bool:
        """Whether predictions depend on other inputs, so that requests must not share a batch."""
        return False

    def predict(self, pipeline: P, fields: Sequence[Mapping[str, str]]) -> Iterable[Any]:
        """Return a prediction for the fields of each input."""
        return pipeline([one[self.roles[0]] for one in fields], progress=True)

    def line(self, prediction: Any) -> str:
        """Return a prediction as one line of text."""
        raise NotImplementedError(f"{type(self).__name__} does not define line")

    def check(self) -> None:
        """Raise ConfigError for options that are invalid for every model."""

    def run(self, task: Task[Any, Any], inputs: Sequence[str]) -> None:
        """Load the model, and print or write a prediction for each input."""
        self.check()
        part = self.part
        # Inputs are read first, so that their errors do not wait for the model.
        items = [] if part else list(self.items(inputs, self.columns_of(task)))
        shipped = ZOO.get(self.model_of(task))
        if shipped is not None and shipped.demo:
            complain(f"{self.model_of(task)} is a demo: {shipped.weak}")
        if part:
            write_part(part, self, task, inputs, shipped)
        else:
            self.answer(self.load(task), items, shipped)

    def load(self, task: Task[Any, Any]) -> P:
        """Load the model that the options name, or the task's shipped model."""
        pipeline: Any = task.pipeline.load(
            self.model_of(task),
            device=pick_device(self.device),
            dtype=self.dtype,
            allow_download=self.allow_download,
            **self.chosen,
        )
        return pipeline

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that are keyword arguments of `Pipeline.of`."""
        return {name: getattr(self, name) for name in self.settings}

    def model_of(self, task: Task[Any, Any]) -> str:
        """Return the name of the model; "" for a method that needs none.

        Raises:
            ConfigError: no model is named, and the task has no shipped model.
        """
        model = task.shipped(self.chosen) if self.model is None else self.model
        if not model and (self.model == "" or self.chosen.get("method") not in task.methods):
            why = (
                "--model is empty" if self.model == "" else f"qkv {task.name} has no shipped model"
            )
            raise ConfigError(f"{why}; expected --model MODEL")
        return model

    def answer(self, pipeline: P, items: Sequence[Item], shipped: Entry | None) -> None:
        """Print or write a prediction for each item.

        Args:
            pipeline: the model.
            items: the inputs.
            shipped: the model's entry in the catalog if it is a shipped one.
        """
        answer_all(
            items,
            lambda fields: self.noted(pipeline, fields, shipped),
            line=self.line,
            as_json=self.json or self.only_json,
            output=self.output,
            more=more_fields(shipped),
        )

    def noted(
        self, pipeline: P, fields: Sequence[Mapping[str, str]], shipped: Entry | None
    ) -> Iterable[Any]:
        """Return the predictions for the fields of each input, with notes on their language."""
        predictions = self.predict(pipeline, fields)
        texts = [one.get(self.roles[0], "") for one in fields]
        notes = [language_note(shipped, text) for text in texts]
        return map(with_note, predictions, texts, notes)

    def columns_of(self, task: Task[Any, Any]) -> dict[str, str]:
        """Return the column of each role: the option's, else the training data's, else its name."""
        model = self.model_of(task)
        roles = {role: task.columns.get(role, role) for role in self.roles}
        remembered = trained_columns(model) if model and self.file is not None else {}
        known = {role: remembered.get(role, default) for role, default in roles.items()}
        return name_columns(self.columns or {}, known)


def language_note(shipped: Entry | None, text: str) -> str:
    """Return a note if a text is in another language than a shipped model's; else ""."""
    if shipped is None or not shipped.language:
        return ""
    language = other_language(text, shipped.language)
    known = NAMES[shipped.language]
    return f"the text seems to be {language}, but the model reads {known}" if language else ""


def with_note(prediction: R, text: str, note: str) -> R:
    """Prepend a note to a prediction's own; report the note if the prediction has no such field."""
    result: Any = prediction
    if note and hasattr(result, "note"):
        return replace(result, note="; ".join(filter(None, (note, result.note))))
    remark(text, note)
    return result


def trained_columns(model: str) -> dict[str, str]:
    """Return the columns of the data that a model was trained on, by role; empty if unknown."""
    from qkv.tasks.pretrained import read_config

    columns = recorded(read_config(model)).get("columns")
    return dict(columns) if isinstance(columns, dict) else {}


def command_of(name: str) -> Callable[..., None]:
    """Return the function behind a task's command; its parameters become options."""
    task = find_task(name)
    kind: Any = task.predict

    def command(*inputs: str, options: Any) -> None:
        options.run(task, inputs)

    command.__name__ = name
    summary = PAGES[name].summary
    command.__doc__ = "\n\n".join(filter(None, (summary, kind.about, about_default(task))))
    command.__annotations__ = {
        "inputs": Annotated[str, Parameter(help=kind.inputs)],
        "options": Annotated[kind, Parameter(name="*")],
        "return": None,
    }
    command.__kwdefaults__ = {"options": kind()}
    return command


def about_default(task: Task[Any, Any]) -> str:
    """Return the sentence on the shipped model for a command's help."""
    if not task.default:
        return ""
    shipped = ZOO[task.default]
    kind = "demo model" if shipped.demo else "model"
    return (
        f"Without --model, the shipped {kind} {task.default} is used: {shipped.about}. Its "
        f"limits: {shipped.weak}. Its card: qkv models {task.default}."
    )


def evaluate(
    model: str,
    /,
    *,
    data: str,
    split: str = "test",
    task: str | None = None,
    labels: NewLabels = None,
    columns: Columns = None,
    data_dir: Path | None = None,
    json: JsonTables = False,
    device: Device = "auto",
    dtype: Dtype = None,
    allow_download: AllowDownload = False,
) -> None:
    """Score a model on data with known answers.

    Malformed rows of a table are left out of the scores and reported after them.

    Args:
        model: a folder that qkv train made, a shipped model, or an id of the Hugging Face Hub.
        data: a file; a named set, such as reviews, or a split of it, such as reviews:validation; or
            a data set of the Hub. For images: a folder with one folder for each class.
        split: split of a named set, unless data names one.
        task: task of the model; default: the one that it was trained for.
        data_dir: folder of the named sets; default: the environment variable QKV_DATA.
    """
    page = find_task(task or ("classify" if labels else task_of(model)))
    if labels is not None and not page.untrained:
        raise ConfigError(f"--labels with --task {page.name}; expected --task classify")
    if page.recipe is None:
        raise ConfigError(
            f"{model}: qkv {page.name} has no scores; expected a model of another task, or "
            "--labels to classify without training"
        )
    source = Source(page, {**trained_columns(model), **(columns or {})}, data_dir, "skip")
    options: dict[str, Any] = {"device": pick_device(device), "dtype": dtype}
    options |= {"allow_download": allow_download}
    options |= {} if labels is None else {"labels": labels}
    pipeline = page.pipeline.load(model, **options)
    scores = pipeline.evaluate(source.read(data, split), progress=True)
    if json:
        print(dumps(asdict(scores)))
    for title, rows in page.tables(scores).items() if not json else ():
        show_table(title, rows)
    for problem in source.remarks:
        complain(problem)
    if source.remarks:
        raise DataError(f"{data} has malformed rows, which are not in the scores, see above")


def score_row(
    name: str, value: float, interval: tuple[float, float] | None, *, digits: int = 2
) -> dict[str, str]:
    """Return a row of a table of scores."""
    within = f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "-"
    return {"score": name, "value": f"{value:.{digits}f}", "95 %": within}


def __getattr__(name: str) -> Callable[..., None]:
    """Return the command of a task, so that `qkv.tasks.commands:classify` names it."""
    if name in PAGES and PAGES[name].summary:
        return command_of(name)
    raise AttributeError(name)
