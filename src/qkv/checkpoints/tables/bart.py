"""BART and mBART, and what their files share with those of Marian."""

import dataclasses
from typing import Any

import torch

from qkv.checkpoints.family import Architecture, Family, Field
from qkv.checkpoints.table import Row, affine, alias, constant, ignore, layers, row, under
from qkv.checkpoints.tables.activations import ACTIVATIONS
from qkv.errors import ConfigError
from qkv.json_fields import COUNT, NULL, list_of
from qkv.models.bart import Bart, BartConfig
from qkv.models.heads import QuestionAnswering, SequenceClassifier

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
        "extra_pos_embeddings",  # how many rows came before the first position; it is 2 regardless
        "force_bos_token_to_be_generated",
        "init_std",
        "num_hidden_layers",
    )
)
ONLY = {
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


def body(model: Any, ours: str = "") -> list[Row]:
    """Return the rows of all but the head, whose names of ours begin with `ours`."""
    rows = [row("shared.weight", "embedding.weight")]
    for stack, side in (("encoder", "source"), ("decoder", "target")):
        rows += [
            alias(f"{stack}.embed_tokens.weight", "embedding.weight"),
            row(f"{stack}.embed_positions.weight", f"{side}_positions.table.weight"),
            *affine(f"{stack}.layernorm_embedding", f"{side}_norm"),
            ignore(f"{stack}.version"),  # of the program that wrote older files
        ]
        if model.config.norm_first:
            rows += affine(f"{stack}.layer_norm", f"{stack}.norm")
    return under([*rows, *stacks(model.config)], theirs=PREFIX, ours=ours)


def with_head(model: Bart) -> list[Row]:
    """Return all rows. Nothing trains the bias of the logits, which some files have."""
    return [
        *body(model),
        alias("lm_head.weight", "embedding.weight"),
        constant("final_logits_bias", lambda: torch.zeros(1, model.config.vocab_size)),
    ]


def classifier(config: BartConfig, n_classes: int) -> SequenceClassifier:
    """Build the head that reads the state at the end of a text, once both stacks have read it.

    Raises:
        ConfigError: if config.json does not say with which token texts end.
    """
    if type(config.end_token) is not int:
        raise ConfigError(
            f"eos_token_id = {config.end_token!r}; expected the id of the token that ends a text, "
            "whose state this model classifies"
        )
    return SequenceClassifier(
        reader(config),
        n_classes,
        pool="last",
        end=config.end_token,
        hidden_layer="tanh",
        dropout=config.head_dropout,
    )


def reader(config: BartConfig) -> Bart:
    """Build the model below a head, where the decoder reads what the encoder does.

    Raises:
        ConfigError: if config.json does not say what comes first there; mBART's decoder begins with
            the last token of the text, its language.
    """
    if config.norm_first:
        config = dataclasses.replace(config, start_token=None)
    elif type(config.start_token) is not int:
        raise ConfigError(
            f"decoder_start_token_id = {config.start_token!r}; expected the id of the decoder's "
            "first token"
        )
    model = Bart(config)
    model.without_head()
    return model


def normalize(raw: dict[str, Any]) -> dict[str, Any]:
    """Say what is null where it is meant, and not where it is left out."""
    return {"decoder_start_token_id": 2, **normalize_mbart(raw)}


def normalize_mbart(raw: dict[str, Any]) -> dict[str, Any]:
    """Say with which token texts end, and what a head drops, where that is left out."""
    raw = {"eos_token_id": 2, **check_said_twice(raw)}
    raw["classifier_dropout"] = raw.get("classifier_dropout") or 0.0
    return raw


def architectures(name: str, **changes: Any) -> tuple[Architecture, ...]:
    """Return a family's architectures; changes to our config are what no field says."""
    return (
        Architecture(
            name=f"{name}ForConditionalGeneration",
            model=Bart,
            build=lambda config, n: Bart(config),
            rows=with_head,
            changes=changes,
        ),
        Architecture(
            name=f"{name}Model",
            model=Bart,
            build=lambda config, n: Bart(config).without_head(),
            rows=body,
            changes=changes,
            base=True,
        ),
        Architecture(
            name=f"{name}ForSequenceClassification",
            model=SequenceClassifier,
            build=classifier,
            rows=lambda model: [
                *body(model, "encoder."),
                *affine("classification_head.dense", "classifier.dense"),
                *affine("classification_head.out_proj", "classifier.output"),
            ],
            changes=changes,
        ),
        Architecture(
            name=f"{name}ForQuestionAnswering",
            model=QuestionAnswering,
            build=lambda config, n: QuestionAnswering(reader(config)),
            rows=lambda model: [*body(model, "encoder."), *affine("qa_outputs", "classifier")],
            changes=changes,
        ),
    )


SHARED_FIELDS = [  # with Marian
    Field("max_position_embeddings", "n_positions", 1024),
    Field("d_model", "d_model", 1024),
    Field("encoder_attention_heads", "n_heads", 16),
    Field("decoder_attention_heads", "n_heads", 16),
    Field("encoder_ffn_dim", "d_ff", 4096),
    Field("decoder_ffn_dim", "d_ff", 4096),
    Field("encoder_layers", "n_encoder_layers", 12),
    Field("decoder_layers", "n_decoder_layers", 12),
    Field("dropout", "dropout", 0.1, decode=float),
    Field("attention_dropout", "attention_dropout", 0.0, decode=float),
]
FIELDS = [
    *SHARED_FIELDS,
    Field("vocab_size", "vocab_size", 50_265),
    Field("activation_function", "activation", "gelu", ACTIVATIONS),
    Field("activation_dropout", "activation_dropout", 0.0, decode=float),
    Field("scale_embedding", "scaled_embedding", False),
    Field("classifier_dropout", "head_dropout", 0.0, decode=float),
    # A list is for decoding, and is written back as one.
    Field(
        "eos_token_id",
        "end_token",
        None,
        decode=lambda ids: tuple(ids) if isinstance(ids, list) else ids,
        encode=lambda ids: list(ids) if isinstance(ids, tuple) else ids,
        kind=COUNT | list_of(COUNT) | NULL,
    ),
]
START = Field("decoder_start_token_id", "start_token", None, kind=COUNT | NULL)
BOTH = {
    "normalize_embedding": True,
    "static_position_embeddings": False,
    "tie_word_embeddings": True,
}

BART = Family(
    model_type="bart",
    config=BartConfig,
    fields=[*FIELDS, START],
    only={**ONLY, **BOTH},
    harmless=WITHOUT_EFFECT,
    prefix=PREFIX,
    normalize=normalize,
    architectures=architectures("Bart"),
)

MBART = Family(
    model_type="mbart",
    config=BartConfig,
    fields=FIELDS,
    only={**ONLY, **BOTH, "normalize_before": True, "add_final_layer_norm": True},
    harmless=WITHOUT_EFFECT,
    prefix=PREFIX,
    normalize=normalize_mbart,
    architectures=architectures("MBart", norm_first=True),
)

FAMILIES = (BART, MBART)
