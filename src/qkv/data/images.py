"""Convert images to the input of a vision model.

Pillow resizes them, because the published models were trained on its pixels; those of other
libraries differ.

Shapes: B batch, C channels, H height, W width.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from qkv.data.ink import center_ink
from qkv.errors import ConfigError, DataError, MissingDependencyError

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

# In the order of Pillow's constants, which configs use.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """The steps of preprocessing, in this order; the defaults are ViT's.

    Raises:
        ConfigError: a size below 1 pixel, an unknown filter, a wrong number of channels, or an ink
            box without a gray image around it.
    """

    ink_box: int | None = None  # what is drawn, cut out and centered (see `qkv.data.ink`)
    size: tuple[int, int] | int | None = (224, 224)  # height and width, or the shorter edge
    resample: Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"] = "bilinear"
    crop_size: tuple[int, int] | None = None  # center crop; padded with black
    rescale_factor: float | None = 1 / 255
    mean: tuple[float, ...] | None = (0.5, 0.5, 0.5)  # 3 for RGB, 1 for grayscale
    std: tuple[float, ...] | None = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("size", "crop_size"):
            size = getattr(self, name)
            if size is not None and np.min(size) < 1:
                raise ConfigError(f"{name} = {size}; expected at least 1 pixel")
        if self.resample not in FILTERS:
            raise ConfigError(
                f"resample = {self.resample!r} is unknown; expected one of {', '.join(FILTERS)}"
            )
        counts = [len(numbers or ()) for numbers in (self.mean, self.std)]
        if counts not in ([3, 3], [1, 1], [0, 0]) or 0 in (self.std or ()):
            raise ConfigError(
                f"mean = {self.mean} and std = {self.std}; expected one number per "
                "channel (3 or 1) in both, and no std of 0"
            )
        if self.ink_box is not None and (
            not isinstance(self.size, tuple)
            or not 1 <= self.ink_box <= min(self.size)
            or self.mode != "L"
        ):
            raise ConfigError(
                f"ink_box = {self.ink_box} with size = {self.size} and mean = {self.mean}; "
                "expected 1 pixel or more, at most height and width, and one channel"
            )

    @property
    def mode(self) -> Literal["RGB", "L"]:
        """Pillow's name for the channels."""
        return "L" if self.mean is not None and len(self.mean) == 1 else "RGB"


class ImageProcessor:
    """Preprocesses images as its config describes, and stacks them to a batch."""

    def __init__(self, config: ImageConfig):
        self.config = config

    def __call__(
        self, images: Sequence["PIL.Image.Image | str | os.PathLike[str]"]
    ) -> Float[Tensor, "B C H W"]:
        """Preprocess images, open or as paths, with any channels, and stack them.

        Raises:
            DataError: if an image cannot be read, or the results differ in size.
        """
        return _stack([self.prepare(image) for image in images])

    def prepare(self, image: "PIL.Image.Image | str | os.PathLike[str]") -> Float[Tensor, "C H W"]:
        """Resize, crop, rescale and normalize one image.

        Raises:
            DataError: if it cannot be read or converted.
        """
        config, pillow = self.config, pillow_modules()
        name = "an image"
        if not isinstance(image, pillow.Image.Image):
            name, image = str(image), read_image(cast(str, image))  # rejects other types
        image = cast("PIL.Image.Image", image)
        image = convert(image, config.mode, ink=config.ink_box is not None, name=name)
        if config.ink_box is not None:
            image = center_ink(image, config.ink_box, cast(tuple, config.size), name=name)
        elif config.size is not None:
            height, width = new_size(config.size, image.height, image.width)
            image = image.resize((width, height), pillow.Image.Resampling[config.resample.upper()])
        if config.crop_size is not None:
            height, width = config.crop_size
            top, left = (image.height - height) // 2, (image.width - width) // 2
            image = image.crop((left, top, left + width, top + height))
        pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)
        x = pixels.permute(2, 0, 1).contiguous()
        if config.rescale_factor is not None:
            x = x.double() * config.rescale_factor
        x = x.float()  # here and not at the end, as for the published models
        if config.mean is not None and config.std is not None:
            x = (x - _per_channel(config.mean)) / _per_channel(config.std)
        return x


def read_image(path: str | os.PathLike[str]) -> "PIL.Image.Image":
    """Read an image file, rotated by the orientation in its EXIF data.

    Raises:
        DataError: if there is no such file, it is not an image, or it is broken.
        MissingDependencyError: if Pillow is not installed.
    """
    pillow = pillow_modules()
    if not isinstance(path, str | os.PathLike):
        raise DataError(
            f"an image is a {type(path).__name__}; expected a path, or an image of Pillow "
            "(PIL.Image.fromarray makes one from an array)"
        )
    with opened(path, str(path)) as image:
        return pillow.ImageOps.exif_transpose(image)


