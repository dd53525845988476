"""Named sets of questions on passages."""

import os

from qkv.data.parts import check_part, hold_out_groups
from qkv.data.qamr import read_qamr
from qkv.data.questions import Question, read_squad
from qkv.data.text import find_data

SETS = {
    "squadshifts": ("new_wiki",),
    "xquad": ("en", "de", "es", "zh"),
    "qamr": ("train", "validation", "test"),
}


def question_set(
    name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> list[Question]:
    """One part of a named set; see `find_data`.

    "squadshifts" by where the passages are from (Miller et al. 2020); "xquad" by their language
    (Artetxe et al. 2020), for tests alone; "qamr" (Michael et al. 2018) on sentences: its training
    file is not in the data folder, so "train" and "validation" are nine and one tenth of the
    articles of its dev file.

    Raises:
        DataError: an unknown name or part, or files that are not found or broken.
    """
    check_part(name, split, SETS)
    if name == "squadshifts":
        return read_squad(find_data(name, data_dir) / f"{split}_v1.0.json.gz")
    if name == "xquad":
        return read_squad(find_data(name, data_dir) / f"xquad.{split}.json.gz")
    folder = find_data(name, data_dir)
    file = folder / f"filtered_{'test' if split == 'test' else 'dev'}.tsv.gz"
    questions = read_qamr(file, folder / "wiki-sentences.tsv.gz")
    if split == "test":
        return questions
    parts = hold_out_groups(questions, [question.source for question in questions], 0.1)
    return parts[split == "validation"]
