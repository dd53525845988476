"""Sentences of Tatoeba, English and German, from short to long.

The set has no published splits. Here sentences that are linked by a translation stay together, and
case, punctuation and short forms such as "don't" make no difference: no sentence of the test split
is in the training split, in either language.
"""

import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from qkv.data.parts import split_by_hash
from qkv.data.sets import Folder, NamedSet
from qkv.data.text import check_size, choose_languages, decode, find_data
from qkv.errors import DataError

Pairs = list[tuple[str, str]]

SHARES = {"train": 0.98, "validation": 0.01, "test": 0.01}
SHORT_FORMS = {"n't": " not", "'m": " am", "'re": " are", "'ll": " will", "'ve": " have"}


def tatoeba(data_dir: Folder = None) -> dict[str, Pairs]:
    """Read the pairs of an English sentence and its German translation, by split.

    Raises:
        DataError: the file is missing or broken.
    """
    path = find_data("tatoeba_deu_eng", data_dir) / "deu-eng.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(path, archive.getinfo("deu.txt").file_size)
            content = archive.read("deu.txt")
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read deu.txt in {path}: {error} (is it truncated?)") from error
    rows = [line.split("\t") for line in decode(content, path).rstrip("\n").split("\n")]
    for line, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise DataError(f"{path}, deu.txt, line {line}, has {len(row)} fields, expected 2")
    english, german = [row[0] for row in rows], [row[1].removesuffix("\r") for row in rows]
    # The languages are kept apart: the German "die" is not the English "die".
    names = [f"en {text}" for text in plain(english)], [f"de {text}" for text in plain(german)]
    splits: dict[str, Pairs] = {split: [] for split in SHARES}
    groups = split_by_hash(linked(list(zip(*names, strict=True))), SHARES)
    for source, target, split in zip(english, german, groups, strict=True):
        splits[split].append((source, target))
    return splits


def plain(sentences: Sequence[str]) -> list[str]:
    """Remove case, punctuation and short forms from sentences, to detect near copies."""
    plainer = []
    for sentence in sentences:
        text = sentence.lower().replace("’", "'")
        for short, long in SHORT_FORMS.items():
            text = text.replace(short, long)
        plainer.append(" ".join(re.findall(r"\w+", text)) or text)
    return plainer


def linked(pairs: Pairs) -> list[str]:
    """Return, for each pair, the smallest name in its connected component."""
    neighbours = defaultdict[str, list[str]](list)
    for one, other in pairs:
        neighbours[one].append(other)
        neighbours[other].append(one)
    smallest = dict[str, str]()
    for name in sorted(neighbours):
        reached = [] if name in smallest else [name]
        while reached:
            at = reached.pop()
            if at not in smallest:
                smallest[at] = name
                reached += neighbours[at]
    return [smallest[one] for one, _ in pairs]


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> Pairs:
    source, _ = choose_languages("tatoeba", columns, ("en", "de"))
    pairs = tatoeba(data_dir)[split]
    return pairs if source == "en" else [(german, english) for english, german in pairs]


SETS = (
    NamedSet(
        name="tatoeba",
        task="translate",
        splits=tuple(SHARES),
        read=_read,
        summary="169,813 sentences in en and de (tatoeba.org, manythings.org); CC BY 2.0",
    ),
)
