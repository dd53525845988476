"""CTranslate2's model.bin (Klein et al. 2020): OpenNMT's encoder-decoders in float32."""

import os
from math import prod
from pathlib import Path

from torch import Tensor

from qkv.checkpoints.binary import BinaryFile, filled
from qkv.checkpoints.table import Row, layers, row, split
from qkv.errors import DataError
from qkv.models.transformer import Transformer, TransformerConfig

VERSION = 2
# The number of heads is not in the file, but follows from the model's name.
HEADS = {"TransformerBase": 8, "TransformerBig": 16}


def read_ctranslate2(path: str | os.PathLike[str]) -> Transformer:
    """Load a model: pre-norm, ReLU, sinusoids in halves from position 1.

    Raises:
        DataError: if the version or kind of model is not supported, the numbers are not float32,
            the file is truncated, or the tensors do not match.
    """
    path = Path(path)
    kind, tensors = _read_tensors(BinaryFile(path))
    sized_by = {
        "source_vocab_size": "encoder/embeddings/weight",
        "target_vocab_size": "decoder/embeddings/weight",
        "d_model": "encoder/layer_norm/gamma",
        "d_ff": "encoder/layer_0/ffn/linear_0/weight",
    }
    if kind not in HEADS or not tensors.keys() >= set(sized_by.values()):
        raise DataError(
            f"{path} contains a {kind!r}, expected one of {', '.join(HEADS)} with the tensors "
            f"{', '.join(sized_by.values())}: only pre-norm Transformers of OpenNMT are supported"
        )
    sizes = {ours: tensors[name].shape[0] for ours, name in sized_by.items()}
    config = TransformerConfig(
        source_vocab_size=sizes["source_vocab_size"],
        target_vocab_size=sizes["target_vocab_size"],
        d_model=sizes["d_model"],
        d_ff=sizes["d_ff"],
        n_heads=HEADS[kind],
        n_encoder_layers=_n_layers("encoder", tensors),
        n_decoder_layers=_n_layers("decoder", tensors),
        norm_first=True,
        tied_output=False,
        output_bias=True,
        sinusoid_layout="halves",
        sinusoid_divisor=sizes["d_model"] / 2 - 1,
        first_position=1,
    )
    return filled(Transformer(config), _rows(config), tensors, path)


def _read_tensors(file: BinaryFile) -> tuple[str, dict[str, Tensor]]:
    version = file.number("i")
    if version != VERSION:
        raise DataError(f"{file.path} has version {version}; expected CTranslate2's {VERSION}")
    kind = _read_name(file)
    file.number("I")  # revision of this kind
    tensors = {}
    for _ in range(file.number("I")):
        name = _read_name(file)
        shape = [file.number("I") for _ in range(file.number("B"))]
        n_bytes, n_numbers = file.number("B"), file.number("I")
        if n_bytes != 4:
            raise DataError(
                f"{name} in {file.path} has numbers of {n_bytes} bytes, expected 4 (float32): the "
                "model was quantized during conversion; convert it without quantization"
            )
        if n_numbers != prod(shape):
            raise DataError(f"{name} in {file.path} has {n_numbers} numbers for shape {shape}")
        tensors[name] = file.floats(n_numbers).view(shape)
    return kind, tensors


def _read_name(file: BinaryFile) -> str:
    return file.take(file.number("H")).rstrip(b"\0").decode(errors="replace")


def _n_layers(stack: str, tensors: dict[str, Tensor]) -> int:
    return sum(name.startswith(stack) and name.endswith("ffn/layer_norm/gamma") for name in tensors)


def _linear(theirs: str, *ours: str, width: int = 0) -> list[Row]:
    """Return the rows of a linear layer, or of several of ours of equal width in one of theirs."""
    cut = [split(*[width] * len(ours))] if width else []
    return [
        row(f"{theirs}/{part}", tuple(f"{name}.{part}" for name in ours), *cut)
        for part in ("weight", "bias")
    ]


def _norm(theirs: str, ours: str) -> list[Row]:
    return [row(f"{theirs}/gamma", f"{ours}.weight"), row(f"{theirs}/beta", f"{ours}.bias")]


def _rows(config: TransformerConfig) -> list[Row]:
    n_layers = {"encoder": config.n_encoder_layers, "decoder": config.n_decoder_layers}
    rows = [
        row("encoder/embeddings/weight", "source_embedding.weight"),
        row("decoder/embeddings/weight", "target_embedding.weight"),
        *_linear("decoder/projection", "head"),
    ]
    for stack, n in n_layers.items():
        rows += layers(_block(stack, config.d_model), n)
        rows += _norm(f"{stack}/layer_norm", f"{stack}.norm")
    return rows


def _block(stack: str, width: int) -> list[Row]:
    theirs, ours = f"{stack}/layer_{{}}", f"{stack}.blocks.{{}}"
    own, cross = f"{ours}.self_attention", f"{ours}.cross_attention"
    projections = [f"{own}.{name}" for name in ("query", "key", "value")]
    rows = [
        *_norm(f"{theirs}/self_attention/layer_norm", f"{own}_residual.norm"),
        *_linear(f"{theirs}/self_attention/linear_0", *projections, width=width),
        *_linear(f"{theirs}/self_attention/linear_1", f"{own}.output"),
        *_norm(f"{theirs}/ffn/layer_norm", f"{ours}.feed_forward_residual.norm"),
        *_linear(f"{theirs}/ffn/linear_0", f"{ours}.feed_forward.up"),
        *_linear(f"{theirs}/ffn/linear_1", f"{ours}.feed_forward.down"),
    ]
    if stack == "encoder":
        return rows
    return [
        *rows,
        *_norm(f"{theirs}/attention/layer_norm", f"{cross}_residual.norm"),
        *_linear(f"{theirs}/attention/linear_0", f"{cross}.query"),
        *_linear(f"{theirs}/attention/linear_1", f"{cross}.key", f"{cross}.value", width=width),
        *_linear(f"{theirs}/attention/linear_2", f"{cross}.output"),
    ]
