"""The functions with which sections show their results, in one import."""

from qkv.tutorial.figures import (
    draw_curves,
    draw_weights,
    figure,
    show_curves,
    show_weights,
    smooth,
)
from qkv.tutorial.source import show_kernel, show_source
from qkv.tutorial.tables import show_table

__all__ = [
    "draw_curves",
    "draw_weights",
    "figure",
    "show_curves",
    "show_kernel",
    "show_source",
    "show_table",
    "show_weights",
    "smooth",
]
