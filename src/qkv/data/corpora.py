"""Named sets of plain text, for models that write more of it."""

import os

from qkv.data.parts import USUAL_SHARES, check_part, split_by_hash
from qkv.data.text import decode, find_data, read_content, read_lines
from qkv.errors import DataError

SETS = {
    "tinyshakespeare": ("train", "validation"),
    "names": ("train", "validation", "test"),
}


def text_set(name: str, split: str, data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The texts of one part of a named set; see `find_data`.

    "tinyshakespeare", one text: the first 90 % of its characters to train, the rest to validate, as
    nanoGPT splits it. "names", 29,494 first names, each once, in lower case; their parts are ours,
    80 %, 10 % and 10 %.

    Raises:
        DataError: an unknown name or part, or files that are not found or broken.
    """
    check_part(name, split, SETS)
    folder = find_data(name, data_dir)
    if name == "names":
        names = list(dict.fromkeys(read_lines(folder / "names.txt.gz")))
        parts = split_by_hash(names, USUAL_SHARES)
        return [first for first, part in zip(names, parts, strict=True) if part == split]
    text = _read(folder / "input.txt.gz")
    end = int(0.9 * len(text))
    return [text[:end] if split == "train" else text[end:]]


def _read(path: os.PathLike[str]) -> str:
    text = decode(read_content(path), path)
    if not text.strip():
        raise DataError(f"{path} is empty: expected a text")
    return text
