"""Named sets of images with classes."""

import os
from pathlib import Path
from typing import cast

import numpy as np

from qkv.data.idx import read_idx
from qkv.data.image_sets import ImageSet
from qkv.data.images import from_array
from qkv.data.labels import Labels
from qkv.data.parts import check_part
from qkv.errors import DataError, MissingDependencyError

SETS = {
    "digits": ("train", "validation", "test", "train+validation"),
    "fashion_mnist": ("train", "validation", "test", "train+validation"),
}
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of its package dataset-fashion-mnist
FASHION = (
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
N_VALIDATION = {"digits": 180, "fashion_mnist": 5_000}


def image_set(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> ImageSet:
    """One part of a named set; see `find_data`.

    "digits", 8 x 8, of scikit-learn, split in halves as in its own example of classifying them, in
    order, as one half's writers wrote little of the other: 718 to train, 180 to validate, 899 to
    test. "fashion_mnist", 28 x 28 (Xiao et al. 2017): of the 60,000 to train the last 5,000
    validate; see `fashion_mnist` for where it is looked for. Of both "train+validation" is all but
    the test part, to learn from once everything is chosen.

    Raises:
        DataError: an unknown name or part, or files that are not found or broken.
        MissingDependencyError: Pillow is not installed, or scikit-learn for its digits.
    """
    check_part(name, split, SETS)
    pixels, classes, names = digits(split) if name == "digits" else fashion_mnist(split, data_dir)
    if split in ("train", "validation"):
        end = len(pixels) - N_VALIDATION[name]
        chosen = slice(end) if split == "train" else slice(end, None)
        pixels, classes = pixels[chosen], classes[chosen]
    return ImageSet(
        [f"image {i} of {name}, {split}" for i in range(len(pixels))],
        [int(number) for number in classes],
        Labels(names),
        lambda i: from_array(pixels[i]),
    )


def digits(split: str) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The halves of scikit-learn's digits, "test" or any other: pixels, classes, and their names.

    Its 17 greys, 0 to 16, become 0 to 255.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.utils import Bunch
    except ImportError as error:
        raise MissingDependencyError(
            'the digits come with scikit-learn: pip install "qkv[train]"'
        ) from error
    given = cast(Bunch, load_digits())
    pixels = np.round(given.images * (255 / 16)).astype(np.uint8)
    half = slice(len(pixels) // 2, None) if split == "test" else slice(len(pixels) // 2)
    return pixels[half], given.target[half], tuple("0123456789")


def fashion_mnist(
    split: str, data_dir: str | os.PathLike[str] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """The files of Fashion-MNIST, those of "test" or else of training: pixels, classes, names.

    They are looked for in the folder "fashion-mnist" of the data folder, and where that has none,
    where Debian's package dataset-fashion-mnist puts them.

    Raises:
        DataError: they are in neither folder, or broken, or do not belong together.
    """
    given = data_dir or os.environ.get("QKV_DATA")
    folders = [*([Path(given, "fashion-mnist")] if given else []), DEBIAN]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        raise DataError(
            f"no Fashion-MNIST: looked for {' and '.join(map(str, folders))} (on Debian: apt "
            "install dataset-fashion-mnist)"
        )
    prefix = "t10k" if split == "test" else "train"
    images, of_classes = (
        _packed_or_not(folder, f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
    )
    pixels, classes = read_idx(images, 3), read_idx(of_classes, 1)
    if len(pixels) != len(classes) or not len(pixels) or classes.max() >= len(FASHION):
        raise DataError(
            f"{images} has {len(pixels)} images, and {of_classes} {len(classes)} classes up to "
            f"{classes.max(initial=0)}; expected as many, at least one, and classes from 0 to "
            f"{len(FASHION) - 1} (of different parts?)"
        )
    return pixels, classes, FASHION


def _packed_or_not(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.exists() else folder / name
