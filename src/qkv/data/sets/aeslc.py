"""E-mails with their subjects: real mail of real people, not to be quoted."""

import os
import re
from collections.abc import Mapping

from qkv.data.archives import read_members
from qkv.data.sets import Folder, NamedSet
from qkv.data.summaries import Summarized
from qkv.data.text import decode, find_data
from qkv.errors import DataError

FILES = {"train": "train.tar.gz", "validation": "dev.tar.gz", "test": "test.tar.gz"}
MARK = re.compile(r"^@(subject|ann\d+)[ \t\r]*$", re.MULTILINE)


def read_aeslc(path: str | os.PathLike[str]) -> list[Summarized]:
    """Read a tar of e-mails: body, a line "@subject", the subject, "@ann0", another one, ...

    Errors name the file in the tar, but quote nothing of its content.

    Raises:
        DataError: the tar is broken, or a file has another format.
    """
    examples = []
    for member, content in read_members(path):
        where = f"{member} in {path}"
        text, *marked = MARK.split(decode(content, where))
        names, summaries = marked[::2], tuple(part.strip() for part in marked[1::2])
        if names[:1] != ["subject"] or not text.strip() or not all(summaries):
            raise DataError(
                f"{where} has the marks {names} and an empty part among {1 + len(summaries)}, or "
                "no subject; expected a body, a line '@subject', a subject, and more after '@ann0' "
                "and so on"
            )
        examples.append(Summarized(text.strip(), summaries))
    return examples


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Summarized]:
    return read_aeslc(find_data("aeslc", data_dir) / FILES[split])


SETS = (
    NamedSet(
        name="aeslc",
        task="summarize",
        splits=tuple(FILES),
        read=_read,
        summary="18,302 e-mails and subjects (Zhang and Tetreault 2019); CC BY-NC-SA 4.0",
    ),
)
