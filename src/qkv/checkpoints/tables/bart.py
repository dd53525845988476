"""BART and mBART, and tables shared with Marian."""

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

# Sizes that config.json has for encoder and decoder, which must be equal here.
SAID_TWICE = (
    ("encoder_attention_heads", "decoder_attention_heads"),
    ("encoder_ffn_dim", "decoder_ffn_dim"),
    ("encoder_layers", "num_hidden_layers"),
)
WITHOUT_EFFECT = frozenset(
    (
        "_num_labels",
        "extra_pos_embeddings",  # rows before the first position, always 2
        "force_bos_token_to_be_generated",
        "init_std",
        "num_hidden_layers",
    )
)
ONLY = {
    "is_decoder": False,
    # From older programs, whose files described variants of several models.
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "do_blenderbot_90_layernorm": False,
    "normalize_before": False,
}


def check_duplicates(raw: dict[str, Any]) -> dict[str, Any]:
    """Check that encoder and decoder have the same sizes, and that no fields contradict each other.

    Raises:
        ConfigError: naming both fields.
    """
    for one, other in SAID_TWICE:
        if one in raw and other in raw and raw[one] != raw[other]:
            raise ConfigError(
                f"{one} = {raw[one]!r} and {other} = {raw[other]!r}; only equal values are "
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
    """Return the rows of all but the head; our names begin with `ours`."""
    rows = [row("shared.weight", "embedding.weight")]
    for stack, side in (("encoder", "source"), ("decoder", "target")):
        rows += [
            alias(f"{stack}.embed_tokens.weight", "embedding.weight"),
            row(f"{stack}.embed_positions.weight", f"{side}_positions.table.weight"),
            *affine(f"{stack}.layernorm_embedding", f"{side}_norm"),
            ignore(f"{stack}.version"),  # version of the program that wrote older files
        ]
        if model.config.norm_first:
            rows += affine(f"{stack}.layer_norm", f"{stack}.norm")
    return under([*rows, *stacks(model.config)], theirs=PREFIX, ours=ours)


def with_head(model: Bart) -> list[Row]:
    """Return all rows. The bias of the logits in some files is never trained."""
    return [
        *body(model),
        alias("lm_head.weight", "embedding.weight"),
        constant("final_logits_bias", lambda: torch.zeros(1, model.config.vocab_size)),
    ]


def classifier(config: BartConfig, n_classes: int) -> SequenceClassifier:
    """Build a classification head on the final state of a text from both stacks.

    Raises:
        ConfigError: if config.json has no end token.
    """
    if type(config.end_token) is not int:
        raise ConfigError(
            f"eos_token_id = {config.end_token!r}; expected the id of the end token, "
            "whose state is classified"
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
    """Build the model below a head, in which the decoder gets the same text as the encoder.

    Raises:
        ConfigError: if config.json has no start token; mBART's decoder begins with the last token
            of the text, its language.
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
    """Set fields whose explicit null differs from absence."""
    return {"decoder_start_token_id": 2, **normalize_mbart(raw)}


def normalize_mbart(raw: dict[str, Any]) -> dict[str, Any]:
    """Set the defaults of the end token and the head's dropout."""
    raw = {"eos_token_id": 2, **check_duplicates(raw)}
    raw["classifier_dropout"] = raw.get("classifier_dropout") or 0.0
    return raw


def architectures(name: str, **changes: Any) -> tuple[Architecture, ...]:
    """Return a family's architectures; `changes` are config changes without a field."""
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


SHARED_FIELDS = [  # shared with Marian
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
    # A list is used for decoding, and is written back unchanged.
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
