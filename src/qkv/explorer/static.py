"""A record as a figure, for use without a browser."""

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.errors import MissingDependencyError
from qkv.explorer.record import Record
from qkv.explorer.saved import page_with
from qkv.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELED = 40  # tokens of a sequence that get a label each
SMALL = 24  # rows and columns of a head among others
PICTURES = (".png", ".svg", ".pdf")


class Shown:
    """What `explore` returns: a record, which can be saved as a page, a figure or a file.

    Args:
        record: the record.
        at: the attention module in focus, by its number in the record, and the head.
    """

    record: Record
    at: tuple[int, int]

    def figure(self) -> "Figure":
        """Return a figure of the heads, and of the weights of the one in focus."""
        return draw_record(self.record, *self.at)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page that opens offline (.html), a figure (.png, .svg, .pdf), or else a record.

        Raises:
            StorageError: the file cannot be written.
            MissingDependencyError: matplotlib is not installed.
        """
        kind = Path(path).suffix.lower()
        if kind == ".html":
            write_atomically(path, page_with(self.record))
        elif kind in PICTURES:
            write_atomically(path, _drawn(self.figure(), kind[1:]))
        else:
            self.record.save(path)


class StaticView(Shown):
    """A record that a notebook shows as a figure."""

    def __init__(self, record: Record, at: tuple[int, int]):
        self.record, self.at = record, at

    def __repr__(self) -> str:
        return f"StaticView({title_of(self.record)!r}), whose save('x.html') writes a page"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        png = base64.b64encode(_drawn(self.figure(), "png")).decode()
        return {"text/plain": repr(self), "image/png": png}


def title_of(record: Record) -> str:
    """Return model, input and output in one line."""
    task = record.header["task"]
    said = f"{task['inputs'].get('text', '')[:60]} → {task['output'][:60]}".strip(" →\n")
    return ": ".join(filter(None, (record.header["model"]["name"], said.replace("\n", " "))))


def draw_record(record: Record, attention: int = -1, head: int = 0) -> "Figure":
    """Draw the heads of all modules, and the weights of one head with the tokens.

    Args:
        record: the record.
        attention: number of the attention module in focus.
        head: number of the head in focus.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            'figures need matplotlib: pip install "qkv[tutorial]"'
        ) from error
    layers = record.header["attention"]
    several = len(layers) > 1 or layers[0]["heads"] > 1
    figure = Figure(figsize=(11, 5) if several else (6, 5), layout="constrained")
    axes: Any = figure.subplots(1, 1 + several, squeeze=False, width_ratios=[2, 3][-1 - several :])
    if several:
        _draw_heads(axes[0, 0], record)
    _draw_focus(axes[0, -1], record, attention % len(layers), head)
    figure.suptitle(title_of(record).replace("$", r"\$"), fontsize=10)
    return figure


def _draw_heads(axes: "Axes", record: Record) -> None:
    """Draw a thumbnail of each head, with one row per module."""
    layers = record.header["attention"]
    size, most = SMALL + 2, max(one["heads"] for one in layers)
    canvas = np.full((len(layers) * size, most * size), np.nan)
    for row, layer in enumerate(layers):
        for column, weights in enumerate(_weights(record, layer)):
            top, left = row * size, column * size
            canvas[top : top + SMALL, left : left + SMALL] = _square(weights.astype(np.float32))
    _draw(axes, canvas)
    names = [one["name"].replace(".blocks.", " ").replace("_attention", "") for one in layers]
    places = [i * size + SMALL / 2 for i in range(max(len(layers), most))]
    axes.set_yticks(places[: len(layers)], names, fontsize=7)
    axes.set_xticks(places[:most], [str(i) for i in range(most)], fontsize=7)
    axes.set_title("all heads: modules are rows", fontsize=9)


def _draw_focus(axes: "Axes", record: Record, attention: int, head: int) -> None:
    """Draw the weights of one head, with the labels of queries and keys if they are few."""
    layer = record.header["attention"][attention]
    _draw(axes, _weights(record, layer)[head].astype(np.float32))
    axes.set_title(f"{layer['name']}, head {head}: queries are rows", fontsize=9)
    for side in ("queries", "keys"):
        tokens = record.header["sequences"][layer[side]]
        if len(tokens) <= LABELED and not layer["long"]:
            labels = [one["text"].replace("$", r"\$").strip() or "␣" for one in tokens]
            if side == "keys":
                axes.set_xticks(range(len(tokens)), labels, fontsize=8, rotation=90)
            else:
                axes.set_yticks(range(len(tokens)), labels, fontsize=8)


def _draw(axes: "Axes", weights: np.ndarray) -> None:
    from matplotlib.colors import PowerNorm

    norm = PowerNorm(0.5, 0, 1)  # the square root spreads small weights, which are most of them
    axes.imshow(weights, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
    axes.tick_params(length=0)


def _weights(record: Record, layer: dict[str, Any]) -> np.ndarray:
    """Return the weights of a module, (heads, queries, keys); thumbnails if the input is long."""
    names = layer["tensors"]
    return record.tensors[names.get("weights", names.get("thumbnails"))]


def _square(weights: np.ndarray) -> np.ndarray:
    """Resize weights to `SMALL` rows and columns: repeated, or the maximum of a rectangle."""
    for axis in (0, 1):
        n, places = weights.shape[axis], np.arange(SMALL)
        if n <= SMALL:
            weights = weights.take(places * n // SMALL, axis=axis)
        else:
            weights = np.maximum.reduceat(weights, places * n // SMALL, axis=axis)
    return weights


def _drawn(figure: "Figure", kind: str) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, dpi=100)
    return file.getvalue()
