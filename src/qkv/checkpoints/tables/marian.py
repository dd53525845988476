"""Marian."""

from typing import Any, cast

import torch
from torch import Tensor

from qkv.blocks.positions import sinusoids
from qkv.checkpoints.family import SIZE, Architecture, Family, Field
from qkv.checkpoints.table import ONE_ROW, Row, alias, constant, row, under
from qkv.checkpoints.tables.activations import ACTIVATIONS
from qkv.checkpoints.tables.bart import (
    ONLY,
    PREFIX,
    SHARED_FIELDS,
    WITHOUT_EFFECT,
    check_duplicates,
    stacks,
)
from qkv.models.marian import Marian, MarianConfig


def normalize(raw: dict[str, Any]) -> dict[str, Any]:
    """Set defaults."""
    raw = check_duplicates(raw)
    size = raw.get("decoder_vocab_size") or raw.get("vocab_size", 58_101)
    return {**raw, "decoder_vocab_size": size}


def body(model: Marian) -> list[Row]:
    """Return the rows of all but the head."""
    config = cast(MarianConfig, model.config)

    def positions() -> Tensor:
        places = torch.arange(config.n_positions)
        waves = sinusoids(places, config.d_model, layout="halves", dtype=torch.float64)
        return waves.float()

    if config.shared_embeddings:
        tokens = [
            row("shared.weight", "target_embedding.weight"),
            alias("encoder.embed_tokens.weight", "target_embedding.weight"),
            alias("decoder.embed_tokens.weight", "target_embedding.weight"),
        ]
    else:
        tokens = [
            row("encoder.embed_tokens.weight", "source_embedding.weight"),
            row("decoder.embed_tokens.weight", "target_embedding.weight"),
        ]
    rows = [
        *tokens,
        constant("encoder.embed_positions.weight", positions),
        constant("decoder.embed_positions.weight", positions),
        *stacks(config),
    ]
    return under(rows, theirs=PREFIX)


def with_head(model: Marian) -> list[Row]:
    """Return all rows."""
    output = row("lm_head.weight", "head.weight")
    if model.config.tied_output:
        output = alias("lm_head.weight", "target_embedding.weight")
    return [*body(model), output, row("final_logits_bias", "head.bias", ONE_ROW)]


MARIAN = Family(
    model_type="marian",
    config=MarianConfig,
    fields=[
        *SHARED_FIELDS,
        Field("vocab_size", "source_vocab_size", 58_101),
        Field("decoder_vocab_size", "target_vocab_size", kind=SIZE),
        Field("activation_function", "feed_forward", "gelu", ACTIVATIONS),
        Field("share_encoder_decoder_embeddings", "shared_embeddings", True),
        Field("tie_word_embeddings", "tied_output", True),
        Field("scale_embedding", "scaled_embeddings", False),
    ],
    only={
        **ONLY,
        "normalize_embedding": False,
    },
    # Positions are always sinusoids, regardless of this field.
    harmless=WITHOUT_EFFECT | {"classifier_dropout", "static_position_embeddings"},
    prefix=PREFIX,
    normalize=normalize,
    architectures=(
        Architecture(
            name="MarianMTModel",
            model=Marian,
            build=lambda config, n: Marian(config),
            rows=with_head,
        ),
        Architecture(
            name="MarianModel",
            model=Marian,
            build=lambda config, n: Marian(config).without_head(),
            rows=body,
            base=True,
        ),
    ),
)

FAMILIES = (MARIAN,)
