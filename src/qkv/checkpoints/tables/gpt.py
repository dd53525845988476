"""GPT-2. Linear layers are stored as (in, out); queries, keys and values are one layer."""

from collections.abc import Callable
from typing import Any

from qkv.checkpoints.family import SIZE, Architecture, Family, Field
from qkv.checkpoints.table import (
    TRANSPOSE,
    Row,
    affine,
    alias,
    ignore,
    layers,
    row,
    split,
    under,
)
from qkv.checkpoints.tables.activations import ACTIVATIONS
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import QuestionAnswering, SequenceClassifier, TokenClassifier

PREFIX = "transformer."


def transposed(theirs: str, ours: str) -> list[Row]:
    """Return the rows of a linear layer whose weight is stored as (in, out)."""
    return [
        row(f"{theirs}.weight", f"{ours}.weight", TRANSPOSE),
        row(f"{theirs}.bias", f"{ours}.bias"),
    ]


def block(d_model: int) -> list[Row]:
    """Return the rows of one block."""
    projections = [f"self_attention.{name}" for name in ("query", "key", "value")]
    weights, biases = (
        tuple(f"{name}.{part}" for name in projections) for part in ("weight", "bias")
    )
    thirds = split(d_model, d_model, d_model)
    return [
        *affine("ln_1", "self_attention_residual.norm"),
        row("attn.c_attn.weight", weights, TRANSPOSE, thirds),
        row("attn.c_attn.bias", biases, thirds),
        *transposed("attn.c_proj", "self_attention.output"),
        # The causal mask, and the fill value of older files.
        ignore("attn.bias"),
        ignore("attn.masked_bias"),
        *affine("ln_2", "feed_forward_residual.norm"),
        *transposed("mlp.c_fc", "feed_forward.up"),
        *transposed("mlp.c_proj", "feed_forward.down"),
    ]


def body(config: GPTConfig, ours: str = "") -> list[Row]:
    """Return the rows of all but the head; our names begin with `ours`."""
    rows = [
        row("wte.weight", "embedding.weight"),
        row("wpe.weight", "positions.table.weight"),
        *layers(
            under(block(config.d_model), theirs="h.{}.", ours="stack.blocks.{}."), config.n_layers
        ),
        *affine("ln_f", "stack.norm"),
    ]
    return under(rows, theirs=PREFIX, ours=ours)


def output_layer(config: Any) -> Row:
    """Return the row of a language model's output layer."""
    if config.tied_output:
        return alias("lm_head.weight", "embedding.weight")
    return row("lm_head.weight", "head.weight")


def normalize(raw: dict[str, Any]) -> dict[str, Any]:
    """Set the default inner width, four times the model width."""
    raw["n_inner"] = raw.get("n_inner") or 4 * raw.get("n_embd", GPTConfig.d_model)
    return with_head_dropout(raw)


def with_head_dropout(raw: dict[str, Any]) -> dict[str, Any]:
    """Set the default dropout of a token classification head."""
    if raw.get("classifier_dropout") is None:
        raw["classifier_dropout"] = 0.1
    return raw


def head(name: str, model: type[Any], build: Callable[[Any, int], Any], *rows: Row) -> Architecture:
    """Return an architecture with a head on the hidden states of GPT-2."""
    return Architecture(
        name=f"GPT2For{name}",
        model=model,
        build=lambda config, n: build(GPT(config).without_head(), n),
        rows=lambda model: [*body(model.config, "encoder."), *rows],
    )


GPT2 = Family(
    model_type="gpt2",
    config=GPTConfig,
    fields=[
        Field("vocab_size", "vocab_size", 50257),
        Field("n_positions", "n_positions", 1024),
        Field("n_embd", "d_model", 768),
        Field("n_head", "n_heads", 12),
        Field("n_inner", "d_ff", kind=SIZE),
        Field("n_layer", "n_layers", 12),
        Field("activation_function", "activation", "gelu_new", ACTIVATIONS),
        Field("layer_norm_epsilon", "norm_eps", 1e-5),
        Field("resid_pdrop", "dropout", 0.1, decode=float),
        Field("attn_pdrop", "attention_dropout", 0.1, decode=float),
        Field("embd_pdrop", "embedding_dropout", 0.1, decode=float),
        Field("classifier_dropout", "head_dropout", 0.1, decode=float),
        Field("tie_word_embeddings", "tied_output", True),
        Field("scale_attn_weights", "divided_by_root", True),
        Field("scale_attn_by_inverse_layer_idx", "divided_by_layer", False),
    ],
    only={
        "add_cross_attention": False,
    },
    harmless=frozenset(
        (
            "n_ctx",  # old name of n_positions
            "reorder_and_upcast_attn",  # precision of the scores of a 16-bit model
            # Options of an unsupported head.
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        )
    ),
    prefix=PREFIX,
    normalize=normalize,
    architectures=(
        Architecture(
            name="GPT2LMHeadModel",
            model=GPT,
            build=lambda config, n: GPT(config),
            rows=lambda model: [*body(model.config), output_layer(model.config)],
        ),
        Architecture(
            name="GPT2Model",
            model=GPT,
            build=lambda config, n: GPT(config).without_head(),
            rows=lambda model: body(model.config),
            base=True,
        ),
        head(
            "SequenceClassification",
            SequenceClassifier,
            lambda e, n: SequenceClassifier(e, n, pool="last", bias=False),
            row("score.weight", "classifier.output.weight"),
        ),
        head(
            "TokenClassification",
            TokenClassifier,
            lambda e, n: TokenClassifier(e, n, dropout=e.config.head_dropout),
            *affine("classifier", "classifier"),
        ),
        head(
            "QuestionAnswering",
            QuestionAnswering,
            lambda e, n: QuestionAnswering(e),
            *affine("qa_outputs", "classifier"),
        ),
    ),
)

FAMILIES = (GPT2,)
