"""Exercises whose answers are checked, and whose mistakes are named.

In a terminal: `qkv exercise list`. In a notebook:

    from qkv.tutorial.exercises import check

    check("2.2", my_attention)

Nothing here imports torch until `check` is asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qkv.tutorial.exercises.checker import check as check


def __getattr__(name: str) -> Any:
    if name != "check":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers check")
    from qkv.tutorial.exercises.checker import check

    return check
