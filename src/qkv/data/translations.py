"""Named sets of sentences with their translations."""

import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence

from qkv.data.parts import check_part, split_by_hash
from qkv.data.text import check_size, decode, find_data, multi30k
from qkv.errors import DataError

Pairs = list[tuple[str, str]]

SETS = {
    "multi30k": ("train", "validation", "test"),
    "tatoeba": ("train", "validation", "test"),
}
LANGUAGES = {
    "multi30k": ("en", "de", "cs"),
    "tatoeba": ("en", "de"),
}
TATOEBA_SHARES = {"train": 0.98, "validation": 0.01, "test": 0.01}
SHORT_FORMS = {"n't": " not", "'m": " am", "'re": " are", "'ll": " will", "'ve": " have"}


def translation_set(
    name: str,
    split: str,
    languages: tuple[str, str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Pairs:
    """One part of a named set, pairs of a sentence and its translation; see `find_data`.

    "multi30k" captions of images (Elliott et al. 2016); "tatoeba" sentences of learners (CC BY 2.0,
    tatoeba.org by way of manythings.org), see `tatoeba` for its parts.

    Args:
        name: of the set.
        split: "train", "validation" or "test".
        languages: from which, to which; by default English and the next that the set has.
        data_dir: the folder of named sets.

    Raises:
        DataError: an unknown name, part or language, or files that are not found or broken.
    """
    check_part(name, split, SETS)
    source, target = languages or LANGUAGES[name][:2]
    if source == target or not {source, target} <= {*LANGUAGES[name]}:
        raise DataError(
            f"no {name} from {source!r} to {target!r}: expected two of {', '.join(LANGUAGES[name])}"
        )
    if name == "multi30k":
        return multi30k(split, (source, target), data_dir)
    pairs = tatoeba(data_dir)[split]
    return pairs if source == "en" else [(german, english) for english, german in pairs]


def tatoeba(data_dir: str | os.PathLike[str] | None = None) -> dict[str, Pairs]:
    """English sentences of Tatoeba and their German translations, from short to long, by parts.

    The set has no parts of its own. Here sentences that are linked by a translation stay together,
    and case, punctuation and short forms such as "don't" make no difference: what is in the test
    part was not seen in training, in either language.

    Raises:
        DataError: a file that is not found or broken.
    """
    path = find_data("tatoeba_deu_eng", data_dir) / "deu-eng.zip"
    try:
        with zipfile.ZipFile(path) as archive:
            check_size(path, archive.getinfo("deu.txt").file_size)
            content = archive.read("deu.txt")
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"cannot read deu.txt in {path}: {error} (was it cut short?)") from error
    rows = [line.split("\t") for line in decode(content, path).rstrip("\n").split("\n")]
    for line, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise DataError(f"{path}, deu.txt, line {line}, has {len(row)} fields, expected 2")
    english, german = [row[0] for row in rows], [row[1].removesuffix("\r") for row in rows]
    # The languages apart: "die" is no translation of "die".
    names = [f"en {text}" for text in plain(english)], [f"de {text}" for text in plain(german)]
    parts: dict[str, Pairs] = {part: [] for part in TATOEBA_SHARES}
    groups = split_by_hash(linked(list(zip(*names, strict=True))), TATOEBA_SHARES)
    for *pair, part in zip(english, german, groups, strict=True):
        parts[part].append((pair[0], pair[1]))
    return parts


def plain(sentences: Sequence[str]) -> list[str]:
    """Sentences without case, punctuation and short forms, to tell near copies by."""
    plainer = []
    for sentence in sentences:
        text = sentence.lower().replace("’", "'")
        for short, long in SHORT_FORMS.items():
            text = text.replace(short, long)
        plainer.append(" ".join(re.findall(r"\w+", text)) or text)
    return plainer


def linked(pairs: Pairs) -> list[str]:
    """For each pair the smallest of all names that it is linked with, over however many pairs."""
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
