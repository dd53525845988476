"""Handwritten digits of scikit-learn, 8 x 8 pixels."""

from collections.abc import Mapping
from typing import cast

import numpy as np

from qkv.data.image_sets import ImageExample, array_examples
from qkv.data.sets import Folder, NamedSet
from qkv.errors import MissingDependencyError

N_VALIDATION = 180


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[ImageExample]:
    """Split the digits into halves, in their order, which have few writers in common.

    Their 17 shades of gray, 0 to 16, become 0 to 255. The validation split is the end of the first
    half; "train+validation" is all of it, for the final training.

    Raises:
        MissingDependencyError: scikit-learn or Pillow is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.utils import Bunch
    except ImportError as error:
        raise MissingDependencyError(
            'the digits come with scikit-learn: pip install "qkv[train]"'
        ) from error
    digits = cast(Bunch, load_digits())
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    middle = len(pixels) // 2
    rows = {
        "train": slice(middle - N_VALIDATION),
        "validation": slice(middle - N_VALIDATION, middle),
        "train+validation": slice(middle),
        "test": slice(middle, None),
    }[split]
    names = tuple("0123456789")
    return array_examples(f"digits, {split}", pixels[rows], digits.target[rows], names)


SETS = (
    NamedSet(
        name="digits",
        task="recognize",
        splits=("train", "validation", "test", "train+validation"),
        read=_read,
        summary="1,797 digits of 8 x 8 pixels (UCI, with scikit-learn); CC BY 4.0",
    ),
)
