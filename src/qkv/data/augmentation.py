"""Random changes of training images, so that a model rarely sees the same image twice.

All functions change whole batches with the batch's own random generator, so that a resumed run
continues with the same images.

Shapes: B batch, C channels, H height, W width.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor

from qkv.data.batches import Batches, Batching, Movable
from qkv.errors import ConfigError, DataError

Pixels = Float[Tensor, "B C H W"]
Generator = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Changes of an image, in this order; the defaults change nothing.

    Args:
        flip: mirror each image with probability 1/2; only if left and right do not matter.
        rotate: maximum rotation in degrees, either way.
        scale: maximum change of the size, as a fraction.
        elastic: standard deviation of an elastic deformation, in pixels (Simard et al. 2003,
            section 2).
        shift: maximum shift in pixels, a random crop of the image padded with black.
        erase: fraction of the images in which a rectangle is erased (Zhong et al. 2020).
        erase_area: minimum and maximum area of the rectangle, as fractions of the image.

    Raises:
        ConfigError: a number is out of range.
    """

    flip: bool = False
    rotate: float = 0.0
    scale: float = 0.0
    elastic: float = 0.0
    shift: int = 0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.25)

    def __post_init__(self) -> None:
        """Check the values."""
        low, high = self.erase_area
        for name, expected, fits in (
            ("rotate", "degrees from 0 to 180", 0 <= self.rotate <= 180),
            ("scale", "a fraction from 0, below 1", 0 <= self.scale < 1),
            ("elastic", "0 pixels or more", self.elastic >= 0),
            ("shift", "0 pixels or more", self.shift >= 0),
            ("erase", "a fraction from 0 to 1", 0 <= self.erase <= 1),
            (
                "erase_area",
                "two fractions between 0 and 1, the smaller one first",
                0 < low <= high < 1,
            ),
        ):
            if not fits:
                raise ConfigError(
                    f"augmentation.{name} = {getattr(self, name)}; expected {expected}"
                )

    def __call__(self, pixels: Pixels, rng: Generator) -> Pixels:
        """Change a batch at random.

        Args:
            pixels: pixels from 0 (black) to 1.
            rng: random generator of the batch.
        """
        if self.flip:
            pixels = flip(pixels, rng)
        if self.rotate or self.scale or self.elastic:
            pixels = bend(pixels, rng, degrees=self.rotate, scale=self.scale, elastic=self.elastic)
        if self.shift:
            pixels = shift(pixels, rng, self.shift)
        if self.erase:
            pixels = erase(pixels, rng, share=self.erase, area=self.erase_area)
        return pixels


NONE = Augmentation()


def flip(pixels: Pixels, rng: Generator) -> Pixels:
    """Mirror each image, left to right, with probability 1/2."""
    chosen = torch.from_numpy(rng.random(len(pixels)) < 0.5)  # (B,)
    return torch.where(chosen[:, None, None, None], pixels.flip(-1), pixels)


def bend(
    pixels: Pixels, rng: Generator, *, degrees: float, scale: float, elastic: float = 0.0
) -> Pixels:
    """Rotate, scale and deform each image in one resampling; gaps are black.

    Images are rotated and scaled around their centers. Elastic deformations (Simard et al. 2003,
    section 2) move each pixel by a smooth random field, interpolated from 4 x 4 normal numbers.
    """
    n, _, height, width = pixels.shape
    angle = torch.from_numpy(rng.uniform(-degrees, degrees, n)).deg2rad()
    size = torch.from_numpy(rng.uniform(1 - scale, 1 + scale, n))
    cos, sin, zero = angle.cos() / size, angle.sin() / size, torch.zeros(n)
    # The source of each new pixel; coordinates run from -1 to 1 on both axes.
    rows = [
        torch.stack((cos, -sin * height / width, zero), 1),
        torch.stack((sin * width / height, cos, zero), 1),
    ]
    grid = F.affine_grid(
        torch.stack(rows, 1).to(pixels.dtype), list(pixels.shape), align_corners=False
    )
    if elastic:
        drawn = torch.from_numpy(rng.normal(0, 2 * elastic, (n, 2, 4, 4))).to(pixels.dtype)
        field = F.interpolate(drawn, size=(height, width), mode="bicubic", align_corners=True)
        grid = grid + field.permute(0, 2, 3, 1) / torch.tensor([width, height])
    return F.grid_sample(pixels, grid, align_corners=False)


