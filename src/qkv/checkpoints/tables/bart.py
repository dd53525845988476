"""BART, and what its files share with Marian's: the rows of a block, and two words for one size."""

from typing import Any

import torch

from qkv.checkpoints.family import Architecture, Family, Field
from qkv.checkpoints.table import Row, affine, alias, constant, ignore, layers, row, under
from qkv.checkpoints.tables.bert import ACTIVATIONS
from qkv.errors import ConfigError
from qkv.models.bart import Bart, BartConfig

PREFIX = "model."

# Sizes that config.json says more than once: encoder and decoder cannot differ in them here.
SAID_TWICE = (
    ("encoder_attention_heads", "decoder_attention_heads"),
    ("encoder_ffn_dim", "decoder_ffn_dim"),
    ("encoder_layers", "num_hidden_layers"),
)
WITHOUT_EFFECT = frozenset(
    (
        "_num_labels",
        "classif_dropout",
        "classifier_dropout",
        "extra_pos_embeddings",  # how many rows came before the first position; it is 2 regardless
        "force_bos_token_to_be_generated",
        "init_std",
        "num_hidden_layers",
    )
)
ONLY = {
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "is_decoder": False,
    # Of files that older programs wrote, which said more than one model's variants.
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "do_blenderbot_90_layernorm": False,
    "normalize_before": False,
}


def check_said_twice(raw: dict[str, Any]) -> dict[str, Any]:
    """Refuse an encoder and a decoder of different sizes, and numbers that contradict each other.

    Raises:
        ConfigError: with both fields.
    """
    for one, other in SAID_TWICE:
        if one in raw and other in raw and raw[one] != raw[other]:
            raise ConfigError(
                f"{one} = {raw[one]!r} and {other} = {raw[other]!r}; only equal ones are "
                "implemented"
            )
    return raw


def block(*, decoder: bool) -> list[Row]:
    """Return the rows of one block."""
    attentions = {"self_attn": "self_attention"}
    if decoder:
        attentions["encoder_attn"] = "cross_attention"
    rows = []
    for theirs, ours in attentions.items():
        rows += [
            *affine(f"{theirs}.q_proj", f"{ours}.query"),
            *affine(f"{theirs}.k_proj", f"{ours}.key"),
            *affine(f"{theirs}.v_proj", f"{ours}.value"),
            *affine(f"{theirs}.out_proj", f"{ours}.output"),
            *affine(f"{theirs}_layer_norm", f"{ours}_residual.norm"),
        ]
    return [
        *rows,
        *affine("fc1", "feed_forward.up"),
        *affine("fc2", "feed_forward.down"),
        *affine("final_layer_norm", "feed_forward_residual.norm"),
    ]


def stacks(config: Any) -> list[Row]:
    """Return the rows of all blocks."""
    return [
        one
        for stack, n in (("encoder", config.n_encoder_layers), ("decoder", config.n_decoder_layers))
        for one in layers(
            under(
                block(decoder=stack == "decoder"),
                theirs=f"{stack}.layers.{{}}.",
                ours=f"{stack}.blocks.{{}}.",
            ),
            n,
        )
    ]


def body(model: Bart) -> list[Row]:
    """Return the rows of all but the head."""
    rows = [row("shared.weight", "embedding.weight")]
    for stack, ours in (("encoder", "source"), ("decoder", "target")):
        rows += [
            alias(f"{stack}.embed_tokens.weight", "embedding.weight"),
            row(f"{stack}.embed_positions.weight", f"{ours}_positions.table.weight"),
            *affine(f"{stack}.layernorm_embedding", f"{ours}_norm"),
            ignore(f"{stack}.version"),  # of the program that wrote older files
        ]
    return under([*rows, *stacks(model.config)], theirs=PREFIX)


def with_head(model: Bart) -> list[Row]:
    """Return all rows. Nothing trains the bias of the logits, which some files have."""
    return [
        *body(model),
        alias("lm_head.weight", "embedding.weight"),
        constant("final_logits_bias", lambda: torch.zeros(1, model.config.vocab_size)),
    ]


BART = Family(
    model_type="bart",
    config=BartConfig,
    fields=[
        Field("vocab_size", "vocab_size", 50_265),
        Field("max_position_embeddings", "n_positions", 1024),
        Field("d_model", "d_model", 1024),
        Field("encoder_attention_heads", "n_heads", 16),
        Field("decoder_attention_heads", "n_heads", 16),
        Field("encoder_ffn_dim", "d_ff", 4096),
        Field("decoder_ffn_dim", "d_ff", 4096),
        Field("encoder_layers", "n_encoder_layers", 12),
        Field("decoder_layers", "n_decoder_layers", 12),
        Field("activation_function", "activation", "gelu", ACTIVATIONS),
        Field("dropout", "dropout", 0.1, decode=float),
        Field("attention_dropout", "attention_dropout", 0.0, decode=float),
        Field("activation_dropout", "activation_dropout", 0.0, decode=float),
    ],
    only={
        **ONLY,
        "normalize_embedding": True,
        "scale_embedding": False,
        "static_position_embeddings": False,
        "tie_word_embeddings": True,
    },
    harmless=WITHOUT_EFFECT,
    prefix=PREFIX,
    normalize=check_said_twice,
    architectures=(
        Architecture(
            name="BartForConditionalGeneration",
            model=Bart,
            build=lambda config, n: Bart(config),
            rows=with_head,
        ),
        Architecture(
            name="BartModel",
            model=Bart,
            build=lambda config, n: Bart(config).without_head(),
            rows=body,
            base=True,
        ),
    ),
)

FAMILIES = (BART,)
