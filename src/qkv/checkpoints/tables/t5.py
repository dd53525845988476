"""T5, versions 1.0 and 1.1, and mT5."""

import dataclasses
from collections.abc import Callable
from typing import Any

from qkv.blocks.feed_forward import GATES
from qkv.checkpoints.family import SIZE, Architecture, Family, Field
from qkv.checkpoints.table import Row, alias, ignore, layers, own_or_same, row, under
from qkv.checkpoints.tables.activations import ACTIVATIONS, GATED
from qkv.errors import ConfigError
from qkv.models.t5 import T5, T5Config, T5Encoder

# "gated-gelu" means the tanh approximation; "gelu" means the exact function.
FEED_FORWARDS = {
    **ACTIVATIONS,
    **{f"gated-{name}": kind for name, kind in GATED.items()},
    "gated-gelu": GATED["gelu_new"],
}
PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}


def normalize(raw: dict[str, Any]) -> dict[str, Any]:
    """Set fields implied by others; version 5 of transformers has other fields for version 1.1.

    It writes `scale_decoder_outputs`, and always that the output layer is tied. The truth follows
    from the scale, as published models have either both or neither.

    Raises:
        ConfigError: if fields contradict the name of the feed-forward network.
    """
    raw = {"feed_forward_proj": "relu", **raw}
    raw["num_decoder_layers"] = raw.get("num_decoder_layers") or raw.get("num_layers", 6)
    if "scale_decoder_outputs" in raw:
        raw["tie_word_embeddings"] = raw.pop("scale_decoder_outputs")
    kind = raw["feed_forward_proj"]
    gate, _, activation = kind.rpartition("-")
    implied = {
        "dense_act_fn": "gelu_new" if kind == "gated-gelu" else activation,
        "is_gated_act": bool(gate),
    }
    for name, value in implied.items():
        if raw.pop(name, value) != value:
            raise ConfigError(
                f"{name} contradicts feed_forward_proj = {kind!r}, which implies {value!r}"
            )
    return raw


def normalize_mt5(raw: dict[str, Any]) -> dict[str, Any]:
    """Set fields implied by others; hidden states are never scaled before the output layer.

    Raises:
        ConfigError: as in `normalize`.
    """
    raw = {"feed_forward_proj": "gated-gelu", **raw}
    raw.setdefault("num_layers", 8)
    return normalize(raw)


def attention(theirs: str, ours: str) -> list[Row]:
    """Return the rows of an attention layer."""
    return [
        row(f"{theirs}.{their}.weight", f"{ours}.{our}.weight")
        for their, our in PROJECTIONS.items()
    ]


def block(config: T5Config, *, decoder: bool) -> list[Row]:
    """Return the rows of a block, whose sublayers are numbered."""
    sublayers = {"self_attention": attention("SelfAttention", "self_attention")}
    if decoder:
        sublayers["cross_attention"] = attention("EncDecAttention", "cross_attention")
    matrices = {"wi": "up", "wo": "down"}
    if config.feed_forward in GATES:
        matrices = {"wi_0": "gate", "wi_1": "up", "wo": "down"}
    sublayers["feed_forward"] = [
        row(f"DenseReluDense.{theirs}.weight", f"feed_forward.{ours}.weight")
        for theirs, ours in matrices.items()
    ]
    return [
        one
        for i, (name, rows) in enumerate(sublayers.items())
        for one in under(
            [*rows, row("layer_norm.weight", f"{name}_residual.norm.weight")], theirs=f"layer.{i}."
        )
    ]


def body(model: T5 | T5Encoder) -> list[Row]:
    """Return the rows of all but the head."""
    config = model.config
    first = "layer.0.SelfAttention.relative_attention_bias.weight"
    rows = [
        row("shared.weight", "embedding.weight"),
        # From old files with a position bias in cross-attention, which is unused.
        ignore("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"),
    ]
    for stack, n in (("encoder", config.n_encoder_layers), ("decoder", config.n_decoder_layers)):
        blocks = under(
            block(config, decoder=stack == "decoder"),
            theirs=f"{stack}.block.{{}}.",
            ours=f"{stack}.blocks.{{}}.",
        )
        rows += [
            alias(f"{stack}.embed_tokens.weight", "embedding.weight"),
            # All layers share the bias of the first.
            row(
                f"{stack}.block.0.{first}",
                f"{stack}.blocks.0.self_attention.position_bias.table.weight",
            ),
            *layers(blocks, n),
            row(f"{stack}.final_layer_norm.weight", f"{stack}.norm.weight"),
        ]
    return rows


