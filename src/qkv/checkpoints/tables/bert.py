"""BERT, RoBERTa, XLM-RoBERTa, CamemBERT and DistilBERT."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from qkv.checkpoints.family import Architecture, Family, Field
from qkv.checkpoints.table import Row, affine, alias, constant, ignore, layers, row, under
from qkv.checkpoints.tables.activations import ACTIVATIONS
from qkv.json_fields import COUNT, whole
from qkv.models.bert import Bert, BertConfig
from qkv.models.heads import (
    MaskedLM,
    MultipleChoice,
    NextSentence,
    PreTraining,
    QuestionAnswering,
    SequenceClassifier,
    TokenClassifier,
)

EMBEDDINGS = [
    row("embeddings.word_embeddings.weight", "embedding.weight"),
    row("embeddings.position_embeddings.weight", "positions.table.weight"),
    *affine("embeddings.LayerNorm", "norm"),
]
SEGMENTS = row("embeddings.token_type_embeddings.weight", "segments.weight")
POOLER = affine("pooler.dense", "pooler")

BERT_BLOCK = [
    *affine("attention.self.query", "self_attention.query"),
    *affine("attention.self.key", "self_attention.key"),
    *affine("attention.self.value", "self_attention.value"),
    *affine("attention.output.dense", "self_attention.output"),
    *affine("attention.output.LayerNorm", "self_attention_residual.norm"),
    *affine("intermediate.dense", "feed_forward.up"),
    *affine("output.dense", "feed_forward.down"),
    *affine("output.LayerNorm", "feed_forward_residual.norm"),
]
DISTILBERT_BLOCK = [
    *affine("attention.q_lin", "self_attention.query"),
    *affine("attention.k_lin", "self_attention.key"),
    *affine("attention.v_lin", "self_attention.value"),
    *affine("attention.out_lin", "self_attention.output"),
    *affine("sa_layer_norm", "self_attention_residual.norm"),
    *affine("ffn.lin1", "feed_forward.up"),
    *affine("ffn.lin2", "feed_forward.down"),
    *affine("output_layer_norm", "feed_forward_residual.norm"),
]


BERT_MASKED_LM = [
    *affine("cls.predictions.transform.dense", "head.dense"),
    *affine("cls.predictions.transform.LayerNorm", "head.norm"),
    row("cls.predictions.bias", "head.output.bias"),
    alias("cls.predictions.decoder.bias", "head.output.bias"),
    alias("cls.predictions.decoder.weight", "encoder.embedding.weight"),
]
ROBERTA_MASKED_LM = [
    *affine("lm_head.dense", "head.dense"),
    *affine("lm_head.layer_norm", "head.norm"),
    row("lm_head.bias", "head.output.bias"),
    alias("lm_head.decoder.bias", "head.output.bias"),
    alias("lm_head.decoder.weight", "encoder.embedding.weight"),
]
DISTILBERT_MASKED_LM = [
    *affine("vocab_transform", "head.dense"),
    *affine("vocab_layer_norm", "head.norm"),
    row("vocab_projector.bias", "head.output.bias"),
    alias("vocab_projector.weight", "encoder.embedding.weight"),
]
NEXT_SENTENCE = "cls.seq_relationship"


def bert_rows(
    model: Any, prefix: str, block: Sequence[Row] = BERT_BLOCK, blocks: str = "encoder.layer.{}."
) -> list[Row]:
    """Return the rows of the encoder, alone or below a head."""
    config = model.config
    rows = [
        *EMBEDDINGS,
        *([SEGMENTS] if config.n_segments else []),
        *layers(under(block, theirs=blocks, ours="stack.blocks.{}."), config.n_layers),
        # A trained pooler stays in the files of models that do not use it.
        *(POOLER if config.pooler else [ignore(one.theirs) for one in POOLER]),
        constant("embeddings.position_ids", lambda: torch.arange(config.n_positions)[None]),
    ]
    return under(rows, theirs=prefix, ours="" if isinstance(model, Bert) else "encoder.")


def distilbert_rows(model: Any, prefix: str) -> list[Row]:
    """Return the rows of DistilBERT's encoder, alone or below a head."""
    return bert_rows(model, prefix, DISTILBERT_BLOCK, "transformer.layer.{}.")


