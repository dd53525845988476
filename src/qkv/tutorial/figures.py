"""Matplotlib figures of attention and training; each title states the point."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from qkv.errors import MissingDependencyError
from qkv.explorer.kernel import in_notebook
from qkv.explorer.static import Shown

FIGURES = Path("out/tutorial")
WIDGET = "application/vnd.jupyter.widget-view+json"
Live = Callable[[], Shown]

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


@contextmanager
def figure(
    name: str,
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float],
    title: str = "",
    live: Live | None = None,
) -> Iterator[Any]:
    """Yield the axes of a figure, an array (rows, columns), and save it as a PNG at the end.

    A notebook shows it, with its titles as the alternative text; a script prints its path.

    Args:
        name: file name without suffix; the folder is `FIGURES`.
        rows: number of rows of axes.
        columns: number of columns of axes.
        size: width and height in inches.
        title: a title above all axes.
        live: makes the explorer that a running notebook shows in place of the figure.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    drawn, axes = new_figure(rows, columns, size=size)
    if title:
        drawn.suptitle(title)
    yield axes
    for one in axes.flat:
        if not one.has_data():
            one.axis("off")
    path = FIGURES / f"{name}.png"
    save_figure(drawn, path, close=True)
    if in_notebook():
        from IPython.display import display

        titles = [title, *(one.get_title() for one in axes.flat)]
        told = "Figure: " + "; ".join(dict.fromkeys(text for text in titles if text))
        data = {"image/png": path.read_bytes(), "text/plain": told}
        display(data | ({} if live is None else _widget(live())), raw=True)
    else:
        print(f"figure: {path}")


def _widget(shown: Any) -> dict[str, Any]:
    """Return what a notebook needs to show a widget; nothing for a figure."""
    bundle = shown._repr_mimebundle_()
    return {WIDGET: bundle[0][WIDGET]} if isinstance(bundle, tuple) else {}


def draw_weights(
    axes: "Axes",
    weights: ArrayLike,
    queries: Sequence[str],
    keys: Sequence[str],
    title: str,
    *,
    numbers: str | None = None,
    color_bar: bool = True,
) -> None:
    """Draw weights (queries, keys) as a heat map: white is 0, dark is 1.

    Args:
        axes: axes to draw on.
        weights: weights of one head from `record_attention`.
        queries: labels of the rows, from the top.
        keys: labels of the columns.
        title: the point of the figure.
        numbers: format of the number in each cell, such as ".2f"; by default there is none.
        color_bar: whether to show which color is which weight.
    """
    image = axes.imshow(np.asarray(weights), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if color_bar:
        axes.figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.5, 1])
    if numbers is not None:
        for (row, column), weight in np.ndenumerate(np.asarray(weights)):
            color = "white" if weight > 0.5 else "black"
            text = format(weight, numbers)
            axes.text(column, row, text, ha="center", va="center", color=color)
    axes.set_xticks(range(len(keys)), [_visible(key) for key in keys])
    axes.set_yticks(range(len(queries)), [_visible(query) for query in queries])
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)


def draw_curves(
    axes: "Axes",
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x: str,
    y: str,
    title: str,
    log: str = "",
) -> None:
    """Draw named curves (x values, y values) with a legend.

    Args:
        axes: axes to draw on.
        curves: the curves by name.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        title: the point of the figure.
        log: the axes with a logarithmic scale: "x" (base 2), "y" (base 10), or "xy".
    """
    for name, (xs, ys) in curves.items():
        axes.plot(np.asarray(xs), np.asarray(ys), label=name)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=10)
    axes.grid(alpha=0.3)
    if "x" in log:
        axes.set_xscale("log", base=2)
    if "y" in log:
        axes.set_yscale("log")
    if len(curves) > 1:
        axes.legend(fontsize=8)


def show_weights(
    name: str,
    maps: Mapping[str, tuple[ArrayLike, Sequence[str], Sequence[str]]],
    rows: int = 1,
    *,
    size: tuple[float, float],
    title: str = "",
    numbers: str | None = None,
    color_bar: bool = True,
    rotation: float = 0,
    live: Live | None = None,
) -> None:
    """Show weights as heat maps in one figure.

    Args:
        name: file name without suffix.
        maps: weights (queries, keys) with the labels of their rows and columns, by title.
        rows: number of rows of maps.
        size: width and height in inches.
        title: a title above all maps.
        numbers: format of the number in each cell; by default there is none.
        color_bar: whether to show which color is which weight.
        rotation: angle of the column labels, in degrees.
        live: makes the explorer that a running notebook shows in place of the figure.
    """
    with figure(name, rows, -(-len(maps) // rows), size=size, title=title, live=live) as axes:
        for one, (above, (weights, queries, keys)) in zip(axes.flat, maps.items(), strict=False):
            draw_weights(one, weights, queries, keys, above, numbers=numbers, color_bar=color_bar)
            one.tick_params(axis="x", rotation=rotation)


def show_curves(
    name: str,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    size: tuple[float, float] = (8, 4),
    x: str,
    y: str,
    title: str,
    log: str = "",
) -> None:
    """Show named curves (x values, y values) in one figure; the rest is as in `draw_curves`."""
    with figure(name, size=size) as axes:
        draw_curves(axes[0, 0], curves, x=x, y=y, title=title, log=log)


def smooth(values: Sequence[float], window: int) -> np.ndarray:
    """Average each value with the preceding values, at most `window` in total."""
    sums = np.cumsum(np.concatenate(([0.0], np.asarray(values, dtype=float))))
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def save_figure(figure: "Figure", path: Path, *, close: bool = False) -> None:
    """Write a figure as a PNG with 256 colors, creating its folder.

    Args:
        figure: the figure.
        path: the file.
        close: whether to close it even in a notebook, which would otherwise show it.
    """
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    path.write_bytes(with_palette(png.getvalue()))
    # A notebook's backend shows and closes open figures at the end of the cell.
    if close or "inline" not in plt.get_backend():
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
