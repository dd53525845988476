"""Text files: bytes, encodings, lines, aligned files, and the folder of the data sets."""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from qkv.errors import DataError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WIDE = ("utf-16", "utf-32")
SAMPLE = 1_000  # bytes that are searched for the zeros of wide encodings
LARGEST = 2**30  # bytes of a decompressed file: small archives may contain huge files


class _Bounded(gzip.GzipFile):
    """A .gz file that raises an error when read beyond `LARGEST`."""

    def read1(self, size: int = -1) -> bytes:
        check_size(os.fspath(self.name), self.tell())
        return super().read1(size)


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[gzip.GzipFile | io.BufferedReader]:
    """Open a file for reading, decompressed if its name ends in .gz.

    Raises:
        DataError: the file is missing, or turns out to be damaged or larger than the memory.
    """
    path = Path(path)
    try:
        with _Bounded(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except MemoryError as error:
        raise DataError(f"{path} does not fit into memory; expected a smaller file") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is not a complete gzip file: {error} (is it truncated?)"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error} (is the path right?)") from error


def read_content(path: str | os.PathLike[str]) -> bytes:
    """Read the bytes of a file, decompressed if its name ends in .gz.

    Raises:
        DataError: the file is missing or damaged, or larger than `LARGEST` or the memory.
    """
    with reading(path) as file:
        if Path(path).suffix != ".gz":
            return file.read()
        content = file.read(LARGEST + 1)
        check_size(path, len(content))
        return content


def check_size(path: str | os.PathLike[str], n_bytes: int) -> None:
    """Check that a file is not too large to be decompressed in memory.

    Raises:
        DataError: it is larger than `LARGEST`.
    """
    if n_bytes > LARGEST:
        raise DataError(
            f"{path} has more than {LARGEST:,} bytes when decompressed, too many for memory; "
            "expected a smaller file (if it is the right one, decompress it first)"
        )


def decode(
    content: bytes,
    path: str | os.PathLike[str],
    encoding: str = "utf-8",
    *,
    tolerant: bool = False,
) -> str:
    """Decode bytes, without a byte-order mark; `path` names them in the error.

    With the encoding UTF-8, content that begins with a mark of UTF-16 or UTF-32 is decoded as such.
    With `tolerant`, undecodable bytes become lone surrogates (PEP 383), which valid text never has.

    Raises:
        DataError: the content is in another encoding.
    """
    encoding = _by_mark(content[:SAMPLE], path, encoding)
    try:
        return content.decode(encoding, "surrogateescape" if tolerant else "strict").removeprefix(
            "\ufeff"
        )
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not {encoding}: byte {content[error.start]:#04x} at offset {error.start}, "
            f"line {line} (another encoding, such as latin-1?)"
        ) from error


def _by_mark(begin: bytes, path: str | os.PathLike[str], encoding: str) -> str:
    """Return the encoding by the first bytes of a file, if UTF-8 was expected."""
    if codecs.lookup(encoding).name != "utf-8":
        return encoding
    encoding = next((name for mark, name in MARKS if begin.startswith(mark)), encoding)
    if encoding not in WIDE and 3 * begin.count(0) > len(begin):
        raise DataError(
            f"{path} is not {encoding}: {begin.count(0)} of its first {len(begin)} bytes are 0 "
            "(UTF-16 without a byte-order mark? save it as UTF-8)"
        )
    return encoding


def iterate_lines(path: str | os.PathLike[str], encoding: str = "utf-8") -> Iterator[str]:
    r"""Yield the lines of a file, plain or .gz, with their ends (\n), without holding all of them.

    As with `decode`, there is no byte-order mark, and undecodable bytes become lone surrogates.

    Raises:
        DataError: the file is missing, blank, damaged or in another encoding.
    """
    with reading(path) as file:
        encoding = _by_mark(file.read(SAMPLE), path, encoding)
        file.seek(0)
        lines = io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="\n")
        try:
            line, blank = next(lines, "").removeprefix("\ufeff"), list[str]()
            while line and not line.strip():
                blank.append(line)
                line = next(lines, "")
            if not line:
                raise DataError(f"{path} is empty; expected text")
            yield from (*blank, line)
            yield from lines
        except UnicodeDecodeError:
            decode(read_content(path), path, encoding, tolerant=True)  # its error has the place
            raise


