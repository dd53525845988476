"""Labeled images: image folders, tars of such folders, and arrays."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from qkv.data.archives import read_members
from qkv.data.images import ImageConfig, convert, from_array, new_size, opened, read_image
from qkv.data.labels import Labels
from qkv.errors import DataError

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

GRAY = ("1", "L", "LA", "I", "I;16", "F")  # modes of Pillow without colors
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class ImageSet:
    """Images that are opened on access, and their classes.

    Args:
        names: of the images, for errors.
        classes: the number of each image's class.
        labels: the classes' names.
        read: maps an index to the image.
    """

    def __init__(
        self,
        names: Sequence[str],
        classes: Sequence[int],
        labels: Labels,
        read: Callable[[int], "PIL.Image.Image"],
    ):
        self.names, self.classes, self.labels = tuple(names), tuple(classes), labels
        self._read = read

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, i: int) -> "PIL.Image.Image":
        """Open an image, of one or three channels.

        Raises:
            DataError: the file is missing, damaged, not an image, or has four channels.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"no image {i}: there are {len(self)}, counted from 0")
        return check_channels(self._read(i), self.names[i])

    def __add__(self, other: "ImageSet") -> "ImageSet":
        """Concatenate two sets, such as a training and a validation split.

        Raises:
            DataError: the classes differ.
        """
        if self.labels.names != other.labels.names:
            raise DataError(f"{self.labels} and {other.labels} are not the same classes")
        return ImageSet(
            self.names + other.names,
            self.classes + other.classes,
            self.labels,
            lambda i: self[i] if i < len(self) else other[i - len(self)],
        )

    def select(self, rows: Sequence[int]) -> "ImageSet":
        """Return the images of some indices, in this order."""
        return ImageSet(
            [self.names[row] for row in rows],
            [self.classes[row] for row in rows],
            self.labels,
            lambda i: self[rows[i]],
        )

    def pixels(self, mode: Literal["RGB", "L"]) -> UInt8[Tensor, "images channels height width"]:
        """Stack all images, for sets of small images of one size, such as CIFAR.

        Raises:
            DataError: there are none, one cannot be read, or has another size than the first.
        """
        if not len(self):
            raise DataError("no images, no pixels: expected at least one")
        first, arrays = self[0].size, []
        for i, name in enumerate(self.names):
            image = convert(self[i], mode, name=name)
            if image.size != first:
                raise DataError(
                    f"{name} has {image.size[0]} x {image.size[1]} pixels, and {self.names[0]} has "
                    f"{first[0]} x {first[1]}; expected one size (resize them with ImageProcessor)"
                )
            arrays.append(np.asarray(image))
        pixels = torch.from_numpy(np.stack(arrays))  # (N, H, W) or (N, H, W, 3)
        return pixels[:, None] if mode == "L" else pixels.permute(0, 3, 1, 2).contiguous()


def array_set(
    name: str,
    pixels: UInt8[np.ndarray, "N H W"],
    classes: Sequence[int] | Int[np.ndarray, " N"],
    labels: Sequence[str],
) -> ImageSet:
    """Make a set of gray images from one array.

    Args:
        name: of the set and the split, for errors.
        pixels: of all images.
        classes: the number of each image's class.
        labels: the classes' names.
    """
    return ImageSet(
        [f"image {i} of {name}" for i in range(len(pixels))],
        [int(number) for number in classes],
        Labels(labels),
        lambda i: from_array(pixels[i]),
    )


