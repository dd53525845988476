"""Train a Vision Transformer on the handwritten digits that come with scikit-learn."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qkv.data.augmentation import Augmentation, image_batches
from qkv.data.batches import Batching
from qkv.data.images import ImageConfig
from qkv.data.labels import Labels
from qkv.models.vit import ViTConfig
from qkv.tasks.images import TASK, Recognizer, fresh_recognizer, statistics, training_pixels
from qkv.tasks.splits import DataConfig, Splits, read_splits
from qkv.training.classification import image_loss
from qkv.training.history import History
from qkv.training.loop import train
from qkv.training.progress import Bar
from qkv.training.settings import Training


@dataclass(frozen=True)
class Digits:
    """A trained recognizer, its training, and its data.

    Args:
        recognizer: maps images to digits.
        history: the training history.
        pixels: the training half, (images, 1, size, size), 0 to 255.
        splits: the images as they are stored, 8 x 8.
    """

    recognizer: Recognizer
    history: History
    pixels: Tensor
    splits: Splits[Any]


def train_digits(
    config: ViTConfig,
    augmentation: Augmentation,
    steps_of: Callable[[int], int],
    *,
    seed: int = 0,
) -> Digits:
    """Train on the training half, with images resized to the config's size.

    Args:
        config: configuration of the Vision Transformer.
        augmentation: applied to an image each time it is shown.
        steps_of: maps the number of steps in 200 epochs, a full run, to the number to train.
        seed: determines the order of the images and their augmentation.
    """
    splits = read_splits(TASK, DataConfig(train=("digits",)))
    labels = Labels.of(one.label for one in splits.train)
    side = config.image_size
    size = (side, side) if isinstance(side, int) else side
    sizes = ImageConfig(size=size, mean=(0.0,), std=(1.0,))
    pixels = training_pixels(splits, sizes)
    measured: dict[str, Any] = statistics(pixels)
    recognizer = fresh_recognizer(labels, replace(sizes, **measured), config)
    batches = image_batches(
        pixels,
        torch.tensor([labels.number(one.label) for one in splits.train]),
        mean=measured["mean"],
        std=measured["std"],
        augmentation=augmentation,
        batching=Batching(batch_size=64, epochs=None, seed=seed),
    )
    steps = steps_of(200 * batches.n_batches)
    history = train(
        recognizer.model,
        batches,
        partial(image_loss, smoothing=0.1),
        Training(steps=steps, learning_rate=2e-3, weight_decay=0.05, warmup=steps // 20),
        callbacks=[Bar("ViT", unit="images")],
    )
    return Digits(recognizer, history, pixels, splits)