def encoder(model: T5Encoder) -> list[Row]:
    """Return the rows of the encoder alone; other tensors in the file are kept."""
    rows = []
    for one in body(model):
        if one.theirs.startswith("decoder."):
            rows.append(ignore(one.theirs))
        else:
            ours = tuple(name.replace("encoder.", "stack.", 1) for name in one.ours)
            rows.append(dataclasses.replace(one, ours=ours))
    return [*rows, ignore("lm_head.weight")]


def with_head(model: T5) -> list[Row]:
    """Return all rows."""
    if model.config.tied_output:
        return [*body(model), alias("lm_head.weight", "embedding.weight")]
    return with_own_head(model)


def with_own_head(model: T5) -> list[Row]:
    """Return all rows; without an output layer in the file, the unscaled embedding is used.

    As in transformers, `tie_word_embeddings` determines whether hidden states are scaled, and the
    file whether the output layer is tied. mT5 never scales.
    """
    return [*body(model), own_or_same("lm_head.weight", "head.weight", "embedding.weight")]


def architectures(
    name: str, rows: Callable[[T5], list[Row]], **changes: Any
) -> tuple[Architecture, ...]:
    """Return a family's architectures, and the rows of the one with a head.

    `changes` are config changes without a field.
    """
    return (
        Architecture(
            name=f"{name}ForConditionalGeneration",
            model=T5,
            build=lambda config, n: T5(config),
            rows=rows,
            changes=changes,
        ),
        Architecture(
            name=f"{name}Model",
            model=T5,
            build=lambda config, n: T5(config).without_head(),
            rows=body,
            changes=changes,
            base=True,
        ),
        Architecture(
            name=f"{name}EncoderModel",
            model=T5Encoder,
            build=lambda config, n: T5Encoder(config),
            rows=encoder,
            changes=changes,
        ),
    )


def fields(*own: Field, vocab_size: int, d_ff: int, n_layers: int, n_heads: int) -> list[Field]:
    """Return the fields of a family with its defaults."""
    return [
        Field("vocab_size", "vocab_size", vocab_size),
        Field("d_model", "d_model", 512),
        Field("num_heads", "n_heads", n_heads),
        Field("d_kv", "d_head", 64),
        Field("d_ff", "d_ff", d_ff),
        Field("num_layers", "n_encoder_layers", n_layers),
        Field("num_decoder_layers", "n_decoder_layers", kind=SIZE),
        Field("feed_forward_proj", "feed_forward", "relu", FEED_FORWARDS),
        Field("relative_attention_num_buckets", "n_buckets", 32),
        Field("relative_attention_max_distance", "max_distance", 128),
        Field("layer_norm_epsilon", "norm_eps", 1e-6),
        Field("dropout_rate", "dropout", 0.1, decode=float),
        *own,
    ]


# There is no maximum length: n_positions was the input length in training.
WITHOUT_EFFECT = frozenset(("initializer_factor", "n_positions"))

T5_FAMILY = Family(
    model_type="t5",
    config=T5Config,
    fields=fields(
        Field("tie_word_embeddings", "tied_output", True),
        vocab_size=32_128,
        d_ff=2048,
        n_layers=6,
        n_heads=8,
    ),
    only={"is_decoder": False},
    harmless=WITHOUT_EFFECT,
    normalize=normalize,
    architectures=architectures("T5", with_head),
)

MT5_FAMILY = Family(
    model_type="mt5",
    config=T5Config,
    fields=fields(vocab_size=250_112, d_ff=1024, n_layers=8, n_heads=6),
    only={"is_decoder": False},
    # Published files claim that nothing is tied, newer ones that everything is; both are ignored.
    harmless=WITHOUT_EFFECT | {"tie_word_embeddings"},
    normalize=normalize_mt5,
    architectures=architectures("MT5", with_own_head, tied_output=False),
)

FAMILIES = (T5_FAMILY, MT5_FAMILY)