def shift(pixels: Pixels, rng: Generator, most: int) -> Pixels:
    """Shift each image by up to `most` whole pixels on both axes; the gap is black."""
    n, _, height, width = pixels.shape
    padded = F.pad(pixels, (most,) * 4)
    top, left = torch.from_numpy(rng.integers(0, 2 * most + 1, (2, n, 1)))  # (B, 1)
    rows = (top + torch.arange(height))[:, :, None]  # (B, H, 1)
    columns = (left + torch.arange(width))[:, None]  # (B, 1, W)
    images = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[images, rows, columns].permute(0, 3, 1, 2).contiguous()


def erase(pixels: Pixels, rng: Generator, *, share: float, area: tuple[float, float]) -> Pixels:
    """Replace a rectangle with noise in a fraction of the images.

    Zhong et al. 2020, algorithm 1, except that a rectangle larger than the image is clipped instead
    of drawn again. The ratio of its sides is between 0.3 and 1 / 0.3.
    """
    n, _, height, width = pixels.shape
    size = rng.uniform(*area, n) * height * width
    ratio = np.exp(rng.uniform(math.log(0.3), -math.log(0.3), n))
    chosen = rng.random(n) < share
    tall = np.clip(np.rint(np.sqrt(size * ratio)), 1, height) * chosen
    wide = np.clip(np.rint(np.sqrt(size / ratio)), 1, width)
    inside = _inside(rng, tall, height)[:, :, None] & _inside(rng, wide, width)[:, None]
    noise = torch.from_numpy(rng.random(pixels.shape, dtype=np.float32)).to(pixels.dtype)
    return torch.where(torch.from_numpy(inside)[:, None], noise, pixels)


def _inside(rng: Generator, lengths: np.ndarray, size: int) -> np.ndarray:
    """Return a mask (B, size), True in a randomly placed interval of each length."""
    first = np.floor(rng.random(len(lengths)) * (size - lengths + 1))[:, None]
    index = np.arange(size)
    return (index >= first) & (index < first + lengths[:, None])


@dataclass(frozen=True)
class ImageBatch(Movable):
    """Images, the model's input, and the indices of their classes."""

    pixels: Float[Tensor, "B C H W"]
    classes: Int64[Tensor, " B"]

    @property
    def n_targets(self) -> int:
        """Number of images."""
        return len(self.classes)


def image_batches(
    pixels: UInt8[Tensor, "images C H W"],
    classes: Int[Tensor, " images"],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentation: Augmentation = NONE,
    batching: Batching,
) -> Batches[ImageBatch]:
    """Batch augmented images; each image appears once per epoch.

    Args:
        pixels: all images, from 0 to 255.
        classes: index of each image's class.
        mean: mean of each channel, as a fraction of 255, to be subtracted after augmentation.
        std: standard deviation of each channel, as a fraction of 255, to divide by.
        augmentation: random changes.
        batching: `batch_size` images per batch; the last batch of an epoch may be smaller.

    Raises:
        ConfigError: `batching` has no `batch_size`.
        DataError: there are no images, or the numbers of images and classes differ.
    """
    size = batching.batch_size
    if size is None:
        raise ConfigError(
            f"max_tokens = {batching.max_tokens} for images; expected batch_size, as all images "
            "have one size"
        )
    if len(pixels) != len(classes) or not len(pixels):
        raise DataError(
            f"{len(pixels)} images and {len(classes)} classes; expected one class per image, and "
            "at least one image"
        )
    middle, spread = (torch.tensor(numbers)[:, None, None] for numbers in (mean, std))

    def plan(epoch: int) -> list[Int64[Tensor, " rows"]]:
        return list(torch.from_numpy(batching.rng(epoch).permutation(len(pixels))).split(size))

    def make(rows: Int64[Tensor, " rows"], rng: Generator) -> ImageBatch:
        changed = augmentation(pixels[rows].float() / 255, rng)
        return ImageBatch((changed - middle) / spread, classes[rows].long())

    return Batches(batching.epoch_numbers, plan, make, seed=batching.seed)
