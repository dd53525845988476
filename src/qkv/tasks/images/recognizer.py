"""Image classification: a vision model with a head, how it wants images, and the classes' names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Union, overload

import torch
from jaxtyping import Float64
from rich.progress import track
from torch import Tensor, nn

from qkv.data.image_sets import ImageSet
from qkv.data.images import ImageProcessor
from qkv.data.labels import Labels
from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores, classification_report
from qkv.models.heads import SequenceClassifier
from qkv.models.modes import evaluating
from qkv.models.vit import DistilledClassifier
from qkv.tasks.classes import check_classes, labels_of
from qkv.tasks.console import plain_console
from qkv.tasks.pretrained import Loaded, load

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

Image = Union["PIL.Image.Image", str, os.PathLike[str]]  # an open one, or a file


@dataclass(frozen=True)
class Recognition:
    """What a recognizer says of an image.

    Args:
        image: the file's path, or what an open image is called.
        label: the likeliest class.
        probability: of it.
        probabilities: of all classes, by their names, the likeliest first.
    """

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Recognizer:
    """A trained (or still to be trained) classifier of images.

    An image may have any size and any channels: it is resized as in training, and what is
    transparent becomes white (see `qkv.data.images.convert`).

    Args:
        loaded: model and preprocessor; config.json names the classes.
    """

    loaded: Loaded

    def __post_init__(self) -> None:
        """Refuse another kind of model."""
        loaded = self.loaded
        kinds = (SequenceClassifier, DistilledClassifier)
        if not isinstance(loaded.model, kinds) or loaded.preprocessor is None:
            raise ConfigError(
                f"a {type(loaded.model).__name__} with "
                f"{'no' if loaded.preprocessor is None else 'a'} preprocessor of images was given; "
                "expected a model that was trained to classify images (qkv train "
                "digits makes one)"
            )
        check_classes(loaded)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> "Recognizer":
        """Load a model that has a head for classes of images; see `qkv.load`.

        Args:
            model: a folder, a name of the zoo or an id of the Hub.
            device: of the model.
            allow_download: whether the Hub may be asked for a base that a file of it names.

        Raises:
            ConfigError: the model is of another kind.
            DataError: there is no such model.
        """
        try:
            loaded = load(model, dtype=torch.float32, device=device, allow_download=allow_download)
            return cls.of(loaded)
        except ConfigError as error:
            raise ConfigError(f"{model}: {error}") from error

    @classmethod
    def of(cls, loaded: Loaded) -> "Recognizer":
        """Make one of what `qkv.load` returned."""
        return cls(loaded)

    @property
    def model(self) -> nn.Module:
        """The encoder with its head."""
        return self.loaded.model

    @property
    def preprocessor(self) -> ImageProcessor:
        """Of the model."""
        assert self.loaded.preprocessor is not None
        return self.loaded.preprocessor

    @property
    def labels(self) -> Labels:
        """The classes' names, in the order of the logits."""
        return labels_of(self.loaded)

    def probabilities(
        self, images: Sequence[Image] | ImageSet, *, rows: int = 64, progress: bool = False
    ) -> Float64[Tensor, "images classes"]:
        """Probabilities of the classes of each image.

        Args:
            images: files or open images.
            rows: images of a batch.
            progress: show a bar, where the errors go.

        Raises:
            DataError: there are no images, or one cannot be read; it is named.
        """
        if not len(images):
            raise DataError("no images to recognize: expected at least one")
        device = next(self.model.parameters()).device
        console = plain_console(stderr=True)
        off = not (progress and console.is_terminal)
        outputs = []
        with evaluating(self.model), torch.inference_mode():
            for first in track(
                range(0, len(images), rows),
                "recognizing",
                console=console,
                transient=True,
                disable=off,
            ):
                some = range(first, min(first + rows, len(images)))
                pixels = self.preprocessor([images[i] for i in some])
                dtype = next(self.model.parameters()).dtype
                outputs.append(self.model(pixels.to(device, dtype)).cpu())
        return torch.cat(outputs).double().softmax(-1)

    @overload
    def __call__(self, images: Image, *, progress: bool = False) -> Recognition: ...
    @overload
    def __call__(self, images: Sequence[Image], *, progress: bool = False) -> list[Recognition]: ...
    def __call__(
        self, images: Image | Sequence[Image], *, progress: bool = False
    ) -> Recognition | list[Recognition]:
        """Say the class of an image, or of each in a list, in order."""
        if not isinstance(images, list | tuple):
            return self([images])[0]
        names = self.labels.names
        rows = self.probabilities(images, progress=progress).tolist()
        return [
            _recognition(image, dict(zip(names, row, strict=True)))
            for image, row in zip(images, rows, strict=True)
        ]

    def evaluate(self, examples: ImageSet, *, progress: bool = False) -> ClassificationScores:
        """Score the recognizer on images whose classes are known.

        Raises:
            DataError: there are none, one cannot be read, or the classes are not those of the
                model, in this order.
        """
        labels = self.labels
        known = [labels.number(name, "the images") for name in examples.labels.names]
        truth = [known[number] for number in examples.classes]
        return classification_report(
            truth, self.probabilities(examples, progress=progress), labels.names
        )


def _recognition(image: Image, probabilities: dict[str, float]) -> Recognition:
    ranked = dict(sorted(probabilities.items(), key=lambda item: -item[1]))
    label, probability = next(iter(ranked.items()))
    name = str(Path(image)) if isinstance(image, str | os.PathLike) else "an image"
    return Recognition(name, label, probability, ranked)
