"""First names, each once, in lower case."""

from collections.abc import Mapping

from qkv.data.parts import USUAL_SHARES, split_by_hash
from qkv.data.sets import Folder, NamedSet
from qkv.data.text import find_data, read_lines


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[str]:
    names = list(dict.fromkeys(read_lines(find_data("names", data_dir) / "names.txt.gz")))
    splits = split_by_hash(names, USUAL_SHARES)
    return [name for name, its_split in zip(names, splits, strict=True) if its_split == split]


SETS = (
    NamedSet(
        name="names",
        task="generate",
        splits=tuple(USUAL_SHARES),
        read=_read,
        summary="29,494 first names, split 80:10:10 by hash (Karpathy's makemore); MIT",
    ),
)
