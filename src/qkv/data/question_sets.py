"""Named sets of questions on passages."""

import os

from qkv.data.babi import read_babi
from qkv.data.parts import check_part, hold_out
from qkv.data.qamr import read_qamr
from qkv.data.questions import Question, read_squad
from qkv.data.text import find_data
from qkv.errors import DataError

SETS = {
    "squadshifts": ("new_wiki", "reddit"),
    "xquad": ("en", "de", "es", "zh"),
    "qamr": ("train", "validation", "test"),
    "jaquad": ("train", "validation"),
    "babi": ("train", "test"),
}


def question_set(
    name: str, split: str, data_dir: str | os.PathLike[str] | None = None
) -> list[Question]:
    """One part of a named set; see `find_data`.

    "squadshifts" by where the passages are from (Miller et al. 2020); "xquad" by their language
    (Artetxe et al. 2020), for tests alone; "qamr" (Michael et al. 2018) on sentences: its training
    file is not in the data folder, so "train" and "validation" are nine and one tenth of the
    articles of its dev file; "jaquad" in Japanese (So et al. 2022); "babi" the first of its tasks
    (Weston et al. 2015).

    Raises:
        DataError: an unknown name or part, or files that are not found or broken.
    """
    check_part(name, split, SETS)
    if name == "squadshifts":
        return read_squad(find_data(name, data_dir) / f"{split}_v1.0.json.gz")
    if name == "xquad":
        return read_squad(find_data(name, data_dir) / f"xquad.{split}.json.gz")
    if name == "qamr":
        folder = find_data(name, data_dir)
        file = folder / f"filtered_{'test' if split == 'test' else 'dev'}.tsv.gz"
        questions = read_qamr(file, folder / "wiki-sentences.tsv.gz")
        if split == "test":
            return questions
        parts = hold_out(questions, [question.source for question in questions], 0.1)
        return parts[split == "validation"]
    if name == "jaquad":
        folder = find_data(name, data_dir) / ("dev" if split == "validation" else split)
        files = sorted(folder.glob("*.json*"))
        if not files:
            raise DataError(f"no .json in {folder}: expected the files of jaquad")
        return [question for file in files for question in read_squad(file)]
    return read_babi(find_data("babi_qa1", data_dir) / f"qa1_single-supporting-fact_{split}.txt.gz")
