"""Synthetic digits: shapes written for this project, each drawn differently every time.

shapes.txt has at least 15 shapes of each digit. A line is a digit, its split, and strokes separated
by ";". A stroke is a smooth curve through points "x,y", in hundredths of width and height from the
upper left; "!" marks a corner. To draw a shape, its points are moved, stretched, slanted and
rotated, then traced with a pen, a nib or a marker, on paper of any shade.
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from qkv.data.image_sets import ImageExample
from qkv.data.images import pillow_modules
from qkv.data.sets import Folder, NamedSet

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

SHAPES = Path(__file__).with_name("drawn_digits") / "shapes.txt"
COUNTS = {"train": 6_000, "validation": 1_000}
LARGE = 120  # pixels of the longer side of a digit while it is drawn
Stroke = Float[np.ndarray, "points 2"]  # x and y
Shape = list[list[Stroke]]  # strokes, each of one smooth piece or more
Generator = np.random.Generator


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[ImageExample]:
    """Return the drawings of a split; "validation" and "train" share no shapes."""
    shapes = read_shapes(split)
    return [
        ImageExample(
            f"drawing {i} of {split}",
            str(i % 10),
            partial(_draw, shapes[i % 10], [list(COUNTS).index(split), i]),
        )
        for i in range(COUNTS[split])
    ]


@lru_cache
def read_shapes(split: str) -> dict[int, list[Shape]]:
    """Return the shapes of each digit, in fractions of its width and its height."""
    shapes: dict[int, list[Shape]] = {digit: [] for digit in range(10)}
    for line in SHAPES.read_text(encoding="utf-8").splitlines():
        digit, of, strokes = line.split(maxsplit=2)
        if of == split:
            shapes[int(digit)].append([_pieces(stroke) for stroke in strokes.split(" ; ")])
    return shapes


def _pieces(stroke: str) -> list[Stroke]:
    """Return the smooth pieces of a stroke; they end at corners."""
    pieces = list[list[list[float]]]([[]])
    for word in stroke.split():
        point = [int(number) / 100 for number in word.rstrip("!").split(",")]
        pieces[-1].append(point)
        if word.endswith("!"):
            pieces.append([point])
    return [np.array(piece) for piece in pieces]


def _draw(shapes: list[Shape], seed: list[int]) -> "PIL.Image.Image":
    """Draw one of the shapes, in grayscale.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    pillow = pillow_modules()
    rng = np.random.default_rng(seed)
    strokes = move(shapes[rng.integers(len(shapes))], rng)
    mask = follow(strokes, rng)
    height = int(7 * 8 ** (rng.random() ** 1.5))  # 7 to 56 pixels, small sizes more often
    size = max(2, round(height * mask.width / mask.height)), height
    mask = mask.resize(size, pillow.Image.Resampling.BOX)
    room = rng.uniform(1.06, 2.0, 2) * size + 4
    image = pillow.Image.new("L", (int(room[0]), int(room[1])))
    left, top = (int(rng.integers(1, most)) for most in np.subtract(image.size, size))
    image.paste(mask, (left, top))
    return _print(np.asarray(image) / 255, rng)


def move(shape: Shape, rng: Generator) -> list[Stroke]:
    """Return the strokes of a shape, changed at random, as lines of many points."""
    jitter = rng.choice([0.008, 0.02, 0.035])
    aspect = np.exp(rng.uniform(np.log(0.4), np.log(1.0)))
    bend, slant, turn = rng.normal(0, 0.2), rng.normal(0, 0.16), rng.normal(0, 0.1)
    wobble = rng.choice([0, 0, 0.006, 0.012])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = matrix @ np.array([[aspect, -slant], [0, 1]])
    fineness = int(rng.choice([2, 4, 12, 12]))
    waves = rng.normal(0, 0.025, (2, 2)), rng.uniform(0, 6.3, (2, 2))
    strokes = list[Stroke]()
    for stroke in shape:
        shifted = rng.normal(0, jitter / 2, 2)
        corner = np.zeros(2)
        pieces = list[Stroke]()
        for i, piece in enumerate(stroke):
            moves = rng.normal(0, jitter, piece.shape)
            moves[0] = corner if i else moves[0]  # pieces stay together
            corner = moves[-1]
            points = curve(piece + moves, fineness) + shifted
            pieces.append(points[1:] if i else points)
        line = np.concatenate(pieces)
        line = line + sum(waves[0][k] * np.sin(4 * line[:, [1 - k]] + waves[1][k]) for k in (0, 1))
        line[:, 1] += bend * line[:, 1] * (1 - line[:, 1])  # the waist goes down or up
        line = (line + rng.normal(0, wobble, line.shape)) @ matrix.T
        strokes.append(line)
    return strokes


