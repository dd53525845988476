"""Test digits as people bring them: rendered in 40 fonts, dark or light, or drawn with a mouse.

The fonts are listed in fonts.json, with the place of each image in fonts.png; they come with Debian
under licenses for free use (tools/render_digits.py). mouse.json has the paths of a pointer.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.data.image_sets import ImageExample
from qkv.data.images import from_array, pillow_modules, read_image
from qkv.data.sets import Folder, NamedSet

if TYPE_CHECKING:  # Pillow is optional
    import PIL.Image

FOLDER = Path(__file__).with_name("written_digits")
FINER = 4  # lines are drawn at this multiple of the size, then reduced


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[ImageExample]:
    """Read the split "dark" or "light", each of 100 rendered digits, or "mouse" of 20.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    if split == "mouse":
        drawn = json.loads((FOLDER / "mouse.json").read_text(encoding="utf-8"))
        return [
            ImageExample(f"digit {i} of the mouse", str(one["digit"]), partial(draw, one))
            for i, one in enumerate(drawn)
        ]
    rows = json.loads((FOLDER / "fonts.json").read_text(encoding="utf-8"))
    sheet = np.asarray(read_image(FOLDER / "fonts.png"))
    return [
        ImageExample(
            f"digit {i} of {row['font']}", str(row["digit"]), partial(_cut, sheet, row["box"])
        )
        for i, row in enumerate(rows)
        if row["split"] == split
    ]


def _cut(sheet: np.ndarray, box: tuple[int, int, int, int]) -> "PIL.Image.Image":
    left, top, right, bottom = box
    return from_array(sheet[top:bottom, left:right].copy())


def draw(digit: Mapping[str, Any]) -> "PIL.Image.Image":
    """Draw the strokes of a digit in black on white, with round ends and joints.

    Args:
        digit: width and height of the canvas, stroke_width, and strokes, each a list of points
            (x, y), in pixels.

    Raises:
        MissingDependencyError: Pillow is not installed.
    """
    pillow = pillow_modules()
    size = digit["width"], digit["height"]
    image = pillow.Image.new("L", (size[0] * FINER, size[1] * FINER), 255)
    pen, radius = pillow.ImageDraw.Draw(image), digit["stroke_width"] * FINER / 2
    for stroke in digit["strokes"]:
        points = [(x * FINER, y * FINER) for x, y in stroke]
        pen.line(points, fill=0, width=round(2 * radius))
        for x, y in points:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)
    return image.resize(size, pillow.Image.Resampling.BOX)


SETS = (
    NamedSet(
        name="written_digits",
        task="recognize",
        splits=("dark", "light", "mouse"),
        read=_read,
        summary="220 digits in 40 fonts, or drawn with a mouse; ships with qkv, Apache-2.0",
    ),
)
