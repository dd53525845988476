"""News of four topics: the title and the description of an article.

Only the test split; the published training split is not read.
"""

from collections.abc import Mapping

from qkv.data.labels import TextExample
from qkv.data.sets import Folder, NamedSet
from qkv.data.tables import TableLayout, read_table
from qkv.data.text import find_data

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
COLUMNS = {"label": 0, "title": 1, "text": 2}
LAYOUT = TableLayout(kind="csv", header=False)


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[TextExample]:
    rows = read_table(find_data("ag_news", data_dir) / f"{split}.csv.gz", COLUMNS, layout=LAYOUT)
    return [
        TextExample(f"{row['title']} {row['text']}", CLASSES[int(row["label"]) - 1])
        for row in (one.fields for one in rows)
    ]


SETS = (
    NamedSet(
        name="ag_news",
        task="classify",
        splits=("test",),
        read=_read,
        summary="7,600 news texts, 4 topics (Zhang et al. 2015); non-commercial",
    ),
)