def curve(points: Stroke, fineness: int) -> Stroke:
    """Return a smooth line through points (Catmull and Rom 1974), `fineness` pieces for each."""
    if len(points) < 3:
        t = np.linspace(0, 1, fineness + 1)[:, None]
        return points[0] + t * (points[-1] - points[0])
    ends = 2 * points[0] - points[1], 2 * points[-1] - points[-2]
    p = np.concatenate([ends[:1], points, ends[1:]])
    t = np.arange(fineness)[:, None, None] / fineness
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    cubic = b + t * (c - a) / 2
    cubic = cubic + t**2 * (a - 2.5 * b + 2 * c - d / 2) + t**3 * (1.5 * (b - c) + (d - a) / 2)
    return np.concatenate([cubic.transpose(1, 0, 2).reshape(-1, 2), points[-1:]])


def follow(strokes: list[Stroke], rng: Generator) -> "PIL.Image.Image":
    """Trace the strokes with a pen, and return the drawing, light on black and cut out."""
    from PIL import Image, ImageDraw

    every = np.concatenate(strokes)
    scale = LARGE / np.ptp(every, 0).max()
    low = every.min(0) - 0.4 * np.ptp(every, 0).max()
    strokes = [(stroke - low) * scale for stroke in strokes]
    pen = _pen(rng)
    if rng.random() < 0.3:
        strokes += _serifs(strokes, rng)
    side = int(LARGE * 1.8)
    image = Image.new("L", (side, side))
    drawing = ImageDraw.Draw(image)
    for line in strokes:
        steps = np.diff(line, axis=0)
        at = np.linspace(0, 1, len(steps))
        widths = pen(np.arctan2(steps[:, 1], steps[:, 0]), at) * LARGE
        for (x, y), (to_x, to_y), width in zip(line[:-1], line[1:], widths, strict=True):
            drawing.line((x, y, to_x, to_y), fill=255, width=max(1, round(width)))
            r = width / 2
            for u, v in ((x, y), (to_x, to_y)):
                drawing.ellipse((u - r, v - r, u + r, v + r), fill=255)
    return image.crop(image.getbbox())


def _pen(rng: Generator) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return a function from the direction and the place in a stroke to the line width."""
    width = np.exp(rng.uniform(np.log(0.02), np.log(0.21)))
    kind = rng.choice(["pen", "nib", "print", "brush"], p=[0.5, 0.15, 0.25, 0.1])
    thin = width * rng.uniform(0.2, 0.9)
    angle = rng.uniform(-0.9, 0.9)
    heavy = width * rng.uniform(1, 1.7)
    if kind == "nib":
        return lambda direction, at: thin + (heavy - thin) * np.abs(np.sin(direction - angle))
    if kind == "print":  # upright lines are heavier
        return lambda direction, at: thin + (heavy - thin) * np.sin(direction) ** 2
    if kind == "brush":
        return lambda direction, at: thin + (heavy - thin) * np.sin(np.pi * (0.15 + 0.7 * at))
    return lambda direction, at: np.full(len(at), width)


def _serifs(strokes: list[Stroke], rng: Generator) -> list[Stroke]:
    """Return short lines across the ends of some strokes."""
    lines = list[Stroke]()
    for line in strokes:
        for end, before in ((line[0], line[1]), (line[-1], line[-2])):
            if rng.random() < 0.6:
                upright = abs(end[1] - before[1]) > abs(end[0] - before[0])
                across = np.array([1.0, 0.0] if upright else [0.0, 1.0])
                sides = rng.uniform(0.02, 0.1, 2) * LARGE
                lines.append(np.stack([end - sides[0] * across, end + sides[1] * across]))
    return lines


def _print(ink: Float[np.ndarray, "H W"], rng: Generator) -> "PIL.Image.Image":
    """Print ink on paper, both of any shade; blur some drawings or add noise."""
    from PIL import Image, ImageFilter

    paper, pen = (255, 0) if rng.random() < 0.5 else (rng.uniform(175, 255), rng.uniform(0, 95))
    pixels = paper + (pen - paper) * ink
    if rng.random() < 0.25 and len(ink) > 20:
        pixels = pixels + rng.normal(0, rng.uniform(2, 12), ink.shape)
    pixels = pixels if rng.random() < 0.5 else 255 - pixels
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.4 + 0.015 * image.height)))
    return image


SETS = (
    NamedSet(
        name="drawn_digits",
        task="recognize",
        splits=("train", "validation"),
        read=_read,
        summary="7,000 digits, drawn by a program from 186 shapes; ships with qkv, Apache-2.0",
    ),
)
