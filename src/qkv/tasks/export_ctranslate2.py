"""Export a model to CTranslate2 (Klein et al. 2020), with the specifications of its package.

Encoder-decoders become its Translator, language models its Generator, and the encoders of BERT's
family its Encoder. The names of tokens are those of our tokenizer.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.block import Block
from qkv.blocks.feed_forward import FeedForward
from qkv.blocks.norms import RMSNorm
from qkv.blocks.positions import LearnedPositions, RelativeBias, Rotary, SinusoidalPositions
from qkv.blocks.rotary_scaling import LinearScaling
from qkv.blocks.stack import Stack
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.models.bart import Bart
from qkv.models.bert import Bert
from qkv.models.gpt import GPT, ScaledAttention
from qkv.models.llama import Llama
from qkv.models.t5 import T5, UnscaledAttention
from qkv.models.transformer import Transformer
from qkv.tasks.decoding import read_decoding
from qkv.tasks.export import NO_RULES, given_rules
from qkv.tasks.export_folder import describe_plain, engine, replace_export
from qkv.tasks.pretrained import Loaded

MARKS = ("model.bin",)
KINDS = ("float32", "float16", "bfloat16", "int8")
PAIR = ("source", "target")
N_SINUSOIDS = 4096  # positions of a model whose sinusoids have no end
ACTIVATIONS = {
    "relu": "RELU",
    "gelu": "GELU",
    "gelu_tanh": "GELUTanh",
    "silu": "SWISH",
    "swiglu": "SWISH",
    "geglu": "GELU",
    "geglu_tanh": "GELUTanh",
}
NAMED = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "do_sample")  # or only for qkv


@dataclass(frozen=True)
class Side:
    """An encoder or a decoder.

    Args:
        stack: its stack of blocks.
        embedding: token embedding.
        positions: module of absolute positions; None if attention encodes positions.
        norm: norm of the embeddings.
        segments: segment embedding of an encoder.
        head: output layer of a decoder.
    """

    stack: Stack
    embedding: Any
    positions: nn.Module | None = None
    norm: Any = None
    segments: nn.Embedding | None = None
    head: Any = None


def export(loaded: Loaded, folder: str | os.PathLike[str], *, kind: str | None = None) -> list[str]:
    """Write a folder with CTranslate2's model.bin, config.json and vocabulary, atomically.

    Args:
        loaded: the model.
        folder: the folder: new, empty, or an earlier export to replace.
        kind: dtype of the matrices, one of `KINDS`; None: the dtype of the parameters.

    Returns:
        Features of the model that the format does not support.

    Raises:
        ConfigError: if CTranslate2 cannot express the model.
        DataError: if the folder has other files.
        MissingDependencyError: if CTranslate2 is not installed.
        StorageError: if the folder cannot be written.
    """
    specs = engine("ctranslate2.specs", "the format ctranslate2")
    describe_plain(loaded, "CTranslate2")
    model, left_out = loaded.model, list[str]()
    encoder, decoder = sides_of(model)
    with torch.no_grad():
        spec: Any
        if encoder and decoder:
            spec = specs.TransformerSpec(
                _encoder(specs, encoder), _decoder(specs, decoder, crossed=True)
            )
        elif decoder:
            spec = specs.TransformerDecoderModelSpec(_decoder(specs, decoder, crossed=False))
        else:
            assert encoder is not None
            spec = specs.TransformerEncoderModelSpec(
                _encoder(specs, encoder), pooling_layer=model.pooler is not None
            )
            if model.pooler is not None:
                _linear(spec.pooler_dense, model.pooler)
        _describe(spec, loaded, encoder, decoder, left_out)
        spec.validate()
        spec.optimize(quantization=kind)
    with replace_export(folder, loaded, MARKS) as fresh:
        spec.save(str(fresh))
    return left_out


def sides_of(model: Any) -> tuple[Side | None, Side | None]:
    """Return the encoder and the decoder of a model.

    Raises:
        ConfigError: if CTranslate2 has no such model.
    """
    if isinstance(getattr(model, "head", None), nn.Identity):
        raise ConfigError(
            f"a {type(model).__name__} without its output layer cannot be written for CTranslate2; "
            "expected one with it"
        )
    if isinstance(model, Bert):
        return Side(model.stack, model.embedding, model.positions, model.norm, model.segments), None
    if isinstance(model, GPT | Llama):
        positions = model.positions if isinstance(model, GPT) else None
        return None, Side(model.stack, model.embedding, positions, head=model.head)
    rotary = isinstance(model, Transformer) and model.config.rotary_base is not None
    if not isinstance(model, Transformer | Bart | T5) or rotary:
        raise ConfigError(
            f"a {type(model).__name__}{' with rotary positions' if rotary else ''} cannot be "
            "written for CTranslate2; expected a Transformer, Marian, Bart, T5, GPT, Llama or Bert "
            "without another head"
        )
    tables = [getattr(model, f"{one}_embedding", None) or model.embedding for one in PAIR]
    shared = getattr(model, "positions", None)
    positions = [getattr(model, f"{one}_positions", shared) for one in PAIR]
    norms = [getattr(model, f"{one}_norm", None) for one in PAIR]
    return (
        Side(model.encoder, tables[0], positions[0], norms[0]),
        Side(model.decoder, tables[1], positions[1], norms[1], head=model.head),
    )


def _encoder(specs: Any, side: Side) -> Any:
    more: dict[str, Any] = {}
    if side.segments is not None:
        more = {
            "num_source_embeddings": 2,
            "embeddings_merge": specs.common_spec.EmbeddingsMerge.ADD,
        }
    spec = specs.TransformerEncoderSpec(**_options(specs, side), **more)
    spec.embeddings[0].weight = side.embedding.weight.clone()  # changed by quantization
    if side.segments is not None:
        spec.embeddings[1].weight = side.segments.weight.clone()
    _common(spec, side)
    return spec


def _decoder(specs: Any, side: Side, *, crossed: bool) -> Any:
    spec = specs.TransformerDecoderSpec(**_options(specs, side), with_encoder_attention=crossed)
    spec.embeddings.weight = side.embedding.weight.clone()  # changed by quantization
    _linear(spec.projection, side.head)
    factor = getattr(side.stack.norm, "factor", 1.0)  # of T5 with a tied output layer
    if factor != 1:
        spec.scale_outputs = factor
    _common(spec, side)
    return spec


def _options(specs: Any, side: Side) -> dict[str, Any]:
    """Return the arguments of a specification, which all blocks of a stack share.

    Raises:
        ConfigError: if a block has a feature that CTranslate2 lacks.
    """
    for block in side.stack.blocks:
        _check(block)
    block: Any = side.stack.blocks[0]
    attention, feed_forward = block.self_attention, block.feed_forward
    n_kv_heads = attention.key.out_features // attention.d_head
    options = {
        "num_layers": len(side.stack.blocks),
        "num_heads": attention.n_heads,
        "num_heads_kv": None if n_kv_heads == attention.n_heads else n_kv_heads,
        "head_dim": attention.d_head,
        "pre_norm": block.self_attention_residual.norm_first,
        "activation": specs.common_spec.Activation[ACTIVATIONS[feed_forward.kind]],
        "ffn_glu": feed_forward.gate is not None,
        "rms_norm": isinstance(block.self_attention_residual.norm, RMSNorm),
        "layernorm_embedding": side.norm is not None,
        "relative_attention_bias": attention.position_bias is not None,
    }
    rotary = attention.rotary
    if rotary is not None:
        options |= {
            "rotary_dim": 0 if rotary.width == attention.d_head else rotary.width,
            "rotary_interleave": rotary.layout == "interleaved",
            "rotary_base": rotary.base,
        }
        if rotary.scaling is not None:
            kind = specs.attention_spec.RotaryScalingType.Linear
            options |= {"rotary_scaling_type": kind, "rotary_scaling_factor": rotary.scaling.factor}
    return options


def _check(block: Any) -> None:
    """Check that a block has no mechanism that CTranslate2 lacks or computes differently.

    Raises:
        ConfigError: if it has; the message names the first one.
    """
    attention = getattr(block, "self_attention", None)
    rotary = getattr(attention, "rotary", None)
    known = (
        (block, (Block,)),
        (attention, (MultiHeadAttention, ScaledAttention, UnscaledAttention)),
        (getattr(attention, "position_bias", None), (type(None), RelativeBias)),
        (rotary, (type(None), Rotary)),
        (getattr(rotary, "scaling", None), (type(None), LinearScaling)),
        (getattr(block, "feed_forward", None), (FeedForward,)),
    )
    for part, kinds in known:
        if type(part) not in kinds:
            names = [kind.__name__ for kind in kinds if kind is not type(None)]
            raise ConfigError(
                f"a model with {type(part).__name__} cannot be written for CTranslate2; expected "
                f"{' or '.join(names)} in its place"
            )


def _common(spec: Any, side: Side) -> None:
    """Fill the fields that encoders and decoders have in common."""
    spec.scale_embeddings = float(side.embedding.scale)
    if side.positions is not None:
        spec.position_encodings.encodings = _encodings(side)
    if side.norm is not None:
        _norm(spec.layernorm_embedding, side.norm)
    if side.stack.norm is not None:
        _norm(spec.layer_norm, side.stack.norm)
    for layer, block in zip(spec.layer, side.stack.blocks, strict=True):
        _block(layer, block)


def _encodings(side: Side) -> Tensor:
    """Return the vector that is added at each position."""
    if isinstance(side.positions, LearnedPositions):
        return side.positions.table.weight[side.positions.offset :]
    assert isinstance(side.positions, SinusoidalPositions)
    weight = side.embedding.weight
    nothing = weight.new_zeros((1, N_SINUSOIDS, weight.shape[1]))
    return side.positions(nothing, torch.arange(N_SINUSOIDS))[0]


def _block(layer: Any, block: Any) -> None:
    own = block.self_attention
    _attention(layer.self_attention, own, [(own.query, own.key, own.value)])
    _norm(layer.self_attention.layer_norm, block.self_attention_residual.norm)
    if own.position_bias is not None:
        layer.self_attention.relative_attention_bias = own.position_bias.table.weight
        layer.self_attention.relative_attention_max_distance = np.int32(
            own.position_bias.max_distance
        )
    if block.cross_attention is not None:
        cross = block.cross_attention
        _attention(layer.attention, cross, [(cross.query,), (cross.key, cross.value)])
        _norm(layer.attention.layer_norm, block.cross_attention_residual.norm)
    feed_forward = block.feed_forward
    if feed_forward.gate is None:
        _linear(layer.ffn.linear_0, feed_forward.up)
    else:
        _linear(layer.ffn.linear_0, feed_forward.gate)
        _linear(layer.ffn.linear_0_noact, feed_forward.up)
    _linear(layer.ffn.linear_1, feed_forward.down)
    _norm(layer.ffn.layer_norm, block.feed_forward_residual.norm)


def _attention(spec: Any, attention: Any, projections: list[tuple[nn.Linear, ...]]) -> None:
    factor = 1.0
    if isinstance(attention, ScaledAttention):
        factor = attention.factor
    elif isinstance(attention, UnscaledAttention):
        factor = math.sqrt(attention.d_head)
    if factor != 1:
        spec.queries_scale = factor / math.sqrt(attention.d_head)
    for target, layers in zip(spec.linear, [*projections, (attention.output,)], strict=True):
        _linear(target, *layers)


def _linear(spec: Any, *layers: nn.Linear) -> None:
    """Set a linear layer, or several whose outputs are concatenated; always a copy."""
    spec.weight = torch.cat([one.weight for one in layers])
    if layers[0].bias is not None:
        spec.bias = torch.cat([one.bias for one in layers])


def _norm(spec: Any, norm: Any) -> None:
    spec.gamma = norm.weight
    if not isinstance(norm, RMSNorm):
        spec.beta = torch.zeros_like(norm.weight) if norm.bias is None else norm.bias


def _describe(
    spec: Any, loaded: Loaded, encoder: Side | None, decoder: Side | None, left_out: list[str]
) -> None:
    """Set the vocabularies, the special tokens and the epsilon of the norms."""
    first = decoder or encoder
    assert first is not None
    block: Any = first.stack.blocks[0]
    spec.config.layer_norm_epsilon = block.self_attention_residual.norm.eps
    tokenizer = loaded.tokenizer
    target = None if tokenizer is None else tokenizer.target
    names = vocabulary(target, first.embedding.num_embeddings)
    roles = {} if target is None else target.roles
    decoding = read_decoding(loaded)
    spec.config.unk_token = _named(names, roles.get("unknown"))
    spec.config.bos_token = _named(names, roles.get("start"))
    spec.config.eos_token = _named(names, next(iter(decoding.stops), roles.get("stop")))
    if encoder is None or decoder is None:
        spec.register_vocabulary(names)
    else:
        spec.register_source_vocabulary(vocabulary(tokenizer, encoder.embedding.num_embeddings))
        spec.register_target_vocabulary(names)
        start = decoding.start
        spec.config.decoder_start_token = None if start is None else names[start]
    if isinstance(first.positions, SinusoidalPositions):
        left_out.append(f"positions from {N_SINUSOIDS:,} on")
    left_out += [f"eos_token_id = {one}" for one in decoding.stops[1:]]
    rules: Mapping[str, Any] = given_rules(loaded) if decoder else {}
    left_out += [
        f"{name} = {rules[name]}"
        for name in sorted(rules.keys() - set(NAMED))
        if rules[name] != NO_RULES.get(name)
    ]


def _named(names: list[str], i: int | None) -> str:
    return "" if i is None else names[i]


def vocabulary(tokenizer: Tokenizer | None, size: int) -> list[str]:
    """Return a name for each id; ids without a token have a number.

    Args:
        tokenizer: the tokenizer; None names all ids by their numbers.
        size: number of rows of the embedding.

    Raises:
        ConfigError: if two ids have the same name.
    """
    known = 0 if tokenizer is None else min(tokenizer.vocab_size, size)
    names = [] if tokenizer is None else [tokenizer.name_of(i) for i in range(known)]
    names += [f"<{i}>" if tokenizer else str(i) for i in range(known, size)]
    if len(set(names)) < len(names):
        again = next(name for i, name in enumerate(names) if name in names[:i])
        raise ConfigError(
            f"two ids have the token {again!r}, which CTranslate2 cannot express; expected a name "
            "for each id"
        )
    return names