def read_image_folder(path: str | os.PathLike[str], labels: Labels | None = None) -> ImageSet:
    """Read a folder with one folder per class, such as train/ants/1.jpg; by class, then by name.

    Hidden files are passed over. Every file is opened once, so that a broken one is found before
    training and not in the middle of it; its pixels are read later.

    Args:
        path: of the folder that holds the classes' folders.
        labels: the classes of training, if the images are to evaluate by.

    Raises:
        DataError: no classes, one without images, one that training had not, or a file that is no
            image of one or three channels.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: expected one with a folder for each class")
    inside = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in inside if entry.is_dir()]
    stray = next((file for file in inside if file.suffix.lower() in SUFFIXES), None)
    if stray is not None or not folders:
        raise DataError(
            f"{root} has {f'the image {stray.name}' if stray else 'no folders'} in it; expected a "
            "folder for each class, and the images in these"
        )
    files = {
        folder.name: sorted(file for file in folder.rglob("*") if _is_shown(file, folder))
        for folder in folders
    }
    for name, of_class in files.items():
        if not of_class:
            raise DataError(f"{root / name} has no images; expected one or more for each class")
    labels = labels or Labels(list(files))
    named = [(file, labels.number(name, str(root))) for name in files for file in files[name]]
    paths = [file for file, _ in named]
    for file in paths:
        _check_header(file, str(file))
    return ImageSet(
        [str(file) for file in paths],
        [number for _, number in named],
        labels,
        lambda i: read_image(paths[i]),
    )


def read_image_archive(path: str | os.PathLike[str], labels: Labels | None = None) -> ImageSet:
    """Read a tar (.tar, .tar.gz) of an image folder, in its order; the files stay in memory.

    The class of an image is the folder that it lies in, whatever that lies in.

    Args:
        path: of the tar.
        labels: as for `read_image_folder`.

    Raises:
        DataError: the tar is broken, or what is in it is no such folder.
    """
    members = list(read_members(path))
    folders = [PurePosixPath(name).parent for name, _ in members]
    roots = sorted({str(folder.parent) for folder in folders})
    if len(roots) > 1 or not all(folder.name for folder in folders):
        raise DataError(
            f"{path} has images in no folder, or classes in {len(roots)} folders, such as "
            f"{', '.join(roots[:3])}; expected one that holds a folder for each class (are there "
            "several parts in it?)"
        )
    labels = labels or Labels(sorted({folder.name for folder in folders}))
    names = [f"{name} in {path}" for name, _ in members]
    for name, (_, content) in zip(names, members, strict=True):
        _check_header(io.BytesIO(content), name)
    return ImageSet(
        names,
        [labels.number(folder.name, str(path)) for folder in folders],
        labels,
        lambda i: _read_bytes(members[i][1], names[i]),
    )


def image_remarks(images: ImageSet, config: ImageConfig) -> list[str]:
    """Describe what the preparation of the images loses: those resized, and those made gray.

    Args:
        images: are all opened.
        config: of the model's image processor.

    Raises:
        DataError: an image cannot be read.
    """
    resized, grayed = list[str](), list[str]()
    for i, name in enumerate(images.names):
        image = images[i]
        size = image.height, image.width
        if config.size is not None and new_size(config.size, *size) != size:
            resized.append(f"{name}, {size[0]} x {size[1]}")
        if config.mode == "L" and image.mode not in GRAY:
            grayed.append(name)
    return [
        f"{len(found):,} of {len(images):,} images {change}; the first: {found[0]}"
        for found, change in (
            (resized, f"were resized to {_shown_size(config.size)} pixels"),
            (grayed, "had colors and were converted to gray"),
        )
        if found
    ]


def _shown_size(size: tuple[int, int] | int | None) -> str:
    return " x ".join(map(str, size)) if isinstance(size, tuple) else f"a shorter edge of {size}"


def check_channels(image: "PIL.Image.Image", name: str) -> "PIL.Image.Image":
    """Raise for an image with transparency or for printing, as its background is unknown.

    Raises:
        DataError: naming the image.
    """
    if image.has_transparency_data or len(image.getbands()) > 3:
        raise DataError(
            f"{name} has the channels {'+'.join(image.getbands())}"
            f"{' and a transparent colour' * (image.mode == 'P')}; expected grey or RGB: save it "
            "as RGB, on the background that the others have"
        )
    return image


def _check_header(file: Path | io.BytesIO, name: str) -> None:
    with opened(file, name) as image:
        pass
    check_channels(image, name)


def _read_bytes(content: bytes, name: str) -> "PIL.Image.Image":
    with opened(io.BytesIO(content), name) as image:
        image.load()
    return image


def _is_shown(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden
