"""Texts with reference summaries."""

from typing import NamedTuple


class Summarized(NamedTuple):
    """A text and its reference summaries; training uses the first one."""

    text: str
    summaries: tuple[str, ...]
