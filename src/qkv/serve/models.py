"""The models that are served, by name."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError, DataError
from qkv.inference.optimize import Choice
from qkv.serve.engine import ROWS, WAITING, Engine
from qkv.tasks.inputs import exists
from qkv.tasks.optimizing import optimize
from qkv.tasks.pretrained import Loaded
from qkv.tasks.prose import NO_MODEL
from qkv.tasks.task import commands, find_task, task_of
from qkv.zoo.catalog import ZOO, Entry, list_zoo

GENERATES = ("generate", "chat")  # the tasks of language models
KEPT = 8  # pipelines of a model, one for each combination of settings


class NoModelError(DataError):
    """The name of a model that is not served."""


@dataclass(eq=False)
class Served:
    """A model that is served.

    Args:
        name: name of the model in requests.
        source: folder, shipped model or id of the Hub that it was loaded from.
        task: the task that it was trained for.
        engine: the model and its thread.
    """

    name: str
    source: str
    task: str
    engine: Engine
    _pipelines: "OrderedDict[Any, Any]" = field(default_factory=OrderedDict[Any, Any], init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def shipped(self) -> Entry | None:
        """The model's entry in the catalog; None if it is not a shipped one."""
        return ZOO.get(self.source)

    def pipeline(self, task: str, loaded: Loaded, **settings: Any) -> Any:
        """Return the pipeline of a task; the latest ones are kept.

        Args:
            task: name of the task.
            loaded: the model.
            settings: keyword arguments of the task's `Pipeline.of`.

        Raises:
            ConfigError: the model is of another kind, or a setting is wrong.
        """
        key = task, repr(sorted(settings.items()))
        page = find_task(task).pipeline
        with self._lock:
            if key not in self._pipelines:
                try:
                    made: Any = (
                        page.of(loaded, **settings) if self.name else page.load("", **settings)
                    )
                except ConfigError as error:
                    raise ConfigError(f"{self.name or task}: {error}") from error
                self._pipelines[key] = made
                while len(self._pipelines) > KEPT:
                    self._pipelines.popitem(last=False)
            return self._pipelines[key]


class Models:
    """The models that are served.

    Args:
        served: the models.
    """

    def __init__(self, served: Sequence[Served]):
        self.by_name = {one.name: one for one in served}
        if len(self.by_name) < len(served):
            names = [one.name for one in served]
            raise ConfigError(f"two models have the same name: {', '.join(names)}; expected one")
        self.without = Served("", "", "", Engine("no model", lambda: NO_MODEL))

    def of_tasks(self, *tasks: str) -> list[str]:
        """Return the names of the models that were trained for one of these tasks."""
        return [one.name for one in self.by_name.values() if one.task in tasks]

    def find(self, name: str) -> Served:
        """Return a model.

        Raises:
            NoModelError: no model of this name is served.
        """
        if name not in self.by_name:
            shown = name if len(name) < 80 and name.isprintable() else "this"
            raise NoModelError(
                f"the model {shown!r} is not served; expected one of {', '.join(self.by_name)}"
            )
        return self.by_name[name]

    def for_task(self, task: str, name: str | None, settings: Any) -> Served:
        """Return the model of a request: the named one, else the one that the command would use.

        Args:
            task: name of the task.
            name: name of a model; None: the task's shipped model, if it is served, else the first
                one that was trained for the task, else the only one.
            settings: options that are settings of the pipeline.

        Raises:
            NoModelError: no such model is served.
        """
        if name is not None:
            return self.find(name)
        shipped = find_task(task).shipped(settings)
        if not shipped:
            return self.without
        own = self.of_tasks(*(GENERATES if task in GENERATES else (task,)))
        chosen = [shipped] if shipped in self.by_name else own
        if not chosen and len(self.by_name) == 1:
            chosen = list(self.by_name)
        if not chosen:
            raise NoModelError(
                f"no model for {task} is served; expected model, one of {', '.join(self.by_name)}, "
                f"or a server with one: qkv serve {shipped}"
            )
        return self.by_name[chosen[0]]

    def start(self) -> None:
        """Load all models concurrently, and wait for them.

        Raises:
            QKVError: a model cannot be loaded.
        """
        for future in [one.engine.start() for one in self.by_name.values()]:
            future.result()

    def stop(self) -> None:
        """Answer waiting and running requests with errors, and end all threads."""
        for one in (*self.by_name.values(), self.without):
            one.engine.stop()

    def join(self, timeout: float = 5.0) -> None:
        """Wait for all threads to end."""
        for one in (*self.by_name.values(), self.without):
            one.engine.join(timeout)


def shipped_models() -> list[str]:
    """Return the models that the commands use without --model, if they are installed."""
    installed = {row["model"] for row in list_zoo() if row["installed"] == "yes"}
    defaults = [find_task(name).default for name in commands()]
    return [name for name in dict.fromkeys(defaults) if name in installed]


def loader(
    source: str, task: str, device: Any, dtype: Choice | None, allow_download: bool
) -> Callable[[], Loaded]:
    """Return a function that loads a model as the command of its task does."""

    def load() -> Loaded:
        page = find_task(task).pipeline
        loaded = page.read(source, device=device, dtype=dtype, allow_download=allow_download)
        if dtype is not None:
            loaded = optimize(loaded, dtype)
        _ = page.of(loaded)  # which checks it
        return loaded

    return load


def read_models(
    sources: Sequence[str],
    *,
    device: Any,
    dtype: Choice | None,
    allow_download: bool,
    max_rows: int = ROWS,
    max_waiting: int = WAITING,
) -> Models:
    """Return models that are served; none is loaded yet.

    Args:
        sources: folders, shipped models or ids of the Hub; a folder is named by its last component.
        device: device of the models.
        dtype: dtype of the stored weights; None: plain PyTorch.
        allow_download: whether to look on the Hub for base models.
        max_rows: rows of a running batch.
        max_waiting: requests that may wait for a model, in each queue.

    Raises:
        ConfigError: a model fits no task that has a command, or two have the same name.
        DataError: there is no such model.
    """
    served = list[Served]()
    for source in sources:
        task = task_of(source)
        if task not in commands():
            raise ConfigError(
                f"{source} is a model of the task {task}, which has no command; expected one of "
                f"{', '.join(commands())}"
            )
        folder = source not in ZOO and exists(Path(source))
        name = Path(source).resolve().name if folder else source
        load = loader(source, task, device, dtype, allow_download)
        engine = Engine(name, load, max_rows=max_rows, max_waiting=max_waiting)
        served.append(Served(name, source, task, engine))
    return Models(served)
