"""Image classification with a Vision Transformer."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from qkv.checkpoints.registry import family_of
from qkv.data.augmentation import Augmentation, image_batches
from qkv.data.image_sets import (
    ImageExample,
    image_remarks,
    read_image_archive,
    read_image_folder,
)
from qkv.data.images import ImageConfig, ImageProcessor, resize_all, statistics, unscaled
from qkv.data.labels import Labels, label_remarks
from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores, classification_report
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import DistilledClassifier, ViT, ViTConfig, initialize_by_width, pair
from qkv.tasks.finetuning import load_with_head
from qkv.tasks.labels import (
    check_classes,
    check_known,
    class_metrics,
    class_tables,
    classes_line,
    labels_of,
    score_line,
)
from qkv.tasks.pipeline import Pipeline
from qkv.tasks.pretrained import Loaded
from qkv.tasks.recognize import Recognize
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.training.classification import image_loss
from qkv.training.settings import Training

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

Image = Union["PIL.Image.Image", str, Path]  # an open image, or a file
ARCHIVES = (".tar", ".tar.gz", ".tgz")
ROWS = 64  # images per batch
OF_BASE = ("problem_type", "num_labels", "_num_labels")  # config.json fields of a base's task


@dataclass(frozen=True)
class Recognition:
    """The classification of an image.

    Args:
        image: path of the file, or "an image" for an open image that has none.
        label: the most probable class.
        probability: probability of the label.
        probabilities: probability of each class, most probable first.
    """

    image: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Recognizer(Pipeline[ImageExample, Recognition, ClassificationScores]):
    """A classifier of images.

    Images may have any size and any channels: they are preprocessed as in training, resized or
    cropped to the drawing; transparent pixels become paper (see `qkv.data.images`).

    Args:
        loaded: model and preprocessor; config.json names the classes.

    Raises:
        ConfigError: the model is of another kind.
    """

    kinds: ClassVar = (SequenceClassifier, DistilledClassifier)
    expected: ClassVar = "a model that was trained to classify images (qkv train digits trains one)"
    of_images: ClassVar = True

    def __post_init__(self) -> None:
        """Check the model."""
        self.check(self.loaded)
        check_classes(self.loaded)

    @property
    def preprocessor(self) -> ImageProcessor:
        """The preprocessor of the images."""
        if self.loaded.preprocessor is None:
            raise ConfigError("this recognizer has no preprocessor; expected one")
        return self.loaded.preprocessor

    @property
    def labels(self) -> Labels:
        """The names of the classes, in the order of the logits."""
        return labels_of(self.loaded)

    def probabilities(
        self,
        images: Sequence[Image] | Sequence[ImageExample],
        *,
        rows: int = ROWS,
        progress: bool = False,
    ) -> Float64[Tensor, "images classes"]:
        """Return the probability of each class for each image, computed `rows` images at a time.

        Raises:
            DataError: there are no images, or one cannot be read.
        """
        if not len(images):
            raise DataError("there are no images; expected at least one")
        dtype = next(self.model.parameters()).dtype

        def forward(first: int) -> Tensor:
            opened = [
                one.open() if isinstance(one, ImageExample) else one
                for one in images[first : first + rows]
            ]
            return self.model(self.preprocessor(opened).to(self.device, dtype)).cpu()

        logits = self.run(range(0, len(images), rows), forward, "recognizing", progress=progress)
        return torch.cat(logits).double().softmax(-1)

    def predict(self, images: Sequence[Image], *, progress: bool = False) -> list[Recognition]:
        """Classify images, in their order."""
        names, rows = self.labels.names, self.probabilities(images, progress=progress).tolist()
        return [
            _recognition(image, dict(zip(names, row, strict=True)))
            for image, row in zip(images, rows, strict=True)
        ]

    def evaluate(
        self, examples: Sequence[ImageExample], *, progress: bool = False
    ) -> ClassificationScores:
        """Score the recognizer on images whose classes are known.

        Raises:
            DataError: there are no images, or one cannot be read or has a class that the model
                lacks.
        """
        labels = self.labels
        truth = [labels.number(one.label, one.name) for one in examples]
        probabilities = self.probabilities(examples, progress=progress)
        return classification_report(truth, probabilities, labels.names)


def _recognition(image: Image, probabilities: dict[str, float]) -> Recognition:
    ranked = dict(sorted(probabilities.items(), key=lambda item: -item[1]))
    label, probability = next(iter(ranked.items()))
    file = image if isinstance(image, str | Path) else getattr(image, "filename", "")
    name = str(Path(file)) if file else "an image"
    return Recognition(name, label, probability, ranked)


@dataclass(frozen=True, kw_only=True)
class ImageRecipe(Recipe[Recognizer]):
    """Train a Vision Transformer to classify images, from random weights or from a base.

    Args:
        augmentation: random changes of the training images.
        model: sizes of a model without a base; images are resized to image_size, and converted to
            gray if n_channels is 1.
        ink_box: longer side of the drawing, dark or light, which is cropped and centered (see
            `qkv.data.ink`); null resizes whole images.
        start: initialization of a model without a base: published, as in published ViTs, or
            by_width, for narrow models (see `initialize_by_width`).
    """

    data: DataConfig = DataConfig(train=("digits",))
    training: Training = Training(epochs=60.0, batch_size=64, ema=0.99)
    augmentation: Augmentation = Augmentation()
    model: ViTConfig = ViTConfig(
        image_size=8, patch_size=2, n_channels=1, d_model=64, n_heads=4, d_ff=128, n_layers=3
    )
    ink_box: int | None = None
    start: Literal["published", "by_width"] = "published"

    metric: ClassVar = "accuracy"
    unit: ClassVar = "images"
    hint: ClassVar = "qkv recognize --model {} image.png"
    sizes: ClassVar = ("model", "ink_box", "start")
    batched_by: ClassVar = "batch_size"  # all images have the same number of tokens

    def check(self) -> None:
        """Reject options that this recipe does not support."""
        super().check()
        model = self.model
        if self.start not in ("published", "by_width"):
            raise ConfigError(f"start = {self.start!r}; expected published or by_width")
        if model.n_channels not in (1, 3) or model.pooler or model.distillation_token:
            raise ConfigError(
                f"model.n_channels = {model.n_channels}, pooler = {model.pooler}, "
                f"distillation_token = {model.distillation_token}; expected 1 (gray) or 3 (RGB), "
                "and false for both"
            )

    def checksum(
        self, task: Task[Any, Any], pipeline: Recognizer, splits: Splits[ImageExample]
    ) -> str:
        """Return the checksum of the training images' pixels and of all names and classes."""
        pixels = training_pixels(splits, unscaled(pipeline.preprocessor.config))
        digest = hashlib.sha256(pixels.numpy().tobytes())
        names = [[(one.name, one.label) for one in split] for split in splits]
        digest.update(repr(names).encode())
        return digest.hexdigest()[:16]

    def remarks(self, splits: Splits[ImageExample]) -> list[str]:
        """Return the classes, and remarks on likely mistakes in the labels."""
        names = [one.label for one in splits.train]
        return [classes_line(Counter(names)), *label_remarks(names)]

    def build(self, splits: Splits[ImageExample]) -> Recognizer:
        """Build a model for these classes, or put a new head on the base."""
        labels = Labels.of(one.label for one in splits.train)
        check_known(labels, splits, lambda example: [example.label])
        if self.base is not None:
            names = labels.names
            loaded = load_with_head(self.base, SequenceClassifier, pretrained=True, labels=names)
            config = {name: value for name, value in loaded.config.items() if name not in OF_BASE}
            return Recognizer(replace(loaded.with_files({}), config=config))
        n_channels = self.model.n_channels
        sizes = ImageConfig(
            ink_box=self.ink_box,
            size=pair(self.model.image_size),
            mean=(0.0,) * n_channels,
            std=(1.0,) * n_channels,
        )
        images = replace(sizes, **statistics(training_pixels(splits, unscaled(sizes))))
        recognizer = fresh_recognizer(labels, images, self.model)
        if self.start == "by_width":
            initialize_by_width(recognizer.model.encoder)
        return recognizer

    def batches(self, pipeline: Recognizer, splits: Splits[ImageExample]) -> TrainingBatches:
        """Resize all training images, and augment them in each batch."""
        config, labels = pipeline.preprocessor.config, pipeline.labels
        pixels = training_pixels(splits, unscaled(config))
        batches = image_batches(
            pixels,
            torch.tensor([labels.number(one.label) for one in splits.train]),
            mean=config.mean or (),
            std=config.std or (),
            augmentation=self.augmentation,
            batching=self.training.batching(),
        )
        patch = pair(pipeline.model.encoder.config.patch_size)
        length = (pixels.shape[2] // patch[0]) * (pixels.shape[3] // patch[1])
        return TrainingBatches(batches, length, tuple(image_remarks(splits.train, config)))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum of the cross-entropies."""
        return image_loss(model, batch, smoothing=self.training.smoothing)

    def metrics(self, scores: ClassificationScores) -> dict[str, float]:
        """Return accuracy, F1 and loss."""
        return class_metrics(scores)


def fresh_recognizer(labels: Labels, images: ImageConfig, model: ViTConfig) -> Recognizer:
    """Build a recognizer with random weights for these classes and images."""
    pool = "first" if model.class_token else "mean"
    classifier = SequenceClassifier(ViT(model), len(labels), pool=pool)
    config = family_of("vit").write_config(model) | {
        "model_type": "vit",
        "id2label": {str(i): name for i, name in enumerate(labels.names)},
        "label2id": {name: i for i, name in enumerate(labels.names)},
    }
    return Recognizer(Loaded(classifier, preprocessor=ImageProcessor(images), config=config))


@lru_cache(maxsize=1)
def training_pixels(
    splits: Splits[ImageExample], config: ImageConfig
) -> UInt8[Tensor, "images C H W"]:
    """Return the training images, resized by a config that neither rescales nor normalizes.

    Raises:
        DataError: an image cannot be read.
    """
    return resize_all((one.open() for one in splits.train), config)


def read_images(source: str, problems: list[str] | None) -> list[ImageExample]:
    """Read a folder with one folder of images per class, or a tar archive of one.

    Raises:
        DataError: it cannot be read.
    """
    if Path(source).is_dir():
        return read_image_folder(source)
    if source.endswith(ARCHIVES) and Path(source).is_file():
        return read_image_archive(source)
    raise DataError(
        f"{source!r} is neither a folder of images, nor a tar archive of one "
        f"({', '.join(ARCHIVES)}), nor a named set"
    )


TASK = Task(
    name="recognize",
    default="recognizer",
    pipeline=Recognizer,
    recipe=ImageRecipe,
    predict=Recognize,
    columns={},
    example=ImageExample,
    tables=class_tables,
    summary=score_line,
    read=read_images,
    group=lambda example: example.name,
    labels=lambda example: example.label,
)
