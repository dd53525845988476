"""Questions of SQuAD in several languages, for tests; the split is the language."""

from collections.abc import Mapping

from qkv.data.questions import Question, read_squad
from qkv.data.sets import Folder, NamedSet
from qkv.data.text import find_data


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Question]:
    return read_squad(find_data("xquad", data_dir) / f"xquad.{split}.json.gz")


SETS = (
    NamedSet(
        name="xquad",
        task="answer",
        splits=("en", "de", "es", "zh"),
        read=_read,
        summary="1,190 questions in 4 languages (Artetxe et al. 2020); CC BY-SA 4.0",
    ),
)