def describe(
    encoder: Callable[[Any, str], list[Row]], prefix: str, **fixed: Any
) -> Callable[..., Architecture]:
    """Return a function that creates a family's architectures.

    Args:
        encoder: returns the rows of the encoder.
        prefix: prefix of the encoder below a head.
        fixed: values of our config without a field in config.json.
    """

    def architecture(
        name: str,
        model: type[Any],
        build: Callable[[Bert, int], Any],
        head: Sequence[Row] = (),
        **changes: Any,
    ) -> Architecture:
        return Architecture(
            name=name,
            model=model,
            build=lambda config, n_classes: build(Bert(config), n_classes),
            rows=lambda built: [*encoder(built, prefix), *head],
            changes={**fixed, **changes},
            base=model is Bert,
        )

    return architecture


def of_tokens(make: Callable[..., Architecture], name: str) -> tuple[Architecture, ...]:
    """Return the two token-level architectures, which are the same in all families."""
    return (
        make(
            f"{name}ForTokenClassification",
            TokenClassifier,
            lambda e, n: TokenClassifier(e, n, dropout=e.config.head_dropout),
            affine("classifier", "classifier"),
            pooler=False,
        ),
        make(
            f"{name}ForQuestionAnswering",
            QuestionAnswering,
            lambda e, n: QuestionAnswering(e),
            affine("qa_outputs", "classifier"),
            pooler=False,
        ),
    )


def with_classifier_dropout(raw: dict[str, Any]) -> dict[str, Any]:
    """Set the classifiers' dropout, which defaults to the dropout of hidden states."""
    if raw.get("classifier_dropout") is None:
        raw["classifier_dropout"] = raw.get("hidden_dropout_prob", BertConfig().dropout)
    return raw


def fields(*own: Field, **theirs: str) -> list[Field]:
    """Return the fields of a family, with BERT's defaults."""
    defaults, kinds = BertConfig(), {"n_segments": COUNT}  # 0: none
    return [
        *own,
        *(
            Field(name, ours, getattr(defaults, ours), kind=kinds.get(ours))
            for ours, name in theirs.items()
        ),
    ]


BERT_FIELDS = {
    "n_positions": "max_position_embeddings",
    "n_segments": "type_vocab_size",
    "d_model": "hidden_size",
    "n_heads": "num_attention_heads",
    "d_ff": "intermediate_size",
    "n_layers": "num_hidden_layers",
    "norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "head_dropout": "classifier_dropout",
}
BERT_ONLY = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "tie_word_embeddings": True,
}
bert = describe(bert_rows, "bert.")
roberta = describe(bert_rows, "roberta.")
distilbert = describe(distilbert_rows, "distilbert.", n_segments=0, pooler=False)

BERT = Family(
    model_type="bert",
    config=BertConfig,
    fields=fields(
        Field("hidden_act", "activation", "gelu", ACTIVATIONS),
        vocab_size="vocab_size",
        **BERT_FIELDS,
    ),
    only=BERT_ONLY,
    normalize=with_classifier_dropout,
    prefix="bert.",
    spellings=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    architectures=(
        bert("BertModel", Bert, lambda e, n: e),
        bert(
            "BertForPreTraining",
            PreTraining,
            lambda e, n: PreTraining(e),
            [*BERT_MASKED_LM, *affine(NEXT_SENTENCE, "classifier")],
        ),
        bert(
            "BertForMaskedLM",
            MaskedLM,
            lambda e, n: MaskedLM(e),
            [*BERT_MASKED_LM, *map(ignore, (f"{NEXT_SENTENCE}.weight", f"{NEXT_SENTENCE}.bias"))],
            pooler=False,
        ),
        bert(
            "BertForNextSentencePrediction",
            NextSentence,
            lambda e, n: NextSentence(e),
            affine(NEXT_SENTENCE, "classifier.output"),
        ),
        bert(
            "BertForSequenceClassification",
            SequenceClassifier,
            lambda e, n: SequenceClassifier(e, n, dropout=e.config.head_dropout),
            affine("classifier", "classifier.output"),
        ),
        *of_tokens(bert, "Bert"),
        bert(
            "BertForMultipleChoice",
            MultipleChoice,
            lambda e, n: MultipleChoice(e, dropout=e.config.head_dropout),
            affine("classifier", "classifier.output"),
        ),
    ),
)


