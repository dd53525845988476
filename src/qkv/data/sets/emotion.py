"""English tweets with one of six emotions."""

from collections.abc import Mapping

from qkv.data.labels import PairExample, TextExample, read_examples
from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import TableLayout
from qkv.data.text import find_data

FILES = {"train": "train.txt.gz", "validation": "val.txt.gz", "test": "test.txt.gz"}
LAYOUT = TableLayout(kind="csv", separator=";", quoting=False)


def _read(
    split: str, data_dir: Folder, columns: Mapping[str, str]
) -> list[TextExample] | list[PairExample]:
    path = find_data("emotion", data_dir) / FILES[split]
    return read_examples(path, label="label_name", layout=LAYOUT)


SETS = (
    NamedSet(
        name="emotion",
        task="classify",
        splits=tuple(FILES),
        read=_read,
        summary="20,000 tweets, 6 emotions (Saravia et al. 2018); for education and research",
    ),
)
