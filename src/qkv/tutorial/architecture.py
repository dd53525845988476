"""Draw the Transformer as in its paper, with the recorded shape in each box."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qkv.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]
Point = tuple[float, float]

# Text and color of a box, by the module's name or its last part.
_PARTS = {
    "decoder.blocks.0.self_attention": ("Masked self-attention", "#fbe0c0"),
    "source_embedding": ("Embedding", "#f8d9dc"),
    "target_embedding": ("Embedding", "#f8d9dc"),
    "positions": ("Add positions", "#ececec"),
    "self_attention": ("Self-attention", "#fbe0c0"),
    "cross_attention": ("Cross-attention", "#fbe0c0"),
    "feed_forward": ("Feed-forward", "#c9e4f5"),
    "norm": ("Norm", "#f4f3c2"),
    "head": ("Output layer", "#dcd9ee"),
}
_BLOCK = re.compile(r"(?:encoder|decoder)\.blocks\.(\d+)\.(\w+?)(_residual)?(\.norm)?")
_ALONE = (
    "source_embedding",
    "target_embedding",
    "positions",
    "encoder.norm",
    "decoder.norm",
    "head",
)

# In the units of the axes.
WIDTH, HEIGHT = 3.2, 0.8  # size of a box
CLOSE, APART = 1.0, 1.5  # between boxes within a sublayer, and between sublayers
ENTRY = 0.35  # distance below a sublayer at which its residual branches off
ASIDE = 0.4  # distance of a residual from the boxes
INK = "#333333"


@dataclass(frozen=True)
class _Box:
    label: str
    color: str
    shape: tuple[int, ...]
    y: float  # lower edge
    sublayer: str | None = None  # None outside of the blocks


def draw_transformer(axes: "Axes", shapes: Sequence[Record]) -> None:
    """Draw figure 1 of Vaswani et al. 2017 from a run of `qkv.models.transformer.Transformer`.

    Boxes follow the order of the calls, so pre-norm models are drawn correctly. One block of each
    stack is drawn, with the number of repetitions.

    Args:
        axes: axes to draw on.
        shapes: result of `record_shapes` for the whole model.

    Raises:
        ConfigError: the record does not cover all modules of an encoder-decoder model.
    """
    names = [record["module"] for record in shapes]
    missing = {"encoder", "decoder", "target_embedding"} - set(names)
    if missing:
        raise ConfigError(
            f"the {len(names)} recorded modules lack {', '.join(sorted(missing))}; expected "
            "all modules of an encoder-decoder Transformer"
        )
    # The last call, as source and target may share an embedding.
    start = len(names) - 1 - names[::-1].index("target_embedding")
    encoder, decoder = _column(shapes[:start]), _column(shapes[start:])
    for part, boxes, x, side in (("encoder", encoder, 2.5, -1), ("decoder", decoder, 8.0, 1)):
        blocks = {m[1] for name in names if name.startswith(part) and (m := _BLOCK.match(name))}
        _draw_frame(axes, boxes, x, side, f"{part}\n{len(blocks)} ×")
        _draw_column(axes, boxes, x, side)
        axes.text(x, -0.65, f"tokens {boxes[0].shape[:-1]}", ha="center", va="top", color=INK)
    _draw_memory(axes, encoder[-1], next(b for b in decoder if b.label == "Cross-attention"))
    top = decoder[-1].y + HEIGHT
    _draw_arrow(axes, (8.0, top), (8.0, top + 0.5))
    axes.text(8.0, top + 0.6, "logits", ha="center", color=INK)
    axes.set(xlim=(-1.2, 11.7), ylim=(-1.3, top + 1.1))
    axes.axis("off")


def _column(shapes: Sequence[Record]) -> list[_Box]:
    """Return the boxes from the bottom up; a post-norm shares the box of the residual sum."""
    boxes = list[_Box]()

    def put(part: tuple[str, str], shape: tuple[int, ...], sublayer: str | None) -> None:
        gap = CLOSE if boxes and boxes[-1].sublayer == sublayer else APART
        boxes.append(_Box(*part, shape, boxes[-1].y + gap if boxes else 0.0, sublayer))

    for name, shape in ((record["module"], record["output"]) for record in shapes):
        block = _BLOCK.fullmatch(name)
        part = _PARTS.get(name) or _PARTS.get(name.rpartition(".")[2])
        if part and name in _ALONE:
            put(part, shape, None)
        elif part and block and block[1] == "0":
            put(part, shape, block[2])
        elif block and block[1] == "0" and block[3] and not block[4]:
            label, color = _PARTS["norm"]
            closes = boxes[-1].label == label
            if closes:
                boxes.pop()
            put(("Add & norm" if closes else "Add", color), shape, block[2])
    return boxes


def _draw_column(axes: "Axes", boxes: Sequence[_Box], x: float, side: int) -> None:
    """Draw boxes, the arrows between them, and the residual of each sublayer."""
    from matplotlib.patches import FancyBboxPatch

    tops = [-0.55, *(box.y + HEIGHT for box in boxes)]
    for top, box in zip(tops, boxes, strict=False):
        _draw_arrow(axes, (x, top), (x, box.y))
    for box in boxes:
        axes.add_patch(
            FancyBboxPatch(
                (x - WIDTH / 2, box.y),
                WIDTH,
                HEIGHT,
                boxstyle="round,pad=0,rounding_size=0.12",
                facecolor=box.color,
                edgecolor=INK,
                linewidth=1,
            )
        )
        middle = box.y + HEIGHT / 2
        axes.text(x, middle + 0.17, box.label, ha="center", va="center", fontsize=10)
        axes.text(x, middle - 0.2, str(box.shape), ha="center", va="center", fontsize=8, color=INK)
        if box.label.startswith("Add") and box.sublayer:
            below = min(other.y for other in boxes if other.sublayer == box.sublayer) - ENTRY
            beside = x + side * (WIDTH / 2 + ASIDE)
            _draw_arrow(
                axes, (x, below), (beside, below), (beside, middle), (x + side * WIDTH / 2, middle)
            )


def _draw_frame(axes: "Axes", boxes: Sequence[_Box], x: float, side: int, text: str) -> None:
    """Draw the frame around the repeated block."""
    from matplotlib.patches import FancyBboxPatch

    inside = [box.y for box in boxes if box.sublayer]
    half = WIDTH / 2 + ASIDE + 0.25
    bottom, top = min(inside) - ENTRY - 0.15, max(inside) + HEIGHT + 0.2
    axes.add_patch(
        FancyBboxPatch(
            (x - half, bottom),
            2 * half,
            top - bottom,
            boxstyle="round,pad=0,rounding_size=0.25",
            facecolor="#fafafa",
            edgecolor="#999999",
        )
    )
    beside = x + side * (half + 0.15)
    ha = "left" if side > 0 else "right"
    axes.text(beside, (bottom + top) / 2, text, ha=ha, va="center", color=INK)


def _draw_memory(axes: "Axes", source: _Box, reader: _Box) -> None:
    """Draw the arrow from the encoder's output to cross-attention."""
    top, into = source.y + HEIGHT + 0.5, reader.y + HEIGHT / 2
    start = (2.5, source.y + HEIGHT)
    _draw_arrow(axes, start, (2.5, top), (5.25, top), (5.25, into), (8.0 - WIDTH / 2, into))
    axes.text(3.9, top + 0.12, f"memory {source.shape}", ha="center", fontsize=8, color=INK)


def _draw_arrow(axes: "Axes", *points: Point) -> None:
    """Draw a line through points, with an arrowhead at the end."""
    xs, ys = zip(*points, strict=True)
    axes.plot(xs[:-1], ys[:-1], color=INK, linewidth=1, solid_capstyle="round")
    axes.annotate(
        "",
        xy=points[-1],
        xytext=points[-2],
        arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1, "shrinkA": 0, "shrinkB": 0},
    )
