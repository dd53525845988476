"""The base class of all pipelines, and functions that they share."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import torch
from torch import nn

from qkv.blocks.positions import LearnedPositions
from qkv.data.rows import NO_TEXT
from qkv.data.tokenizers import TOKENIZER_FILES, Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.inference.optimize import Choice, optimize
from qkv.json_fields import check_kinds, kinds_of_fields, quoted, shown
from qkv.models.modes import evaluating
from qkv.tasks.console import progress_bar
from qkv.tasks.pretrained import Loaded, load

Example = TypeVar("Example")
Output = TypeVar("Output")
Scores = TypeVar("Scores")
Batch = TypeVar("Batch")
Result = TypeVar("Result")
Settings = TypeVar("Settings")

PARAMETERS = "task_specific_params"  # the field of config.json for settings of a task
OURS = "qkv"  # the entry in it that records the task and the columns of the training data
TOKENIZER_SETTINGS = "tokenizer_config.json"


@dataclass(frozen=True)
class Pipeline(Generic[Example, Output, Scores]):
    """A model with its tokenizer or preprocessor, ready to make predictions.

    Args:
        loaded: the model, with its tokenizer or preprocessor and its config.json.
    """

    loaded: Loaded

    predict: ClassVar[Callable[..., Any]]  # inputs and options differ by pipeline
    kinds: ClassVar[tuple[type[nn.Module], ...]]
    expected: ClassVar[str]  # the expected model, for error messages
    of_images: ClassVar[bool] = False

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: Choice | None = None,
        allow_download: bool = False,
        **settings: Any,
    ) -> Self:
        """Load a model in float32; see `qkv.load`.

        Args:
            path: a folder, the name of a shipped model, or an id of the Hugging Face Hub.
            device: device of the model.
            dtype: dtype of the stored weights, for speed; see `optimize`. None: plain PyTorch.
            allow_download: whether to look on the Hub for a base model that the files name.
            settings: keyword arguments of `of`.

        Raises:
            ConfigError: the model is of another kind.
            DataError: there is no such model.
        """
        loaded = cls.read(path, device=device, dtype=dtype, allow_download=allow_download)
        try:
            if dtype is not None:
                loaded = replace(loaded, model=optimize(loaded.model, dtype))
            return cls.of(loaded, **settings)
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}: {error}") from error

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None,
        dtype: Choice | None,
        allow_download: bool,
    ) -> Loaded:
        """Read the files of a model."""
        return load(
            path, dtype=dtype or torch.float32, device=device, allow_download=allow_download
        )

    @classmethod
    def of(cls, loaded: Loaded) -> Self:
        """Make a pipeline from a model that `qkv.load` returned.

        Raises:
            ConfigError: the model is of another kind.
        """
        cls.check(loaded)
        return cls(loaded)

    @classmethod
    def check(cls, loaded: Loaded) -> None:
        """Raise ConfigError unless the model is of the right kind and complete."""
        part = "preprocessor" if cls.of_images else "tokenizer"
        missing = getattr(loaded, part) is None
        if missing or not isinstance(loaded.model, cls.kinds):
            raise ConfigError(
                f"the model is a {type(loaded.model).__name__} with {'no' if missing else 'a'} "
                f"{part}; expected {cls.expected}"
            )

    @property
    def model(self) -> Any:
        """The model."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        if self.loaded.tokenizer is None:
            raise ConfigError(f"this {type(self).__name__} has no tokenizer; expected one")
        return self.loaded.tokenizer

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next(self.model.parameters()).device

    @overload
    def __call__(
        self, text: list[Any] | tuple[Any, ...], *more: Any, progress: bool = ..., **options: Any
    ) -> list[Output]: ...
    @overload
    def __call__(self, text: Any, *more: Any, progress: bool = ..., **options: Any) -> Any: ...
    def __call__(self, text: Any, *more: Any, progress: bool = False, **options: Any) -> Any:
        """Return the prediction for one input, or a list of predictions for a list of inputs.

        Args:
            text: one input or a list of them.
            more: further parts of each input, such as the second text of a pair.
            progress: show a progress bar on standard error.
            options: options of `predict`.

        Raises:
            DataError: an input is empty or of another type.
        """
        if isinstance(text, str) or not isinstance(text, Sequence):
            others = [None if part is None else [part] for part in more]
            return self.predict([text], *others, progress=progress, **options)[0]
        return self.predict(text, *more, progress=progress, **options)

    def evaluate(self, examples: Sequence[Example], *, progress: bool = False) -> Scores:
        """Return the scores on examples whose answers are known.

        Raises:
            DataError: there are no examples, or one does not fit the model.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define evaluate")

    def run(
        self,
        batches: Sequence[Batch],
        forward: Callable[[Batch], Result],
        label: str,
        *,
        progress: bool,
    ) -> list[Result]:
        """Apply `forward` to each batch, without dropout and without gradients.

        Args:
            batches: batches of any kind.
            forward: computes a batch's result.
            label: text before the progress bar.
            progress: show a progress bar on standard error.
        """
        with evaluating(self.model), torch.inference_mode():
            return [forward(batch) for batch in progress_bar(batches, label, show=progress)]


def check_strings(inputs: Sequence[Any], what: str = "text") -> None:
    """Raise DataError unless all inputs are strings."""
    for number, text in enumerate(inputs, start=1):
        if not isinstance(text, str):
            raise DataError(
                f"{what} {number} is a {type(text).__name__}; expected a string, or a list of them"
            )
        if NO_TEXT.search(text):
            raise DataError(f"{what} {number} is not UTF-8: {quoted(text, 60)}; expected a text")


def most_positions(model: nn.Module) -> int | None:
    """Return the number of positions that a model has learned; None if there is no limit."""
    tables = [m.max_length for m in model.modules() if isinstance(m, LearnedPositions)]
    return min(tables, default=None)


def check_positions(model: nn.Module, name: str, length: int) -> None:
    """Raise ConfigError if `length`, the value of the setting `name`, exceeds the positions."""
    longest = most_positions(model)
    if longest is not None and length > longest:
        raise ConfigError(
            f"{name} = {length}, but this {type(model).__name__} has learned positions for "
            f"{longest} tokens, special tokens included; expected at most that many"
        )


def tells_texts_apart(model: nn.Module) -> bool:
    """Return whether a model has embeddings for the first and the second text, as BERT does."""
    return getattr(model.config, "n_segments", 1) > 1


def read_settings(loaded: Loaded, name: str, kind: type[Settings]) -> dict[str, Any]:
    """Return a task's settings in config.json, which are fields of the dataclass `kind`.

    Raises:
        ConfigError: a field has a value of another type.
    """
    stored = (loaded.config.get(PARAMETERS) or {}).get(name) or {}
    kinds = kinds_of_fields(kind)
    known = {field: stored[field] for field in kinds if field in stored}
    check_kinds(known, kinds, where=f"{PARAMETERS}.{name} of config.json")
    return known


def recorded(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what our training recorded in a config.json: `task` and `columns`, or nothing."""
    parameters = config.get(PARAMETERS)
    ours = parameters.get(OURS) if isinstance(parameters, dict) else None
    return ours if isinstance(ours, dict) else {}


