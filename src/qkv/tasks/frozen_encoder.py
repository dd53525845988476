"""A small decoder on a frozen pretrained encoder: build, save without the encoder, reload."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save
from torch import Tensor, nn

from qkv.checkpoints.building import build, check_size
from qkv.checkpoints.reader import CONFIG, WEIGHTS, open_weights
from qkv.checkpoints.registry import family_of
from qkv.checkpoints.table import listed
from qkv.data.classification import evaluation_batches, tokens_at_once
from qkv.errors import ConfigError, DataError
from qkv.files import write_atomically
from qkv.json_fields import NULL, TEXT, check_kinds, quoted, read_json
from qkv.models.bert import Bert
from qkv.models.modes import evaluating
from qkv.models.pointer_generator import PointerGenerator, PointerGeneratorConfig
from qkv.tasks.pretrained import Loaded, load, locate_base

DECODER_FILE = "decoder.safetensors"  # weights without the encoder's
BASE = "_name_or_path"  # the encoder's name in config.json
MODEL_TYPE = "qkv_pointer_generator"


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The sizes of a new decoder; the others follow from the encoder.

    Args:
        d_model: width of the decoder.
        n_heads: number of heads of each attention.
        d_ff: inner width of the feed-forward networks.
        n_layers: number of blocks.
        dropout: dropout of each sublayer's output.
    """

    d_model: int = 192
    n_heads: int = 6
    d_ff: int = 768
    n_layers: int = 2
    dropout: float = 0.2


def new_decoder(base: str | os.PathLike[str], decoder: DecoderConfig = DecoderConfig()) -> Loaded:
    """Put a new decoder on a pretrained BERT, which is frozen, in float32.

    Raises:
        ConfigError: the base is not a BERT, or has no tokenizer.
    """
    loaded = _encoder(base, device=None)
    own = loaded.model.config
    config = PointerGeneratorConfig(
        vocab_size=own.vocab_size,
        n_positions=own.n_positions,
        n_segments=own.n_segments,
        d_encoder=own.d_model,
        n_encoder_heads=own.n_heads,
        d_encoder_ff=own.d_ff,
        n_encoder_layers=own.n_layers,
        encoder_activation=own.activation,
        encoder_norm_eps=own.norm_eps,
        **asdict(decoder),
    )
    model = PointerGenerator(config)
    model.encoder.load_state_dict(_weights(loaded))
    model.encoder.requires_grad_(False)
    return Loaded(
        model.eval(), loaded.tokenizer, config={"model_type": MODEL_TYPE, BASE: os.fspath(base)}
    )


def write_decoder(saved: Path, folder: Path) -> None:
    """Write only the decoder, in float16; its config.json names the encoder.

    Args:
        saved: folder of the whole model.
        folder: folder for config.json and the decoder's weights.
    """
    tensors = {
        name: tensor.half()
        for name, tensor in load_file(saved / WEIGHTS).items()
        if not name.startswith("encoder.")
    }
    write_atomically(folder / DECODER_FILE, save(tensors))
    write_atomically(folder / CONFIG, (saved / CONFIG).read_bytes())


def join_decoder(
    folder: Path, *, device: torch.device | str | None = None, allow_download: bool = False
) -> Loaded:
    """Load a decoder written by `write_decoder`, in float32, with the encoder that it names.

    Args:
        folder: folder of the decoder.
        device: device of the model.
        allow_download: whether to look on the Hub for the encoder.

    Raises:
        DataError: the folder names no encoder, or one that the decoder does not fit.
    """
    config: dict[str, Any] = read_json(folder / CONFIG)
    check_kinds(config, {BASE: TEXT | NULL}, where=str(folder / CONFIG))
    if not config.get(BASE):
        raise DataError(
            f"{folder} has only a decoder, but {CONFIG} lacks {BASE}, the name of its encoder"
        )
    encoder = locate_base(config[BASE], folder / CONFIG, allow_download=allow_download)
    base = _encoder(encoder, device=device, allow_download=allow_download)
    family, files = family_of(config.get("model_type")), open_weights(folder / DECODER_FILE)
    if family.model_type != MODEL_TYPE:
        raise ConfigError(
            f"{folder / CONFIG}: model_type = {family.model_type!r} beside {DECODER_FILE}; "
            f"expected {MODEL_TYPE!r}"
        )
    own_config = family.read_config(config, family.architectures[0])
    pretrained = {f"encoder.{name}": tensor for name, tensor in _weights(base).items()}
    weights = {**pretrained, **{name: tensor.float() for name, tensor in files.items()}}
    check_size(family, own_config, config, weights)
    built = build(family.architectures[0], own_config, config)
    if wrong := _differing(built, weights):
        raise DataError(
            f"{folder} does not fit its encoder {quoted(config[BASE])}, or its own {CONFIG}: "
            f"{listed(wrong)}"
        )
    model = PointerGenerator(own_config)
    model.load_state_dict(weights)
    return Loaded(model.to(device).eval(), base.tokenizer, config=config)


def _differing(model: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of parameters that are missing, unknown, or of another shape."""
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    stored = {name: tensor.shape for name, tensor in weights.items()}
    return sorted(
        name for name in shapes.keys() | stored.keys() if shapes.get(name) != stored.get(name)
    )


def frozen_features(
    model: PointerGenerator,
    sources: Sequence[Sequence[int]],
    *,
    pad: int,
    device: torch.device | str,
) -> list[Float[Tensor, "_ width"]]:
    """Return the encoder's outputs in float16; the encoder is frozen, so every epoch can use them.

    Args:
        model: model with the encoder.
        sources: token ids of the texts.
        pad: id that fills short rows.
        device: device to compute on; the result is on the CPU.
    """
    features: list[Tensor] = [torch.empty(0)] * len(sources)
    model.to(device)
    longest = max(map(len, sources), default=1)
    most = max(tokens_at_once(torch.device(device)), longest)
    with evaluating(model), torch.inference_mode():
        for batch in evaluation_batches(sources, pad=pad, max_tokens=most):
            moved = batch.to(device)
            hidden = model.encode(moved.tokens, moved.token_mask)
            for row, states in zip(batch.rows, hidden.cpu(), strict=True):
                features[row] = states[: len(sources[row])].half().clone()
    return features


def _encoder(
    base: str | os.PathLike[str],
    *,
    device: torch.device | str | None,
    allow_download: bool = False,
) -> Loaded:
    loaded = load(base, dtype=torch.float32, device=device, allow_download=allow_download)
    if not isinstance(loaded.model, Bert) or loaded.tokenizer is None:
        raise ConfigError(
            f"{base} is a {type(loaded.model).__name__} with "
            f"{'no' if loaded.tokenizer is None else 'a'} tokenizer; expected a BERT without a "
            "head, such as all-MiniLM-L6-v2, or a BART or T5"
        )
    return loaded


def _weights(loaded: Loaded) -> dict[str, Tensor]:
    """Return the encoder's weights without its pooler, which does not affect token states."""
    weights = loaded.model.state_dict()
    return {name: tensor for name, tensor in weights.items() if not name.startswith("pooler.")}
