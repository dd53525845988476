"""Everyday dialogues with summaries; those of the test split have three each."""

import json
import os
import re
from collections.abc import Mapping

from qkv.data.sets import Folder, NamedSet
from qkv.data.summaries import Summarized
from qkv.data.text import find_data, read_lines
from qkv.errors import DataError
from qkv.json_fields import shown

FILES = {"validation": "dialogsum.dev.jsonl.gz", "test": "dialogsum.test.jsonl.gz"}
SUMMARY = re.compile(r"summary\d*")


def read_dialogsum(path: str | os.PathLike[str]) -> list[Summarized]:
    """Read JSON lines with a "dialogue" and a "summary", or "summary1", "summary2" and so on.

    Raises:
        DataError: the file cannot be read, or a line has another format.
    """
    examples = []
    for line, content in enumerate(read_lines(path), start=1):
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line}: not JSON: {error}") from error
        fields = row if isinstance(row, dict) else {}
        summaries = [fields[name] for name in sorted(fields) if SUMMARY.fullmatch(name)]
        texts = [fields.get("dialogue"), *summaries]
        if not summaries or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(
                f"{path}, line {line} has the fields {shown(sorted(fields))}; expected a dialogue "
                "and one summary or several (summary1, summary2), none of them empty"
            )
        examples.append(Summarized(texts[0].strip(), tuple(text.strip() for text in summaries)))
    return examples


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[Summarized]:
    return read_dialogsum(find_data("dialogsum", data_dir) / FILES[split])


SETS = (
    NamedSet(
        name="dialogsum",
        task="summarize",
        splits=tuple(FILES),
        read=_read,
        summary="1,000 dialogues with one to three summaries (Chen et al. 2021); CC BY-NC-SA 4.0",
    ),
)
