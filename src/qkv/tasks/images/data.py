"""What a recipe says of its images: where they are, and which are held out."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from qkv.data.image_sets import ImageSet, read_image_archive, read_image_folder
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.data.labels import Labels
from qkv.data.parts import split_by_hash
from qkv.data.sets import load_set, named_sets
from qkv.errors import DataError
from qkv.tasks.sources import NamedSets, limited

SETS = named_sets("recognize")
NAMED = NamedSets({name: one.splits for name, one in SETS.items()}, comes_first=Path.is_dir)
ARCHIVES = (".tar", ".tar.gz", ".tgz")


class ImageParts(NamedTuple):
    """Images with their classes, by what they are for.

    Args:
        labels: names of the classes, which the training images have.
        train: to learn from.
        validation: by which the best weights are chosen.
        test: scored once, at the end; may be none.
    """

    labels: Labels
    train: ImageSet
    validation: ImageSet
    test: ImageSet | None


@dataclass(frozen=True, kw_only=True)
class Images:
    """What to learn from: folders, or sets that are known by name.

    Args:
        train: a folder that holds a folder for each class, or a tar of one; a named set, such as
            digits; or one part of it, as digits:train.
        validation: likewise; a named set's own part, else split off from the training images.
        test: likewise; a named set's own part, else there is none.
        validation_share: that is split off.
        limit: learn from so many images only.
        seed: of the limit's choice.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.

    Raises:
        ConfigError: numbers out of range, or two parts from one source.
    """

    train: str = "digits"
    validation: str | None = None
    test: str | None = None
    validation_share: float = 0.1
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no image has to be read for."""
        NAMED.check(self, "images")

    def parts(self) -> ImageParts:
        """Read the lists of all images, and hold out what has no source of its own.

        Raises:
            DataError: images cannot be read, or their classes do not fit together.
        """
        train = read_images(self.train, "train", data_dir=self.data_dir)
        names = {
            part: getattr(self, part) or NAMED.own(self.train, part)
            for part in ("validation", "test")
        }
        given = {
            part: read_images(name, part, data_dir=self.data_dir, known=train.labels)
            for part, name in names.items()
            if name is not None
        }
        validation = given.get("validation")
        if validation is None:
            train, validation = self._split(train)
        if self.limit is not None:
            train = train.select(limited(range(len(train)), self.limit, self.seed))
        return ImageParts(train.labels, train, validation, given.get("test"))

    def _split(self, images: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Hold a share out, by the checksums of the images' names."""
        keys = [f"{i} {Path(name).name}" for i, name in enumerate(images.names)]
        shares = {"train": 1 - self.validation_share, "validation": self.validation_share}
        parts = split_by_hash(keys, shares)
        rows = {name: [i for i, part in enumerate(parts) if part == name] for name in shares}
        if not all(rows.values()):
            raise DataError(
                f"{len(images)} images leave none to learn from, or none to validate, at "
                f"data.validation_share = {self.validation_share}; expected more images, or "
                "data.validation"
            )
        return images.select(rows["train"]), images.select(rows["validation"])


def read_images(
    source: str,
    part: str,
    *,
    data_dir: Path | None = None,
    known: Labels | None = None,
) -> ImageSet:
    """Read a folder of classes' folders, a tar of one, or a part of a named set.

    Args:
        source: such as "photos", "photos.tar.gz", "digits" or "digits:test".
        part: of a named set, where the source does not say which.
        data_dir: folder of the named sets.
        known: the classes of training, if the images are to evaluate by.

    Raises:
        DataError: the images cannot be read, or have a class that is not among the known.
    """
    if not NAMED.has(source):
        if Path(source).is_dir():
            return read_image_folder(source, known)
        if source.endswith(ARCHIVES) and Path(source).is_file():
            return read_image_archive(source, known)
        raise DataError(
            f"{source!r} is no folder of images, no tar of one ({', '.join(ARCHIVES)}), and no "
            f"named set ({', '.join(SETS)})"
        )
    images = load_set("recognize", *NAMED.split(source, part), data_dir)
    if known is None or known.names == images.labels.names:
        return images
    numbers = [known.number(label, NAMED.full_name(source, part)) for label in images.labels.names]
    classes = [numbers[number] for number in images.classes]
    return ImageSet(images.names, classes, known, images.__getitem__)


def bytes_of(images: ImageSet, config: ImageConfig) -> UInt8[Tensor, "images C H W"]:
    """All images as a config sizes them, before it rescales and normalizes.

    Raises:
        DataError: one cannot be read; its name is said.
    """
    plain = (0.0,) * len(config.mode), (1.0,) * len(config.mode)
    processor = ImageProcessor(replace(config, rescale_factor=None, mean=plain[0], std=plain[1]))
    return torch.stack([processor.prepare(images[i]).byte() for i in range(len(images))])


def checksum(images: ImageSet, pixels: UInt8[Tensor, "images C H W"]) -> str:
    """Tells whether these are the images of an earlier run."""
    said = hashlib.sha256(pixels.numpy().tobytes())
    said.update(repr((images.labels.names, images.classes)).encode())
    return said.hexdigest()[:16]
