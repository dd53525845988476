"""Image captions with their translations: task 1, raw text; the test split is that of 2016."""

from collections.abc import Mapping

from qkv.data.sets import Folder, NamedSet
from qkv.data.text import choose_languages, find_data, read_parallel

FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


def _read(split: str, data_dir: Folder, columns: Mapping[str, str]) -> list[tuple[str, str]]:
    languages = choose_languages("multi30k", columns, ("en", "de", "cs"))
    folder = find_data("multi30k", data_dir)
    source, target = (folder / f"{FILES[split]}.{language}.gz" for language in languages)
    return read_parallel(source, target)


SETS = (
    NamedSet(
        name="multi30k",
        task="translate",
        splits=tuple(FILES),
        read=_read,
        summary="31,014 image captions in en, de, cs (Elliott et al. 2016); non-commercial",
    ),
)
