"""IDX, the format of MNIST and Fashion-MNIST: http://yann.lecun.com/exdb/mnist (end of page)."""

import os

import numpy as np

from qkv.data.text import read_content
from qkv.errors import DataError

UNSIGNED_BYTES = 0x08


def read_idx(path: str | os.PathLike[str], n_dimensions: int) -> np.ndarray:
    """Read the array in a file of unsigned bytes, plain or .gz.

    The file begins with the bytes 0, 0, 8 and the number of dimensions, followed by their sizes
    (four bytes each, big-endian) and the numbers (the last dimension varies fastest).

    Args:
        path: the file.
        n_dimensions: the expected number of dimensions, 3 for images and 1 for classes.

    Raises:
        DataError: the file cannot be read, or its header or length is wrong.
    """
    content, n_header = read_content(path), 4 + 4 * n_dimensions
    magic = bytes([0, 0, UNSIGNED_BYTES, n_dimensions])
    if content[:4] != magic or len(content) < n_header:
        raise DataError(
            f"{path} begins with {content[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}, "
            f"an IDX file of bytes with {n_dimensions} dimensions (images have 3, classes 1: are "
            "the files swapped, or is it compressed without .gz in its name?)"
        )
    sizes = tuple(int(size) for size in np.frombuffer(content[4:n_header], dtype=">u4"))
    n_numbers = int(np.prod(sizes, dtype=object))
    if len(content) - n_header != n_numbers:
        raise DataError(
            f"{path} has {len(content) - n_header} numbers, expected {n_numbers} by its header "
            f"({' x '.join(map(str, sizes))}; is it truncated?)"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=n_header).reshape(sizes)