def with_parameters(loaded: Loaded, **parameters: Mapping[str, Any]) -> Loaded:
    """Return `loaded` with entries added to the task settings of config.json."""
    stored = {**(loaded.config.get(PARAMETERS) or {}), **parameters}
    return replace(loaded, config={**loaded.config, PARAMETERS: stored})


def tokenizer_setting(tokenizer: Tokenizer, name: str) -> Any:
    """Return a field of tokenizer_config.json; None if there is none."""
    return json.loads(tokenizer.files.get(TOKENIZER_SETTINGS, b"{}")).get(name)


def longest_input(loaded: Loaded) -> int | None:
    """Return the maximum input length of tokenizer, model and config; None if there is no limit.

    In config.json, it is `max_length` next to the recorded task, for adapters, because their
    tokenizer is their base's.

    Raises:
        ConfigError: that is not a whole number of at least 1.
    """
    own = recorded(loaded.config).get("max_length")
    if own is not None and (type(own) is not int or own < 1):
        raise ConfigError(
            f"max_length = {shown(own)} in {PARAMETERS}.{OURS} of config.json; expected a whole "
            "number of at least 1"
        )
    stored = loaded.tokenizer and tokenizer_setting(loaded.tokenizer, "model_max_length")
    limits = [own, stored, getattr(loaded.model.config, "n_positions", None)]
    limits.append(most_positions(loaded.model))
    # Files have a huge number if there is no limit.
    return min((int(n) for n in limits if n is not None and n < 10**9), default=None)


def without_base_files(loaded: Loaded, drop: Sequence[str] = (), **settings: Any) -> Loaded:
    """Keep only the tokenizer files of a base model, with changed settings.

    Args:
        loaded: a base model with a new head.
        drop: fields of config.json to leave out besides the settings of tasks, because they
            describe the base model's task.
        settings: fields of tokenizer_config.json.
    """
    files = {name: text for name, text in loaded.files.items() if name in TOKENIZER_FILES}
    stored = json.loads(files.get(TOKENIZER_SETTINGS, b"{}")) | settings
    files[TOKENIZER_SETTINGS] = (json.dumps(stored, indent=2, ensure_ascii=False) + "\n").encode()
    config = {
        name: value for name, value in loaded.config.items() if name not in (*drop, PARAMETERS)
    }
    return replace(loaded.with_files(files), config=config)
