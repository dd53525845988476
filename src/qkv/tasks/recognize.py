"""The options of `qkv recognize`, and the images that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from qkv.checkpoints.reader import CONFIG
from qkv.data.image_sets import SUFFIXES
from qkv.errors import ConfigError, DataError
from qkv.tasks.commands import Predict
from qkv.tasks.inputs import Item, exists
from qkv.zoo.catalog import ZOO


@dataclass(frozen=True, kw_only=True)
class Recognize(Predict[Any]):
    """Options of `qkv recognize`.

    Args:
        top: number of classes to print, most probable first; default 1, or all with --json.
    """

    top: int | None = None

    inputs: ClassVar = (
        "image files, or folders whose image files are read recursively, in the order of their "
        "names"
    )
    about: ClassVar = (
        "An image may have any size and any channels: it is prepared as in training. The shipped "
        "recognizer cuts out what is drawn, dark or light; an image without a drawing is an error."
    )
    roles: ClassVar = ("image",)

    def check(self) -> None:
        """Check the number of classes."""
        if self.top is not None and self.top < 1:
            raise ConfigError(f"top = {self.top}; expected at least 1 class")
        for name in ("file", "columns", "shard"):
            if (value := getattr(self, name)) is not None:
                raise ConfigError(f"{name} = {value}; expected images, or folders, as arguments")

    def items(self, inputs: Sequence[str], columns: Mapping[str, str]) -> list[Item]:
        """Return the files, and those in folders; a missing file is a problem of its item."""
        if not inputs:
            raise DataError("no input: expected image files, or folders of them, as arguments")
        for one in inputs:
            if one in ZOO or (one and exists(Path(one, CONFIG))):
                raise ConfigError(f"{one!r} is a model, not an image: did you mean --model {one}?")
        return [item for i, one in enumerate(inputs, 1) for item in _items(one, f"argument {i}")]

    def requested(self, inputs: Sequence[Any]) -> list[Item]:
        """Return the open images of a request."""
        return [
            Item(where=f"argument {i}", fields={"image": image})
            for i, image in enumerate(inputs, start=1)
        ]

    def predict(self, pipeline: Any, fields: Sequence[Mapping[str, str]]) -> list[Any]:
        """Classify the images; for JSON keep the most probable classes."""
        rows = pipeline([one["image"] for one in fields], progress=True)
        return [
            replace(one, probabilities=dict(list(one.probabilities.items())[: self.top]))
            for one in rows
        ]

    def line(self, prediction: Any) -> str:
        """Return the file, then each class and its probability, separated by tabs."""
        best = list(prediction.probabilities.items())[: self.top or 1]
        return "\t".join([prediction.image, *(f"{name}\t{p:.4f}" for name, p in best)])


def _items(argument: str, where: str) -> list[Item]:
    if not argument:  # Path("") is the current folder
        problem = f"{where} is empty; expected an image or a folder"
        return [Item(where=where, fields={}, problem=problem)]
    path = Path(argument)
    if not exists(path) or not path.is_dir():
        problem = "" if exists(path) else f"{path}: there is no such file"
        return [Item(where=str(path), fields={"image": str(path)}, problem=problem)]
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not files:
        expected = f"files such as *{', *'.join(SUFFIXES[:4])}"
        problem = f"{path}: no images in this folder; expected {expected}"
        return [Item(where=str(path), fields={}, problem=problem)]
    return [Item(where=str(file), fields={"image": str(file)}) for file in files]
