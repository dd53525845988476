"""Llama, Mistral and Qwen2: one model with three config formats."""

from collections.abc import Callable, Mapping
from typing import Any

from qkv.checkpoints.family import SIZE, Architecture, Family, Field
from qkv.checkpoints.table import Row, affine, ignore, layers, row, under
from qkv.checkpoints.tables.activations import GATED
from qkv.checkpoints.tables.gpt import output_layer, with_head_dropout
from qkv.checkpoints.tables.rotary import normalize_rotary, read_scaling, write_scaling
from qkv.errors import ConfigError
from qkv.json_fields import COUNT, FLAG, NULL, OBJECT, TEXT, check_kinds, list_of, shown
from qkv.models.heads import QuestionAnswering, SequenceClassifier, TokenClassifier
from qkv.models.llama import Llama, LlamaConfig

PREFIX = "model."


FULL, SLIDING = "full_attention", "sliding_attention"


def normalize_llama(raw: dict[str, Any]) -> dict[str, Any]:
    """Set defaults, and check that no layer has a window.

    Raises:
        ConfigError: if `layer_types` gives a layer a window: the model has none.
    """
    raw = normalize_rotary(with_head_dropout({"max_position_embeddings": 2048, **raw}))
    _check_layer_types(raw, expected=FULL, because="this family has no windows")
    return raw


def normalize_mistral(raw: dict[str, Any]) -> dict[str, Any]:
    """Set fields whose explicit null differs from absence.

    Raises:
        ConfigError: if `layer_types` contradicts `sliding_window`, which applies to all layers.
    """
    left_out = {
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131_072,
    }
    raw = normalize_rotary(with_head_dropout({**left_out, **raw}))
    window = raw["sliding_window"]
    _check_layer_types(
        raw,
        expected=FULL if window is None else SLIDING,
        because=f"sliding_window = {window!r} applies to every layer",
    )
    return raw


