"""Images with classes: folders of them, tar archives of such folders, and arrays."""

import io
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from qkv.data.archives import read_members
from qkv.data.images import ImageConfig, from_array, new_size, opened, read_image
from qkv.data.labels import Labels
from qkv.errors import DataError

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


GRAY = ("1", "L", "LA", "I", "I;16", "F")  # modes of Pillow without colors


class ImageExample(NamedTuple):
    """An image, which is opened on demand, and its class.

    Args:
        name: what error messages call it, such as the path.
        label: name of its class.
        read: reads the image.
    """

    name: str
    label: str
    read: Callable[[], "PIL.Image.Image"]

    @property
    def text(self) -> str:
        """The name, which identifies the example when a split is held out."""
        return self.name

    def open(self) -> "PIL.Image.Image":
        """Return the image, with one or three channels.

        Raises:
            DataError: the file is missing, not an image, broken, or has four channels.
        """
        return check_channels(self.read(), self.name)


def array_examples(
    name: str,
    pixels: UInt8[np.ndarray, "N H W"],
    classes: Sequence[int] | Int[np.ndarray, " N"],
    labels: Sequence[str],
) -> list[ImageExample]:
    """Return the grayscale images of an array.

    Args:
        name: name of the set and the split, for error messages.
        pixels: the pixels of all images.
        classes: the index of each image's class.
        labels: names of the classes.
    """
    return [
        ImageExample(f"image {i} of {name}", labels[int(number)], partial(from_array, pixels[i]))
        for i, number in enumerate(classes)
    ]


def read_image_folder(path: str | os.PathLike[str]) -> list[ImageExample]:
    """Read a folder with one folder per class, as in train/ants/1.jpg; sort by class, then name.

    Hidden files are ignored. The header of each file is read at once, so that a broken file is
    reported before training; its pixels are read later.

    Args:
        path: the folder that contains the classes' folders.

    Raises:
        DataError: fewer than two classes, one without images, or a file that is not an image of one
            or three channels.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; expected one with a folder for each class")
    inside = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in inside if entry.is_dir()]
    stray = next((file for file in inside if file.suffix.lower() in SUFFIXES), None)
    if stray is not None or not folders:
        raise DataError(
            f"{root} has {f'the image {stray.name}' if stray else 'no folders'} in it; expected a "
            "folder for each class, with the images in it"
        )
    files = {
        folder.name: sorted(file for file in folder.rglob("*") if _is_shown(file, folder))
        for folder in folders
    }
    for name, of_class in files.items():
        if not of_class:
            raise DataError(f"{root / name} has no images; expected one or more for each class")
    Labels(list(files))  # two or more
    for of_class in files.values():
        for file in of_class:
            _check_header(file, str(file))
    return [
        ImageExample(str(file), label, partial(read_image, file))
        for label, of_class in files.items()
        for file in of_class
    ]


def read_image_archive(path: str | os.PathLike[str]) -> list[ImageExample]:
    """Read a tar archive (.tar, .tar.gz) of such a folder into memory, in the archive's order.

    The class of an image is the folder that directly contains it.

    Args:
        path: the archive.

    Raises:
        DataError: the archive is broken, or does not contain such a folder.
    """
    members = list(read_members(path))
    folders = [PurePosixPath(name).parent for name, _ in members]
    roots = sorted({str(folder.parent) for folder in folders})
    if len(roots) > 1 or not all(folder.name for folder in folders):
        raise DataError(
            f"{path} has images outside of folders, or classes in {len(roots)} folders, such as "
            f"{', '.join(roots[:3])}; expected one folder with a folder for each class (does it "
            "have several splits?)"
        )
    Labels(sorted({folder.name for folder in folders}))  # two or more
    names = [f"{name} in {path}" for name, _ in members]
    for name, (_, content) in zip(names, members, strict=True):
        _check_header(io.BytesIO(content), name)
    return [
        ImageExample(name, folder.name, partial(_read_bytes, content, name))
        for name, folder, (_, content) in zip(names, folders, members, strict=True)
    ]


def image_remarks(images: Sequence[ImageExample], config: ImageConfig) -> list[str]:
    """Describe how preprocessing changes the images: how many are resized or converted to gray.

    Args:
        images: the images, which are all opened.
        config: config of the model's image processor.

    Raises:
        DataError: an image cannot be read.
    """
    resized, grayed = list[str](), list[str]()
    for example in images:
        image, name = example.open(), example.name
        size = image.height, image.width
        if config.size is not None and new_size(config.size, *size) != size:
            resized.append(f"{name}, {size[0]} x {size[1]}")
        if config.mode == "L" and image.mode not in GRAY:
            grayed.append(name)
    return [
        f"{len(names):,} of {len(images):,} images {change}; the first: {names[0]}"
        for names, change in (
            (resized, f"were resized to {_shown_size(config.size)} pixels"),
            (grayed, "had colors and were converted to gray"),
        )
        if names
    ]


def _shown_size(size: tuple[int, int] | int | None) -> str:
    return " x ".join(map(str, size)) if isinstance(size, tuple) else f"a shorter edge of {size}"


def check_channels(image: "PIL.Image.Image", name: str) -> "PIL.Image.Image":
    """Return the image, or reject it if it is transparent or CMYK: its background is unknown.

    Raises:
        DataError: the image has such channels; the message names it.
    """
    if image.has_transparency_data or len(image.getbands()) > 3:
        raise DataError(
            f"{name} has the channels {'+'.join(image.getbands())}"
            f"{' and a transparent color' * (image.mode == 'P')}; expected gray or RGB: save it "
            "as RGB, with the same background as the others"
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
