"""A new test set for SQuAD, on Wikipedia articles; the split names the source of the passages."""

from collections.abc import Mapping

from qkv.data.questions import Question, read_squad
from qkv.data.sets import Folder, NamedSet
from qkv.data.text import find_data


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Question]:
    return read_squad(find_data("squadshifts", data_dir) / f"{split}_v1.0.json.gz")


SETS = (
    NamedSet(
        name="squadshifts",
        task="answer",
        splits=("new_wiki",),
        read=_read,
        summary="7,938 questions on Wikipedia (Miller et al. 2020); CC BY 4.0 by its data card",
    ),
)
