"""`qkv train digits`: a Vision Transformer, from random weights, on images."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from qkv.checkpoints.registry import family_of
from qkv.data.augmentation import Augmentation, image_batches
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.errors import ConfigError
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import ViT, ViTConfig, initialize_by_width, pair
from qkv.tasks.classes import accuracy_line, classes_line
from qkv.tasks.images.data import ImageParts, Images, bytes_of, checksum
from qkv.tasks.images.recognizer import Recognizer
from qkv.tasks.pretrained import Loaded, save
from qkv.tasks.recipe import Place, Training, begin, count, finish, run_training
from qkv.training.classification import image_loss
from qkv.training.history import History

IMAGES = Images()
AUGMENTATION = Augmentation()
MODEL = ViTConfig(
    image_size=8, patch_size=2, n_channels=1, d_model=64, n_heads=4, d_ff=128, n_layers=3
)
TRAINING = Training(epochs=60.0, batch_size=64, ema=0.99)


def train_recognizer(
    *,
    output: Path,
    data: Images = IMAGES,
    augmentation: Augmentation = AUGMENTATION,
    model: ViTConfig = MODEL,
    start: Literal["published", "by_width"] = "published",
    training: Training = TRAINING,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Train a Vision Transformer to classify images, score it, and save it as transformers does.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped.
        data: images and their classes.
        augmentation: how images are changed at random while the model learns.
        model: its sizes; images are resized to image_size, and made grey where n_channels is 1.
        start: of the weights: as published ViTs start, or by_width, for narrow models; see
            `initialize_by_width`.
        training: how long and how fast.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.

    Raises:
        ConfigError: batches by tokens, a model that this recipe cannot train, or an unknown start.
        DataError: images cannot be read, or their classes do not fit together.
    """
    if start not in ("published", "by_width"):
        raise ConfigError(f"start = {start!r}; expected published or by_width")
    if training.batch_size is None:
        raise ConfigError(
            f"training.max_tokens = {training.max_tokens}: images all take as many tokens; "
            "expected training.batch_size"
        )
    if model.n_channels not in (1, 3) or model.pooler or model.distillation_token:
        raise ConfigError(
            f"model.n_channels = {model.n_channels}, pooler = {model.pooler}, distillation_token "
            f"= {model.distillation_token}; expected 1 (grey) or 3 (RGB), and false for both"
        )
    parts = data.parts()
    empty = (0.0,) * model.n_channels, (1.0,) * model.n_channels
    sizes = ImageConfig(size=pair(model.image_size), mean=empty[0], std=empty[1])
    pixels = bytes_of(parts.train, sizes)
    recipe = {"data": data, "augmentation": augmentation, "model": model, "start": start}
    recipe |= {"training": training, "checksum of the images": checksum(parts.train, pixels)}
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    recognizer = fresh_recognizer(parts, replace(sizes, **statistics(pixels)), model)
    if start == "by_width":
        initialize_by_width(recognizer.model.encoder)
    history = _fit(recognizer, parts, pixels, augmentation, training, place, device)
    about = {
        "images to learn from": len(parts.train),
        "parameters": count(recognizer.model),
        "seconds of training": round(history.seconds, 1),
    }
    finish(
        place,
        recognizer.evaluate,
        parts.validation,
        parts.test,
        save=partial(save, recognizer.loaded),
        about=about,
        line=partial(accuracy_line, unit="images"),
        hint="qkv recognize --model {} image.png",
    )


def fresh_recognizer(parts: ImageParts, images: ImageConfig, model: ViTConfig) -> Recognizer:
    """A model with random weights, for these classes and these images."""
    pool = "first" if model.class_token else "mean"
    classifier = SequenceClassifier(ViT(model), len(parts.labels), pool=pool)
    names = parts.labels.names
    config = family_of("vit").write_config(model) | {
        "model_type": "vit",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }
    return Recognizer(Loaded(classifier, preprocessor=ImageProcessor(images), config=config))


def statistics(pixels: UInt8[Tensor, "images C H W"]) -> dict[str, tuple[float, ...]]:
    """Mean and standard deviation of each channel, as shares of 255; no std is 0."""
    channels = pixels.transpose(0, 1).flatten(1)  # (C, all)
    found = [channel.double() / 255 for channel in channels]
    mean = tuple(round(float(channel.mean()), 4) for channel in found)
    return {"mean": mean, "std": tuple(round(float(x.std()), 4) or 1.0 for x in found)}


def _fit(
    recognizer: Recognizer,
    parts: ImageParts,
    pixels: UInt8[Tensor, "images C H W"],
    augmentation: Augmentation,
    training: Training,
    place: Place,
    device: str,
) -> History:
    """Train, once it is said what."""
    model, config = recognizer.model, recognizer.preprocessor.config
    assert training.batch_size is not None
    assert config.mean is not None
    assert config.std is not None
    batches = image_batches(
        pixels,
        torch.tensor(parts.train.classes),
        mean=config.mean,
        std=config.std,
        augmentation=augmentation,
        batching=training.batching(),
    )
    _say(recognizer, parts, training.n_steps(batches), place)
    return run_training(
        model,
        batches,
        partial(image_loss, smoothing=training.smoothing),
        training,
        place,
        evaluate=lambda _: _scores(recognizer, parts),
        metric="accuracy",
        optimizer=training.optimizer(model),
        device=device,
        unit="images",
    )


def _scores(recognizer: Recognizer, parts: ImageParts) -> dict[str, float]:
    scores = recognizer.evaluate(parts.validation)
    return {"accuracy": scores.accuracy, "macro F1": scores.macro_f1, "loss": scores.loss}


def _say(recognizer: Recognizer, parts: ImageParts, steps: int, place: Place) -> None:
    """Say what there is to learn from, and what learns."""
    place.console.print(classes_line(parts.labels, Counter(parts.train.classes)))
    place.console.print(
        f"{len(parts.train):,} images to learn from, {len(parts.validation):,} to choose the best "
        f"weights by, {len(parts.test or ()):,} to test; {count(recognizer.model):,} parameters, "
        f"{steps:,} steps -> {place.output}"
    )
