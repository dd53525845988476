"""`qkv recognize`: a trained model on image files and folders of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qkv.checkpoints.reader import CONFIG
from qkv.data.image_sets import SUFFIXES
from qkv.errors import ConfigError, DataError
from qkv.tasks.images.recognizer import Recognition, Recognizer
from qkv.tasks.inputs import Item, exists, pick_device
from qkv.tasks.options import AllowDownload, Device, Json, Model, Output
from qkv.tasks.outputs import answer_all
from qkv.zoo.catalog import ZOO

DEFAULT = "recognizer"  # of the zoo


def recognize(
    *images: str,
    model: Model = DEFAULT,
    top: int | None = None,
    output: Output = None,
    json: Json = False,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Classify images from files and folders.

    An image may have any size and any channels: it is resized as in training, and what is
    transparent becomes white.

    Args:
        images: files, or folders whose image files are read recursively, in the order of their
            names.
        top: number of classes to print, most probable first; default 1, or all with --json.
    """
    if top is not None and top < 1:
        raise ConfigError(f"top = {top}; expected at least 1 class")
    items = image_items(images)
    recognizer = Recognizer.load(model, device=pick_device(device), allow_download=allow_download)

    def answer(asked: list[dict[str, str]]) -> list[Recognition]:
        found = recognizer([one["image"] for one in asked], progress=True)
        return [_best(one, top) for one in found] if json else found

    answer_all(items, answer, line=lambda one: _as_line(one, top or 1), as_json=json, output=output)


def image_items(paths: Sequence[str]) -> list[Item]:
    """The files, and those in folders; what is not there, or a folder without images, is a problem.

    Raises:
        DataError: there is no path.
        ConfigError: one names a model.
    """
    if not paths:
        raise DataError("no input: expected image files, or folders of them, as arguments")
    for path in paths:
        if path in ZOO or (path and exists(Path(path, CONFIG))):
            raise ConfigError(
                f"{path!r} was given as an image, but is a model: did you mean --model {path}?"
            )
    return [item for path in paths for item in _items(Path(path))]


def _items(path: Path) -> list[Item]:
    if not exists(path) or not path.is_dir():
        problem = "" if exists(path) else f"{path}: there is no such file"
        return [
            Item(where=str(path), fields={} if problem else {"image": str(path)}, problem=problem)
        ]
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        problem = (
            f"{path}: no images in this folder; expected files such as *{', *'.join(SUFFIXES[:4])}"
        )
        return [Item(where=str(path), fields={}, problem=problem)]
    return [Item(where=str(file), fields={"image": str(file)}) for file in found]


def _best(recognition: Recognition, top: int | None) -> Recognition:
    """Keep the likeliest classes."""
    kept = dict(list(recognition.probabilities.items())[:top])
    return replace(recognition, probabilities=kept)


def _as_line(recognition: Recognition, top: int) -> str:
    """The file, then a class and its probability, and the next ones; between tabs."""
    best = list(recognition.probabilities.items())[:top]
    said = "\t".join(f"{label}\t{probability:.4f}" for label, probability in best)
    return f"{recognition.image}\t{said}"
