"""Models and vocabularies of llama2.c (Karpathy 2023), version 0 of the format."""

import os
import re
from math import prod
from pathlib import Path

import torch

from qkv.checkpoints.binary import BinaryFile, filled
from qkv.checkpoints.table import Row, ignore, layers, permute, row
from qkv.errors import DataError
from qkv.models.llama import Llama, LlamaConfig

HEADER = 7  # numbers: width, feed-forward, layers, heads, key heads, vocabulary, length
BYTE = re.compile(rb"<0x([0-9A-F]{2})>")  # the token of a single byte


def read_llama2c(path: str | os.PathLike[str]) -> Llama:
    """Load a model: seven sizes, then all tensors without names, in float32.

    Raises:
        DataError: if the file does not match its sizes.
    """
    path = Path(path)
    n_numbers = path.stat().st_size // 4
    if n_numbers < HEADER:
        raise DataError(f"{path} is too short for the header of llama2.c, seven integers")
    # Memory-mapped, so that the model's own memory is the only copy.
    numbers = torch.from_file(str(path), size=n_numbers, dtype=torch.float32)
    config = _config(numbers[:HEADER].view(torch.int32).tolist(), path)
    shapes = _shapes(config)
    sizes = [prod(shape) for shape in shapes.values()]
    if n_numbers != HEADER + sum(sizes):
        raise DataError(
            f"{path} has {n_numbers} numbers of four bytes, expected {HEADER + sum(sizes)} for the "
            "sizes in its header: it is truncated, or has another format"
        )
    tensors = {}
    for (name, shape), part in zip(shapes.items(), numbers[HEADER:].split(sizes), strict=True):
        whole = part.view(shape)
        tensors |= (
            {name.format(i): one for i, one in enumerate(whole)} if "{}" in name else {name: whole}
        )
    return filled(Llama(config), _rows(config), tensors, path)


def _config(sizes: list[int], path: Path) -> LlamaConfig:
    d_model, d_ff, n_layers, n_heads, n_kv_heads, vocab_size, length = sizes
    tied, vocab_size = vocab_size > 0, abs(vocab_size)  # negative: not tied
    if min(*sizes[:5], vocab_size, length) < 1 or d_model % (2 * n_heads) or n_heads % n_kv_heads:
        raise DataError(
            f"{path} begins with {sizes}, not with model sizes (width, feed-forward, layers, "
            "heads, key heads, vocabulary, length); is it version 0 of llama2.c's format?"
        )
    return LlamaConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_ff=d_ff,
        n_layers=n_layers,
        n_positions=length,
        tied_output=tied,
    )


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors' shapes in the file's order; `{}` is the layer, their first axis."""
    n, d_model, d_ff = config.n_layers, config.d_model, config.d_ff
    d_head = d_model // config.n_heads
    d_kv = d_head * (config.n_kv_heads or config.n_heads)
    shapes = {
        "embedding": (config.vocab_size, d_model),
        "{}.attention_norm": (n, d_model),
        "{}.wq": (n, d_model, d_model),
        "{}.wk": (n, d_kv, d_model),
        "{}.wv": (n, d_kv, d_model),
        "{}.wo": (n, d_model, d_model),
        "{}.ffn_norm": (n, d_model),
        "{}.w1": (n, d_ff, d_model),
        "{}.w2": (n, d_model, d_ff),
        "{}.w3": (n, d_ff, d_model),
        "norm": (d_model,),
        "cos": (config.n_positions, d_head // 2),
        "sin": (config.n_positions, d_head // 2),
    }
    return shapes if config.tied_output else {**shapes, "output": (config.vocab_size, d_model)}


def _rows(config: LlamaConfig) -> list[Row]:
    # Their rotary pairs are adjacent, ours are halves, as in the files of transformers.
    pairs = config.d_model // config.n_heads // 2
    queries, keys = (
        permute(0, 2, 1, rows=(heads, pairs, 2))
        for heads in (config.n_heads, config.n_kv_heads or config.n_heads)
    )
    block = "stack.blocks.{}."
    rows = [
        row("embedding", "embedding.weight"),
        row("norm", "stack.norm.weight"),
        ignore("cos"),
        ignore("sin"),
        *layers(
            [
                row("{}.attention_norm", block + "self_attention_residual.norm.weight"),
                row("{}.wq", block + "self_attention.query.weight", queries),
                row("{}.wk", block + "self_attention.key.weight", keys),
                row("{}.wv", block + "self_attention.value.weight"),
                row("{}.wo", block + "self_attention.output.weight"),
                row("{}.ffn_norm", block + "feed_forward_residual.norm.weight"),
                row("{}.w1", block + "feed_forward.gate.weight"),
                row("{}.w2", block + "feed_forward.down.weight"),
                row("{}.w3", block + "feed_forward.up.weight"),
            ],
            config.n_layers,
        ),
    ]
    return rows if config.tied_output else [*rows, row("output", "head.weight")]


def read_llama2c_pieces(path: str | os.PathLike[str]) -> list[bytes]:
    """Read a vocabulary: the bytes of each token, by id.

    A text is encoded with an extra space at the beginning.

    Raises:
        DataError: if the file ends within a piece.
    """
    file = BinaryFile(Path(path))
    file.number("i")  # length of the longest token
    pieces = []
    while not file.at_end:
        file.take(4)  # score
        piece = file.take(file.number("i"))
        byte = BYTE.fullmatch(piece)
        pieces.append(bytes([int(byte[1], 16)]) if byte else piece)
    return pieces
