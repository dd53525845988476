"""Plays of Shakespeare as one text: 90 % of the characters to train, as in nanoGPT."""

from collections.abc import Mapping

from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import read_text
from qkv.data.text import find_data


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[str]:
    text = read_text(find_data("tinyshakespeare", data_dir) / "input.txt.gz")
    end = int(0.9 * len(text))
    return [text[:end] if split == "train" else text[end:]]


SETS = (
    NamedSet(
        name="tinyshakespeare",
        task="generate",
        splits=("train", "validation"),
        read=_read,
        summary="1,115,394 characters of Shakespeare's plays (Karpathy 2015); public domain",
    ),
)
