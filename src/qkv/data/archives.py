"""Read the files of a tar archive in memory; nothing is written to disk."""

import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator

from qkv.data.text import check_size
from qkv.errors import DataError


def read_members(path: str | os.PathLike[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files in a tar archive, compressed or not, in its order.

    Folders, links and hidden files, such as the "._name" of macOS, are skipped.

    Raises:
        DataError: the archive is missing, truncated, empty or not a tar, or a file is too large.
    """
    n_files = 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                hidden = member.name.rsplit("/", 1)[-1].startswith(".")
                file = archive.extractfile(member) if member.isfile() and not hidden else None
                if file is None:
                    continue
                check_size(f"{member.name} in {path}", member.size)
                content = file.read()
                n_files += 1
                yield member.name.removeprefix("./"), content
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        first_line = str(error).split("\n")[0].removesuffix(":")
        raise DataError(
            f"{path} is not a complete tar archive: {first_line} (after {n_files} files; is it "
            "truncated?)"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error} (is the path right?)") from error
    if not n_files:
        raise DataError(f"{path} is a tar archive without files; expected at least one")
