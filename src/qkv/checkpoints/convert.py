"""Published binary formats, told apart by how they begin."""

import os
from pathlib import Path

from torch import nn

from qkv.checkpoints.ctranslate2 import VERSION, read_ctranslate2
from qkv.checkpoints.llama2c import read_llama2c


def convert(path: str | os.PathLike[str]) -> nn.Module:
    """Read a model of CTranslate2 (a file or its folder) or of llama2.c.

    Raises:
        DataError: if the file is neither, or not whole.
    """
    path = Path(path)
    path = path / "model.bin" if path.is_dir() else path
    with path.open("rb") as file:
        first = int.from_bytes(file.read(4), "little")
    # llama2.c begins with a width, and none is so small.
    return read_ctranslate2(path) if first == VERSION else read_llama2c(path)
