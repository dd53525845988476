"""Figures of attention and training, by matplotlib; each title states the point."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from qkv.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float]
) -> tuple["Figure", Any]:
    """Return a figure and its array of axes, (rows, columns); size is in inches.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise MissingDependencyError(
            'figures need matplotlib: pip install "qkv[tutorial]"'
        ) from error
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    return figure, axes


def draw_weights(
    axes: "Axes", weights: ArrayLike, queries: Sequence[str], keys: Sequence[str], title: str
) -> None:
    """Draw weights (queries, keys) as a heat map: white is 0, dark is 1.

    Args:
        axes: axes to draw on.
        weights: weights of one head from `record_attention`.
        queries: labels of the rows, from the top.
        keys: labels of the columns.
        title: the point of the figure.
    """
    axes.imshow(np.asarray(weights), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(keys)), [_visible(key) for key in keys])
    axes.set_yticks(range(len(queries)), [_visible(query) for query in queries])
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)


def draw_curves(
    axes: "Axes", curves: Mapping[str, tuple[ArrayLike, ArrayLike]], *, x: str, y: str, title: str
) -> None:
    """Draw named curves (x values, y values) with a legend."""
    for name, (xs, ys) in curves.items():
        axes.plot(np.asarray(xs), np.asarray(ys), label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=8)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Average each value with the preceding values, at most `window` in total."""
    sums = np.cumsum(np.concatenate(([0.0], np.asarray(values, dtype=float))))
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG with 256 colors, creating its folder; a notebook also shows it."""
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    path.write_bytes(with_palette(png.getvalue()))
    # A notebook's backend shows and closes open figures at the end of the cell.
    if "inline" not in plt.get_backend():
        plt.close(figure)


def with_palette(png: bytes) -> bytes:
    """Return a PNG on white with at most 256 colors, about a third of the size.

    A PNG with a palette is returned unchanged.
    """
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        if image.mode == "P":
            return png
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
    small = io.BytesIO()
    # The most frequent colors, without dithering, which compresses badly.
    palette = opaque.convert("RGB").quantize(
        256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def _visible(token: str) -> str:
    """Replace spaces with a visible mark."""
    return token.replace(" ", "␣").replace("\u00a0", "␣").replace("\u202f", "␣")