def roberta_architectures(name: str) -> tuple[Architecture, ...]:
    """Return the architectures of RoBERTa and its relatives."""
    return (
        roberta(f"{name}Model", Bert, lambda e, n: e),
        roberta(
            f"{name}ForMaskedLM",
            MaskedLM,
            lambda e, n: MaskedLM(e, activation="gelu"),  # independent of the blocks' activation
            ROBERTA_MASKED_LM,
            pooler=False,
        ),
        roberta(
            f"{name}ForSequenceClassification",
            SequenceClassifier,
            lambda e, n: SequenceClassifier(
                e, n, pool="first", hidden_layer="tanh", dropout=e.config.head_dropout
            ),
            [
                *affine("classifier.dense", "classifier.dense"),
                *affine("classifier.out_proj", "classifier.output"),
            ],
            pooler=False,
        ),
        *of_tokens(roberta, name),
        roberta(
            f"{name}ForMultipleChoice",
            MultipleChoice,
            lambda e, n: MultipleChoice(e, dropout=e.config.dropout),
            affine("classifier", "classifier.output"),
        ),
    )


def like_roberta(model_type: str, name: str, *, vocab_size: int = 30_522) -> Family:
    """Return the family of RoBERTa, or one that differs only in its data and tokenizer."""
    return Family(
        model_type=model_type,
        config=BertConfig,
        fields=fields(
            Field("vocab_size", "vocab_size", vocab_size),
            Field("hidden_act", "activation", "gelu", ACTIVATIONS),
            # Its positions start after the padding id.
            Field(
                "pad_token_id",
                "first_position",
                1,
                decode=lambda pad: pad + 1,
                encode=lambda first: first - 1,
                kind=whole(-1, 2**28),  # -1: no padding id, and positions start at 0
            ),
            **BERT_FIELDS,
        ),
        only=BERT_ONLY,
        normalize=with_classifier_dropout,
        prefix="roberta.",
        architectures=roberta_architectures(name),
    )


ROBERTA = like_roberta("roberta", "Roberta", vocab_size=50_265)
# Conneau et al. 2020: a hundred languages; Martin et al. 2020: French.
XLM_ROBERTA = like_roberta("xlm-roberta", "XLMRoberta")
CAMEMBERT = like_roberta("camembert", "Camembert")

DISTILBERT = Family(
    model_type="distilbert",
    config=BertConfig,
    fields=fields(
        Field("activation", "activation", "gelu", ACTIVATIONS),
        Field("seq_classif_dropout", "head_dropout", 0.2),
        Field("n_layers", "n_layers", 6),
        vocab_size="vocab_size",
        n_positions="max_position_embeddings",
        d_model="dim",
        n_heads="n_heads",
        d_ff="hidden_dim",
        dropout="dropout",
        attention_dropout="attention_dropout",
    ),
    only={"tie_word_embeddings": True},
    # The position table may be initialized with sinusoids; it is trained and stored as usual.
    harmless=frozenset(("sinusoidal_pos_embds", "tie_weights_", "qa_dropout")),
    prefix="distilbert.",
    architectures=(
        distilbert("DistilBertModel", Bert, lambda e, n: e),
        distilbert(
            "DistilBertForMaskedLM", MaskedLM, lambda e, n: MaskedLM(e), DISTILBERT_MASKED_LM
        ),
        distilbert(
            "DistilBertForSequenceClassification",
            SequenceClassifier,
            lambda e, n: SequenceClassifier(
                e, n, pool="first", hidden_layer="relu", dropout=e.config.head_dropout
            ),
            [
                *affine("pre_classifier", "classifier.dense"),
                *affine("classifier", "classifier.output"),
            ],
        ),
        *of_tokens(distilbert, "DistilBert"),
        distilbert(
            "DistilBertForMultipleChoice",
            MultipleChoice,
            lambda e, n: MultipleChoice(
                e, pool="first", hidden_layer="relu", dropout=e.config.head_dropout
            ),
            [
                *affine("pre_classifier", "classifier.dense"),
                *affine("classifier", "classifier.output"),
            ],
        ),
    ),
)

FAMILIES = (BERT, ROBERTA, XLM_ROBERTA, CAMEMBERT, DISTILBERT)