def normalize_qwen2(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert the layers with a window to the index of the first one.

    As in transformers, `use_sliding_window` determines whether there are windows at all, and
    `layer_types`, or by default `max_window_layers`, which layers have one.

    Raises:
        ConfigError: if a layer without a window follows one with a window, or a window has no
            width.
    """
    left_out = {
        "sliding_window": 4096,
        "max_window_layers": 28,
        "max_position_embeddings": 32_768,
        "num_hidden_layers": 32,
    }
    raw = normalize_rotary(with_head_dropout({**left_out, **raw}))
    if not raw.get("use_sliding_window", False):
        raw["sliding_window"] = None
    kinds, n_layers = _layer_types(raw), raw["num_hidden_layers"]
    if kinds is not None:
        n_full = kinds.count(FULL)
        if len(kinds) != n_layers or kinds != [FULL] * n_full + [SLIDING] * (n_layers - n_full):
            raise ConfigError(
                f"layer_types = {shown(kinds)} is not implemented; expected {FULL}, then "
                f"{SLIDING}, for {n_layers} layers in total"
            )
        if n_full < n_layers and raw["sliding_window"] is None:
            raise ConfigError(
                f"layer_types has {SLIDING}, but there is no window size; expected "
                "use_sliding_window = true and a number as sliding_window"
            )
        raw["max_window_layers"] = n_full
    if raw["sliding_window"] is None or raw["max_window_layers"] >= n_layers:
        raw |= {"sliding_window": None, "max_window_layers": 0}
    return raw


def _layer_types(raw: dict[str, Any]) -> list[str] | None:
    check_kinds(raw, {"layer_types": list_of(TEXT) | NULL})
    return raw.pop("layer_types", None)


def _check_layer_types(raw: dict[str, Any], *, expected: str, because: str) -> None:
    """Remove `layer_types`, which these families do not use, if it agrees with the default."""
    kinds = _layer_types(raw)
    if kinds is not None and kinds != [expected] * len(kinds):
        raise ConfigError(
            f"layer_types = {shown(kinds)} is not implemented; expected {expected} alone, as "
            f"{because}"
        )


def block(config: LlamaConfig) -> list[Row]:
    """Return the rows of one block."""
    rows = [
        row("input_layernorm.weight", "self_attention_residual.norm.weight"),
        row("post_attention_layernorm.weight", "feed_forward_residual.norm.weight"),
        ignore("self_attn.rotary_emb.inv_freq"),  # the frequencies, in old files
    ]
    for theirs, ours, bias in (
        ("self_attn.q_proj", "self_attention.query", config.qkv_bias),
        ("self_attn.k_proj", "self_attention.key", config.qkv_bias),
        ("self_attn.v_proj", "self_attention.value", config.qkv_bias),
        ("self_attn.o_proj", "self_attention.output", config.output_bias),
        ("mlp.gate_proj", "feed_forward.gate", config.feed_forward_bias),
        ("mlp.up_proj", "feed_forward.up", config.feed_forward_bias),
        ("mlp.down_proj", "feed_forward.down", config.feed_forward_bias),
    ):
        parts = ("weight", "bias") if bias else ("weight",)
        rows += [row(f"{theirs}.{part}", f"{ours}.{part}") for part in parts]
    return rows


def body(config: LlamaConfig, ours: str = "", theirs: str = PREFIX) -> list[Row]:
    """Return the rows of all but the head, with the prefixes of both sides."""
    rows = [
        row("embed_tokens.weight", "embedding.weight"),
        *layers(
            under(block(config), theirs="layers.{}.", ours="stack.blocks.{}."), config.n_layers
        ),
        row("norm.weight", "stack.norm.weight"),
    ]
    return under(rows, theirs=theirs, ours=ours)


def headed(
    name: str,
    model: type[Any],
    build: Callable[[Any, int], Any],
    *rows: Row,
    prefix: str = PREFIX,
    changes: Mapping[str, Any],
) -> Architecture:
    """Return an architecture with a head on the hidden states."""
    return Architecture(
        name=name,
        model=model,
        build=lambda config, n: build(Llama(config).without_head(), n),
        rows=lambda model: [*body(model.config, "encoder.", prefix), *rows],
        changes=changes,
        prefix=prefix,
    )


def architectures(
    name: str, *, of_answers: str = PREFIX, **changes: Any
) -> tuple[Architecture, ...]:
    """Return a family's architectures.

    Args:
        name: prefix of the architectures' names.
        of_answers: prefix of the base model below the question-answering head.
        changes: config changes without a field.
    """
    return (
        Architecture(
            name=f"{name}ForCausalLM",
            model=Llama,
            build=lambda config, n: Llama(config),
            rows=lambda model: [*body(model.config), output_layer(model.config)],
            changes=changes,
        ),
        Architecture(
            name=f"{name}Model",
            model=Llama,
            build=lambda config, n: Llama(config).without_head(),
            rows=lambda model: body(model.config),
            changes=changes,
            base=True,
        ),
        *heads(name, of_answers, changes),
    )


def heads(name: str, of_answers: str, changes: Mapping[str, Any]) -> tuple[Architecture, ...]:
    """Return the architectures with a head; see `architectures`."""
    return (
        headed(
            f"{name}ForSequenceClassification",
            SequenceClassifier,
            lambda e, n: SequenceClassifier(e, n, pool="last", bias=False),
            row("score.weight", "classifier.output.weight"),
            changes=changes,
        ),
        headed(
            f"{name}ForTokenClassification",
            TokenClassifier,
            lambda e, n: TokenClassifier(e, n, dropout=e.config.head_dropout),
            *affine("score", "classifier"),
            changes=changes,
        ),
        headed(
            f"{name}ForQuestionAnswering",
            QuestionAnswering,
            lambda e, n: QuestionAnswering(e),
            *affine("qa_outputs", "classifier"),
            prefix=of_answers,
            changes=changes,
        ),
    )


def fields(*own: Field, vocab_size: int, d_ff: int, n_positions: int) -> list[Field]:
    """Return the fields of a family with its defaults."""
    return [
        Field("vocab_size", "vocab_size", vocab_size),
        Field("hidden_size", "d_model", 4096),
        Field("intermediate_size", "d_ff", d_ff),
        Field("hidden_act", "feed_forward", "silu", GATED),
        Field("num_hidden_layers", "n_layers", 32),
        Field("num_attention_heads", "n_heads", 32),
        Field("num_key_value_heads", "n_kv_heads", None, kind=SIZE | NULL),
        Field("max_position_embeddings", "n_positions", n_positions),
        Field("rms_norm_eps", "norm_eps", 1e-6),
        Field("rope_theta", "rotary_base", 10_000.0, decode=float),
        Field("partial_rotary_factor", "rotary_share", 1.0),
        Field(
            "rope_scaling",
            "rotary_scaling",
            None,
            decode=read_scaling,
            encode=write_scaling,
            kind=OBJECT | NULL,
        ),
        Field("attention_dropout", "attention_dropout", 0.0, decode=float),
        Field("classifier_dropout", "head_dropout", 0.1, decode=float),
        Field("tie_word_embeddings", "tied_output", False),
        *own,
    ]


LLAMA = Family(
    model_type="llama",
    config=LlamaConfig,
    fields=fields(
        Field("head_dim", "d_head", None, kind=SIZE | NULL),
        # One field for all four projections, so a model in which they differ cannot be written.
        Field("attention_bias", "qkv_bias", False),
        Field("attention_bias", "output_bias", False),
        Field("mlp_bias", "feed_forward_bias", False),
        vocab_size=32_000,
        d_ff=11_008,
        n_positions=2048,
    ),
    harmless=frozenset(("pretraining_tp",)),  # number of slices of a matrix product
    prefix=PREFIX,
    normalize=normalize_llama,
    architectures=architectures("Llama", of_answers="transformer."),
)

MISTRAL = Family(
    model_type="mistral",
    config=LlamaConfig,
    fields=fields(
        Field("head_dim", "d_head", None, kind=SIZE | NULL),
        Field("sliding_window", "window", None, kind=SIZE | NULL),
        vocab_size=32_000,
        d_ff=14_336,
        n_positions=4096 * 32,
    ),
    prefix=PREFIX,
    normalize=normalize_mistral,
    architectures=architectures("Mistral"),
)

QWEN2 = Family(
    model_type="qwen2",
    config=LlamaConfig,
    fields=fields(
        Field(
            "use_sliding_window",
            "window",
            None,
            encode=lambda window: window is not None,
            kind=FLAG | NULL,
        ),
        Field("sliding_window", "window", None, kind=SIZE | NULL),
        Field("max_window_layers", "first_window_layer", 28, kind=COUNT),
        vocab_size=151_936,
        d_ff=22_016,
        n_positions=32_768,
    ),
    prefix=PREFIX,
    normalize=normalize_qwen2,
    architectures=architectures("Qwen2", of_answers="transformer.", qkv_bias=True),
)

FAMILIES = (LLAMA, MISTRAL, QWEN2)