def read_lines(path: str | os.PathLike[str], encoding: str = "utf-8") -> list[str]:
    r"""Read the lines of a file, plain or .gz, without their ends (\n or \r\n).

    Only these end a line: `str.splitlines` would also split at U+2028 and the like, which occur
    inside real sentences, and so shift all later lines of an aligned file.

    Raises:
        DataError: the file is missing, empty, damaged or in another encoding.
    """
    lines = decode(read_content(path), path, encoding).removesuffix("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path} is empty: expected at least one line of text")
    return [line.removesuffix("\r") for line in lines]


def read_parallel(
    source_path: str | os.PathLike[str],
    target_path: str | os.PathLike[str],
    encoding: str = "utf-8",
) -> list[tuple[str, str]]:
    """Read pairs of sentences from two files that are aligned by line.

    Raises:
        DataError: a file cannot be read (see `read_lines`), or the numbers of lines differ.
    """
    sources, targets = (read_lines(path, encoding) for path in (source_path, target_path))
    if len(sources) != len(targets):
        raise DataError(
            f"{source_path} has {len(sources)} lines and {target_path} has {len(targets)}: "
            "expected one translation per line (different splits, or a line break in a sentence?)"
        )
    return list(zip(sources, targets, strict=True))


def read_aligned(source: str) -> list[tuple[str, str]] | None:
    """Read two files named "my.en,my.de"; return None for any other source.

    Raises:
        DataError: there are not two files, one cannot be read, their lengths differ, or a line is
            empty.
    """
    if "," not in source or Path(source).exists():
        return None
    paths = source.split(",")
    if len(paths) != 2:
        raise DataError(
            f"{source!r} names {len(paths)} files; expected two with one sentence per line, such "
            "as my.en,my.de"
        )
    pairs = read_parallel(*paths)
    for line, pair in enumerate(pairs, start=1):
        for path, text in zip(paths, pair, strict=True):
            if not text.strip():
                raise DataError(
                    f"{path}, line {line}, is empty: expected a sentence; leave the line out of "
                    "both files"
                )
    return pairs


def read_tsv(
    path: str | os.PathLike[str], *, columns: Sequence[int] = (0, 1)
) -> list[tuple[str, ...]]:
    """Read columns, counted from 0, of a tab-separated file without header and quoting.

    Raises:
        DataError: the file cannot be read (see `read_lines`), or a line has too few columns.
    """
    rows = [line.split("\t") for line in read_lines(path)]
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(columns):
            raise DataError(
                f"{path}, line {number}, has {len(row)} columns, expected {max(columns) + 1} or "
                "more (spaces instead of tabs, or a line break inside a field?)"
            )
    return [tuple(row[column] for column in columns) for row in rows]


def find_data(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of a data set, under `data_dir` or else under the variable QKV_DATA.

    Raises:
        DataError: neither is set, or the folder has no such set.
    """
    data_dir = data_dir or os.environ.get("QKV_DATA")
    if not data_dir:
        raise DataError(
            f"no folder to look for the data set {name!r} in: expected --data-dir FOLDER "
            "(data_dir= in Python) or the variable QKV_DATA, but neither is set"
        )
    folder = Path(data_dir, name)
    if not folder.is_dir():
        raise DataError(
            f"no data set {name!r}: looked for the folder {folder}; is --data-dir (data_dir= "
            "in Python) or the variable QKV_DATA right?"
        )
    return folder


def choose_languages(
    name: str, columns: Mapping[str, str], languages: Sequence[str]
) -> tuple[str, str]:
    """Return the source and the target language of a translation set.

    Args:
        name: name of the set, for the error.
        columns: may have "source" and "target"; default: the first two languages.
        languages: languages of the set.

    Raises:
        DataError: the set lacks a language, or both are the same.
    """
    source = columns.get("source", languages[0])
    target = columns.get("target", languages[1])
    if source == target or not {source, target} <= {*languages}:
        raise DataError(
            f"no {name} from {source!r} to {target!r}; expected two of {', '.join(languages)}"
        )
    return source, target
