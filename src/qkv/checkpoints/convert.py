"""Convert published binary formats, which are recognized by their first bytes."""

import os
from pathlib import Path

from torch import nn

from qkv.checkpoints.ctranslate2 import VERSION, read_ctranslate2
from qkv.checkpoints.llama2c import read_llama2c


def convert(path: str | os.PathLike[str]) -> nn.Module:
    """Load a model in the format of CTranslate2 (a file or its folder) or llama2.c.

    Raises:
        DataError: if the file is neither, or is incomplete.
    """
    path = Path(path)
    path = path / "model.bin" if path.is_dir() else path
    with path.open("rb") as file:
        first = int.from_bytes(file.read(4), "little")
    # llama2.c begins with a width, which is never this small.
    return read_ctranslate2(path) if first == VERSION else read_llama2c(path)
