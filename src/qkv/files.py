"""Files that are either whole or absent: a crash never leaves half of one behind."""

import os
import uuid
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file such that its name always holds the old content or the new, never a part.

    The content goes to a sibling, because a rename is atomic only within one file system, and it
    reaches the disk before the rename does. Missing folders are made.

    Args:
        path: the file to write or to replace.
        content: bytes as they are, or text as UTF-8 with its newlines unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are private (0600), and the rename would keep that.
    sibling = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with sibling.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(sibling, path)
    finally:
        sibling.unlink(missing_ok=True)
