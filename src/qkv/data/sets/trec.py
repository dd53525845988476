"""Questions by the kind of their answers."""

from collections.abc import Mapping

from qkv.data.labels import TextExample
from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import read_text
from qkv.data.text import find_data

FILES = {"train": "TREC.train.gz", "test": "TREC.test.gz"}


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TextExample]:
    """Read lines such as "NUM:dist How far is it?"; the class is the first part, "NUM"."""
    path = find_data("trec", data_dir) / FILES[split]
    lines = read_text(path, "latin-1").removesuffix("\n").split("\n")
    rows = [line.split(" ", 1) for line in lines]
    return [TextExample(text, label.split(":")[0]) for label, text in rows]


SETS = (
    NamedSet(
        name="trec",
        task="classify",
        splits=tuple(FILES),
        read=_read,
        summary="5,952 questions, 6 kinds of answers (Li and Roth 2002); license not stated",
    ),
)
