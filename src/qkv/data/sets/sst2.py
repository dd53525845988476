"""The Stanford Sentiment Treebank: whole sentences of film reviews, positive or negative."""

from collections.abc import Mapping

from qkv.data.labels import TextExample, read_examples
from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import TableLayout
from qkv.data.text import find_data

FILES = {"train": "train.tsv.gz", "validation": "dev.tsv.gz"}
NAMES = {"0": "negative", "1": "positive"}


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TextExample]:
    path = find_data("sst2", data_dir) / FILES[split]
    rows = read_examples(path, text=0, label=1, layout=TableLayout(header=False))
    return [TextExample(row.text, NAMES[row.label]) for row in rows]


SETS = (
    NamedSet(
        name="sst2",
        task="classify",
        splits=tuple(FILES),
        read=_read,
        summary="7,792 sentences of film reviews (Socher et al. 2013); license not stated",
    ),
)
