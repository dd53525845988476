"""Separate a drawing from its paper, as a form scanner does, for models of handwritten signs.

The drawing becomes light on black, with a fixed size and centered by its mass (LeCun et al. 1998,
section III.A), whatever its original colors, thickness, place and size.

Shapes: H height, W width.
"""

import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from qkv.errors import DataError

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

Gray = Float[np.ndarray, "H W"]
Mask = Bool[np.ndarray, "H W"]
LARGEST = 320  # pixels of the shorter side when searching for ink, reduced by a whole factor
LONGEST = 1_280  # pixels of the longer side of the reduced image
FINEST = 1_024  # side of a square with as many pixels, tried if nothing is found with fewer
LEAST = 12.0  # shades of gray, of 255, from paper to ink
NOISE = 4.0  # standard deviations of the paper's noise, from paper to ink
FAINT = 0.6  # of Otsu's threshold: lines may be lighter where a pen is lifted
MOST = 10.0  # separate parts: more are noise
FEWEST = 4  # pixels of a drawing
SPECK = 0.08  # parts with fewer pixels than this fraction of the largest are dirt


def center_ink(
    image: "PIL.Image.Image", box: int, size: tuple[int, int], *, name: str = "an image"
) -> "PIL.Image.Image":
    """Return what is drawn, light on black, centered by its mass.

    Args:
        image: a grayscale image of 8 bits, dark on light or light on dark.
        box: the longer side of the drawing, in pixels of the result.
        size: height and width of the result.
        name: name of the image in error messages.

    Raises:
        DataError: nothing is drawn: the image has one color, or only noise.
    """
    from PIL import Image

    ink = _cut(image, box, name)
    if max(ink.shape) > 16 * box:  # more would cost memory for nothing
        large = Image.fromarray(ink.astype(np.float32))
        ink = np.asarray(large.reduce(-(-max(ink.shape) // (16 * box))), dtype=np.float64)
    scale = max(ink.shape) / box  # old pixels per new pixel
    half_height, half_width = scale * size[0] / 2, scale * size[1] / 2
    room = int(np.ceil(max(half_height, half_width)))  # so that the window is inside
    y = room + np.average(np.arange(len(ink)) + 0.5, weights=ink.sum(1))
    x = room + np.average(np.arange(len(ink[0])) + 0.5, weights=ink.sum(0))
    window = (x - half_width, y - half_height, x + half_width, y + half_height)
    padded = Image.fromarray(np.pad(ink, room).astype(np.float32))
    small = padded.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=window)
    pixels = np.asarray(small)
    full = np.quantile(pixels[pixels > pixels.max() / 4], 0.75)  # thin lines are as light as thick
    return Image.fromarray((np.clip(pixels / full, 0, 1) * 255).astype(np.uint8))


def _cut(image: "PIL.Image.Image", box: int, name: str) -> Gray:
    """Find the ink at low resolution and cut it out; at a higher one if it is small."""
    factor = max(_factor(min(image.size), LARGEST), _factor(max(image.size), LONGEST))
    try:
        ink = _found(image, factor, name)
    except DataError:  # it may be too small
        side = math.isqrt(image.width * image.height)
        finer = max(_factor(side, FINEST), _factor(max(image.size), 16 * FINEST))
        if finer >= factor:
            raise
        factor, ink = finer, _found(image, finer, name)
    top, left, bottom, right = extent = _extent(ink)
    ink, longer = ink[top:bottom, left:right], max(bottom - top, right - left)
    finer = max(1, factor * longer // (4 * box))
    if longer >= 2 * box or finer >= factor:
        return ink
    room = np.array([-1, -1, 1, 1]) * (longer // 2 + 2)  # paper on all sides
    top, left, bottom, right = ((np.array(extent) + room) * factor).tolist()
    edges = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
    try:
        fine = _found(image.crop(edges), finer, name)
    except DataError:  # noise, which averages out only at the lower resolution
        return ink
    top, left, bottom, right = _extent(fine)
    return fine[top:bottom, left:right]


def _factor(pixels: int, most: int) -> int:
    return -(-pixels // most)


def _found(image: "PIL.Image.Image", factor: int, name: str) -> Gray:
    return find_ink(np.asarray(image.reduce(factor), dtype=np.float64), name=name)


def _extent(ink: Gray) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the nonzero pixels."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def find_ink(gray: Gray, *, name: str = "an image") -> Gray:
    """Return each pixel's difference in shade from the paper; 0 for paper and dirt.

    The paper is what most of the border shows. Otsu's threshold (1979) separates ink from it.

    Raises:
        DataError: nothing is drawn: the image has one color, or only noise; or it has no pixels, or
            some that are NaN or infinite.
    """
    if not gray.size or not np.isfinite(gray).all():
        raise DataError(
            f"{name} has {'NaN or infinite values' if gray.size else 'no pixels'}; expected shades "
            "of gray from 0 to 255"
        )
    far = gray - paper(gray)
    far *= 1 if (far**3).sum() >= 0 else -1  # the same for light on dark and for dark on light
    noise = 1.4826 * np.median(np.abs(far[border(gray)]))
    far = np.maximum(far, 0)
    mask = far > max(FAINT * otsu(far), NOISE * noise, LEAST / 2)
    if not mask.any() or mask[border(gray)].mean() > 0.4 or _number(mask) > MOST:
        raise _blank(name)
    parts = components(widened(mask))  # a line with gaps is one part
    sizes = np.bincount(parts[mask])
    kept = mask & (sizes[parts] >= SPECK * sizes.max())
    if sizes.max() < FEWEST or far[kept].max() < LEAST:
        raise _blank(name)
    return np.where(widened(kept) & (far > max(noise, 2.0)), far, 0)  # with their soft edges


def _number(mask: Mask) -> float:
    """Return the effective number of separate parts, the inverse Simpson index of their sizes."""
    sizes = np.bincount(components(mask)[mask])
    return mask.sum() ** 2 / (sizes**2).sum()


def _blank(name: str) -> DataError:
    return DataError(
        f"{name}: nothing is drawn: it has one color, or only noise; expected a sign, dark on "
        "light or light on dark, with a margin on all sides"
    )


def border(gray: Gray) -> Mask:
    """Return a mask of the pixels along the edges, as wide as 1/16 of the shorter side."""
    wide = max(1, min(gray.shape) // 16)
    mask = np.ones(gray.shape, dtype=bool)
    mask[wide:-wide, wide:-wide] = False
    return mask


def paper(gray: Gray) -> Gray:
    """Return the paper's shade at each pixel: a plane, as light may come from one side.

    It is fitted to the border by least absolute deviations (iteratively reweighted least squares),
    which ink there hardly affects as long as most of the border is paper.
    """
    rows, columns = np.indices(gray.shape) / max(gray.shape)
    terms = np.stack([np.ones_like(gray), rows, columns], -1)  # (H, W, 3)
    known = border(gray)
    x, y = terms[known], gray[known]
    fitted = np.full_like(y, np.median(y))
    plane = np.array([np.median(y), 0.0, 0.0])
    for _ in range(8):
        weighted = x / np.maximum(np.abs(y - fitted), 0.5)[:, None]
        plane = np.linalg.lstsq(weighted.T @ x, weighted.T @ y, rcond=None)[0]
        fitted = x @ plane
    return terms @ plane


def otsu(values: Gray) -> float:
    """Return the lowest threshold that minimizes the variance within both sides (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=256)
    middles = (edges[1:] + edges[:-1]) / 2
    below, total = np.cumsum(counts), np.cumsum(counts * middles)
    above = below[-1] - below
    means = total / np.maximum(below, 1), (total[-1] - total) / np.maximum(above, 1)
    return float(edges[1:][np.argmax(below * above * (means[0] - means[1]) ** 2)])


def components(mask: Mask) -> np.ndarray:
    """Number the 8-connected components of a mask from 0; -1 elsewhere."""
    index = np.full(np.add(mask.shape, 2), -1)
    index[1:-1, 1:-1][mask] = np.arange(mask.sum())
    here = index[1:-1, 1:-1]
    others = (index[1:-1, 2:], index[2:, 1:-1], index[2:, 2:], index[2:, :-2])
    pairs = [(here[near], other[near]) for other in others for near in [(here >= 0) & (other >= 0)]]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    parent = np.arange(mask.sum())
    while True:  # join the roots of neighbors, then shorten the paths to the roots
        joined = parent.copy()
        np.minimum.at(joined, parent[first], parent[second])
        np.minimum.at(joined, parent[second], parent[first])
        joined = joined[joined]
        if np.array_equal(joined, parent):
            break
        parent = joined
    numbers = np.full(mask.shape, -1)
    numbers[mask] = np.unique(parent, return_inverse=True)[1]
    return numbers


def widened(mask: Mask) -> Mask:
    """Dilate a mask by all eight neighbors of its pixels."""
    around = np.pad(mask, 1)
    around = around[2:] | around[1:-1] | around[:-2]
    return around[:, 2:] | around[:, 1:-1] | around[:, :-2]
