"""Articles of clothing, 28 x 28 pixels, in ten classes."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from qkv.data.idx import read_idx
from qkv.data.image_sets import ImageExample, array_examples
from qkv.data.sets import Folder, NamedSet
from qkv.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
N_VALIDATION = 5_000


def fashion_mnist(split: str, data_dir: Folder = None) -> tuple[np.ndarray, np.ndarray]:
    """Read the published files of "test" or of training: pixels and classes.

    They are looked for in the folder "fashion-mnist" of the data folder, then where Debian's
    package dataset-fashion-mnist puts them.

    Raises:
        DataError: the files are in neither folder, are broken, or do not belong together.
    """
    parent = data_dir or os.environ.get("QKV_DATA")
    folders = [*([Path(parent, "fashion-mnist")] if parent else []), DEBIAN]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise DataError(
            f"no Fashion-MNIST: looked for {' and '.join(map(str, folders))} (on Debian: apt "
            "install dataset-fashion-mnist)"
        )
    prefix = "t10k" if split == "test" else "train"
    paths = [_find(folder, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    pixels, classes = read_idx(paths[0], 3), read_idx(paths[1], 1)
    if len(pixels) != len(classes) or not len(pixels) or classes.max() >= len(NAMES):
        raise DataError(
            f"{paths[0]} has {len(pixels)} images, and {paths[1]} {len(classes)} classes up to "
            f"{classes.max(initial=0)}; expected one class per image, at least one image, and "
            f"classes from 0 to {len(NAMES) - 1} (of different splits?)"
        )
    return pixels, classes


def _find(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[ImageExample]:
    """Read a split; the validation split is the end of the published training split."""
    pixels, classes = fashion_mnist(split, data_dir)
    if split in ("train", "validation"):
        end = len(pixels) - N_VALIDATION
        rows = slice(end) if split == "train" else slice(end, None)
        pixels, classes = pixels[rows], classes[rows]
    return array_examples(f"fashion_mnist, {split}", pixels, classes, NAMES)


SETS = (
    NamedSet(
        name="fashion_mnist",
        task="recognize",
        splits=("train", "validation", "test", "train+validation"),
        read=_read,
        summary="70,000 articles of clothing of 28 x 28 pixels (Xiao et al. 2017); MIT",
    ),
)