@contextmanager
def opened(file: str | os.PathLike[str] | BytesIO, name: str) -> Iterator["PIL.Image.Image"]:
    """Open an image file lazily: its pixels are read on first use.

    Args:
        file: path or content of the file.
        name: name of the image in error messages.

    Raises:
        DataError: if there is no such file, it is not an image, or it is broken.
        MissingDependencyError: if Pillow is not installed.
    """
    pillow = pillow_modules()
    try:
        with pillow.Image.open(file) as image:
            yield image
    except pillow.UnidentifiedImageError as error:
        raise DataError(f"{name} is not an image, or Pillow does not know its format") from error
    # Pillow raises a SyntaxError for a broken PNG.
    except (OSError, SyntaxError, ValueError, pillow.Image.DecompressionBombError) as error:
        raise DataError(f"{name} cannot be read as an image: {error}") from error


def from_array(pixels: np.ndarray) -> "PIL.Image.Image":
    """Return an image from bytes: (height, width) is grayscale, (height, width, 3) is RGB.

    Raises:
        MissingDependencyError: if Pillow is not installed.
    """
    return pillow_modules().Image.fromarray(pixels)


def convert(
    image: "PIL.Image.Image",
    mode: Literal["RGB", "L"],
    *,
    ink: bool = False,
    name: str = "an image",
) -> "PIL.Image.Image":
    """Convert an image to the channels of a model.

    Args:
        image: an image with any channels.
        mode: Pillow's name for the model's channels.
        ink: whether transparent pixels get a color that makes the drawing visible; else white.
        name: name of the image in error messages.

    Raises:
        DataError: if the image has more than 8 bits per channel, which Pillow would clip, or no
            pixels, or is closed, broken, or of a mode that Pillow does not convert.
    """
    if 0 in image.size:
        raise DataError(f"{name} has {image.width} x {image.height} pixels; expected at least one")
    if image.mode[0] in "IF":
        raise DataError(
            f"{name} has Pillow's mode {image.mode!r}, more than 8 bits per channel; expected "
            "numbers from 0 to 255 (scale them and make an image of mode 'L')"
        )
    try:
        if image.has_transparency_data:
            behind = background(image) if ink else "white"
            image = image.convert("RGBA")
            paper = pillow_modules().Image.new("RGBA", image.size, behind)
            image = pillow_modules().Image.alpha_composite(paper, image)
        return image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:  # as of `opened`
        raise DataError(
            f"{name} of Pillow's mode {image.mode!r} cannot be converted: {error}; expected an "
            f"open image that Pillow's convert({mode!r}) accepts"
        ) from error


def background(image: "PIL.Image.Image") -> str:
    """Return the color that shows what is drawn on a transparent image: white behind dark."""
    if not image.has_transparency_data:
        return "white"
    shade, seen = np.moveaxis(np.asarray(image.convert("LA"), dtype=np.float64), -1, 0)
    return "black" if (shade * seen).sum() > 127.5 * seen.sum() else "white"


def unscaled(config: ImageConfig) -> ImageConfig:
    """Return a config that makes pixels from 0 to 255, in the size and the channels of `config`."""
    n = len(config.mode)
    return replace(config, rescale_factor=None, mean=(0.0,) * n, std=(1.0,) * n)


def resize_all(
    images: Iterable["PIL.Image.Image"], config: ImageConfig
) -> UInt8[Tensor, "images C H W"]:
    """Return images in the size and the channels of a config, before rescaling and normalization.

    Raises:
        DataError: an image cannot be read, or the results differ in size.
    """
    processor = ImageProcessor(unscaled(config))
    return _stack([processor.prepare(image).byte() for image in images])


def statistics(pixels: UInt8[Tensor, "images C H W"]) -> dict[str, tuple[float, ...]]:
    """Return mean and std of each channel, as fractions of 255; a std of 0 becomes 1."""
    channels = [channel.double() / 255 for channel in pixels.transpose(0, 1).flatten(1)]
    mean = tuple(round(float(channel.mean()), 4) for channel in channels)
    return {"mean": mean, "std": tuple(round(float(x.std()), 4) or 1.0 for x in channels)}


def _stack(prepared: Sequence[Tensor]) -> Tensor:
    sizes = sorted({tuple(x.shape[1:]) for x in prepared})
    if len(sizes) != 1:
        raise DataError(
            f"after preprocessing {len(prepared)} images have the sizes {sizes}; expected one size "
            "in a batch: images of one size, or a config with a crop_size"
        )
    return torch.stack(list(prepared))


def _per_channel(numbers: tuple[float, ...]) -> Float[Tensor, "C 1 1"]:
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None]


def new_size(size: tuple[int, int] | int, height: int, width: int) -> tuple[int, int]:
    """Return height and width after resizing; a number is the length of the shorter edge."""
    if not isinstance(size, int):
        return size
    longer = int(size * max(height, width) / min(height, width))
    return (longer, size) if width <= height else (size, longer)


def pillow_modules() -> ModuleType:
    """Return the package PIL with the modules that draw and filter images.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFilter
        import PIL.ImageOps
    except ImportError as error:
        raise MissingDependencyError(
            'images need Pillow, which is not installed: pip install "qkv[images]"'
        ) from error
    return PIL
