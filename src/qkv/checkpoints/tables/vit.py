"""ViT and DeiT."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from qkv.checkpoints.family import Architecture, Family, Field
from qkv.checkpoints.table import Row, affine, ignore, layers, row, under
from qkv.checkpoints.tables.activations import ACTIVATIONS
from qkv.errors import ConfigError
from qkv.json_fields import shown, whole
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import DistilledClassifier, ViT, ViTConfig

BLOCK = [
    *affine("layernorm_before", "self_attention_residual.norm"),
    *affine("attention.attention.query", "self_attention.query"),
    *affine("attention.attention.key", "self_attention.key"),
    *affine("attention.attention.value", "self_attention.value"),
    *affine("attention.output.dense", "self_attention.output"),
    *affine("layernorm_after", "feed_forward_residual.norm"),
    *affine("intermediate.dense", "feed_forward.up"),
    *affine("output.dense", "feed_forward.down"),
]
QKV_BIASES = {f"self_attention.{name}.bias" for name in ("query", "key", "value")}
POOLER = affine("pooler.dense", "pooler")


def vit_rows(model: Any, prefix: str) -> list[Row]:
    """Return the rows of the encoder, alone or below a head."""
    config = model.config
    block = [one for one in BLOCK if config.qkv_bias or not QKV_BIASES.issuperset(one.ours)]
    tokens = {
        "embeddings.cls_token": "class_token",
        "embeddings.distillation_token": "distillation_token",
    }
    rows = [
        *(row(theirs, ours) for theirs, ours in tokens.items() if getattr(config, ours)),
        row("embeddings.position_embeddings", "positions"),
        *affine("embeddings.patch_embeddings.projection", "patches"),
        # The mask token of pretraining.
        ignore("embeddings.mask_token"),
        *layers(under(block, theirs="encoder.layer.{}.", ours="stack.blocks.{}."), config.n_layers),
        *affine("layernorm", "stack.norm"),
        # A trained pooler stays in the files of models that do not use it.
        *(POOLER if config.pooler else [ignore(one.theirs) for one in POOLER]),
    ]
    return under(rows, theirs=prefix, ours="" if isinstance(model, ViT) else "encoder.")


def architecture(
    name: str,
    model: type[nn.Module],
    build: Callable[[ViT, int], nn.Module],
    head: Sequence[Row] = (),
    *,
    prefix: str,
    **changes: Any,
) -> Architecture:
    """Return an architecture; `changes` are config changes without a field."""
    return Architecture(
        name=name,
        model=model,
        build=lambda config, n_classes: build(ViT(config), n_classes),
        rows=lambda built: [*vit_rows(built, prefix), *head],
        changes=changes,
        base=model is ViT,
    )


def classifier(encoder: ViT, n_classes: int) -> SequenceClassifier:
    """Add the published head, on the class token, or on the mean if there is none."""
    pool = "first" if encoder.config.class_token else "mean"
    return SequenceClassifier(encoder, n_classes, pool=pool)


SIDE = whole(1, 2**16)


def read_size(size: Any) -> int | tuple[int, int]:
    """Convert a size in config.json: a number, or height and width.

    Raises:
        ConfigError: if it is neither.
    """
    match size:
        case [height, width] if SIDE.fits(height) and SIDE.fits(width):
            return height, width
        case _ if SIDE.fits(size):
            return size
    raise ConfigError(f"{shown(size)} is not a size; expected a number, or height and width")


def write_size(size: int | tuple[int, int]) -> int | list[int]:
    """Convert a size to JSON."""
    return size if isinstance(size, int) else list(size)


def without_own_pooler_size(raw: dict[str, Any]) -> dict[str, Any]:
    """Remove the pooler's size if it equals the model's."""
    if raw.get("pooler_output_size") == raw.get("hidden_size", ViTConfig().d_model):
        raw = {name: value for name, value in raw.items() if name != "pooler_output_size"}
    return raw


def describe(model_type: str, architectures: Sequence[Architecture], *own: Field) -> Family:
    """Return a family; ViT's and DeiT's config.json have the same fields."""
    defaults = ViTConfig()
    return Family(
        model_type=model_type,
        config=ViTConfig,
        fields=[
            *own,
            # The defaults are pairs; `read_size` also accepts a number.
            Field("image_size", "image_size", [224, 224], decode=read_size, encode=write_size),
            Field("patch_size", "patch_size", [16, 16], decode=read_size, encode=write_size),
            Field("hidden_act", "activation", "gelu", ACTIVATIONS),
            *(Field(name, ours, getattr(defaults, ours)) for ours, name in FIELDS.items()),
        ],
        only={"pooler_act": "tanh", "pooler_output_size": None},
        harmless=frozenset(("encoder_stride",)),
        normalize=without_own_pooler_size,
        prefix=f"{model_type}.",
        architectures=architectures,
    )


FIELDS = {
    "n_channels": "num_channels",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "norm_eps": "layer_norm_eps",
    "qkv_bias": "qkv_bias",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
vit = partial(architecture, prefix="vit.")
deit = partial(architecture, prefix="deit.", distillation_token=True)

VIT = describe(
    "vit",
    (
        vit("ViTModel", ViT, lambda e, n: e, pooler=True),
        vit(
            "ViTForImageClassification",
            SequenceClassifier,
            classifier,
            affine("classifier", "classifier.output"),
        ),
    ),
    # Our own option; published models have a class token.
    Field("class_token", "class_token", True),
)
DEIT = describe(
    "deit",
    (
        deit("DeiTModel", ViT, lambda e, n: e, pooler=True),
        deit(
            "DeiTForImageClassification",
            SequenceClassifier,
            classifier,
            affine("classifier", "classifier.output"),
        ),
        deit(
            "DeiTForImageClassificationWithTeacher",
            DistilledClassifier,
            DistilledClassifier,
            [
                *affine("cls_classifier", "classifier"),
                *affine("distillation_classifier", "distilled"),
            ],
        ),
    ),
)

FAMILIES = (VIT, DEIT)
