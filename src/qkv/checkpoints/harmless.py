"""Fields of config.json without effect on outputs.

An unknown field is ignored in two cases only:

- it is on one of the lists below, begins with "_" or "unsloth_", or names a token that the forward
  pass of the family does not use;
- it switches something off (null, false, empty), which is the default of transformers, or was
  reviewed below.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from qkv.json_fields import (
    COUNT,
    FLAG,
    NULL,
    NUMBER,
    OBJECT,
    TEXT,
    Kind,
    either,
    list_of,
    object_of,
)

HARMLESS = frozenset(
    """
    attn_implementation architectures assistant_confidence_threshold assistant_lookbehind auto_map
    bad_words_ids begin_suppress_tokens chunk_size_feed_forward directionality diversity_penalty
    do_sample dtype early_stopping embedding_size encoder_no_repeat_ngram_size
    encoder_repetition_penalty epsilon_cutoff eta_cutoff exponential_decay_length_penalty
    finetuning_task gradient_checkpointing id2label initializer_range is_composition
    is_encoder_decoder is_llama_config label2id language length_penalty max_length max_new_tokens
    max_seq_length max_sequence_length min_length min_new_tokens model_max_length model_type name
    n_special name_or_path no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule
    num_beam_groups num_beams num_labels num_return_sequences output_attentions
    output_hidden_states output_past output_scores pooler_fc_size pooler_num_attention_heads
    pooler_num_fc_layers pooler_size_per_head pooler_type predict_special_tokens prefix
    problem_type remove_invalid_values repetition_penalty return_dict return_dict_in_generate
    save_step sbert_ce_default_activation_function sentence_transformers suppress_tokens
    target_lookbehind task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p
    torch_dtype torchscript transformers.js_config transformers_version typical_p use_bfloat16
    use_cache xla_device
    """.split()  # noqa: SIM905 - a hundred lines of quotes would hide them
)
# Dropout probabilities, which do not affect a loaded model in evaluation. If one is not a field of
# a family, training does not apply it.
TRAINING_ONLY = frozenset(
    """
    activation_dropout attention_dropout classif_dropout classifier_dropout decoder_layerdrop
    encoder_layerdrop layerdrop
    """.split()  # noqa: SIM905
)
PREFIXES = ("_", "unsloth_")  # private notes of a program
TOKENS = ("_token_id", "_token_ids")

# Harmless if off, as in all published files of these families: options of every config of
# transformers 4, and fields written by other programs.
OFF = frozenset(
    """
    add_cross_attention cross_attention_hidden_size is_decoder quantization_config rope_interleaved
    tie_encoder_decoder use_mrope
    """.split()  # noqa: SIM905
)

# Defaults of transformers' config classes that are null, false or empty; a test compares them with
# the installed version.
ENCODER: dict[str, Any] = {
    "classifier_dropout": None,
    "is_decoder": False,
    "add_cross_attention": False,
}
SEQ2SEQ: dict[str, Any] = {"scale_embedding": False, "is_decoder": False}
T5: dict[str, Any] = {"num_decoder_layers": None, "is_decoder": False}
IMAGES: dict[str, Any] = {"pooler_output_size": None}
CAUSAL: dict[str, Any] = {
    "pad_token_id": None,
    "tie_word_embeddings": False,
    "rope_parameters": None,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "bert": {**ENCODER, "bos_token_id": None, "eos_token_id": None},
    "roberta": ENCODER,
    "xlm-roberta": ENCODER,
    "camembert": ENCODER,
    "distilbert": {"sinusoidal_pos_embds": False, "bos_token_id": None, "eos_token_id": None},
    "gpt2": {
        "n_inner": None,
        "summary_activation": None,
        "pad_token_id": None,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    "llama": {
        **CAUSAL,
        "num_key_value_heads": None,
        "attention_bias": False,
        "mlp_bias": False,
        "head_dim": None,
    },
    "mistral": {**CAUSAL, "head_dim": None},
    "qwen2": {
        **CAUSAL,
        "use_sliding_window": False,
        "layer_types": None,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "vit": IMAGES,
    "deit": IMAGES,
    "marian": {**SEQ2SEQ, "decoder_vocab_size": None, "bos_token_id": None},
    "bart": SEQ2SEQ,
    "mbart": {**SEQ2SEQ, "decoder_start_token_id": None},
    "t5": T5,
    "mt5": {**T5, "bos_token_id": None},
}

# Families whose embedding has a row for padding, so that its id must be in the vocabulary.
PADDED = frozenset(
    """
    bart bert camembert distilbert llama marian mbart mistral qwen2 roberta xlm-roberta
    """.split()  # noqa: SIM905
)

_NAME = TEXT | FLAG | NUMBER
LABELS = Kind(
    "an object from class indices to names",
    lambda one: (
        isinstance(one, dict)
        and all(key.isascii() and key.isdecimal() and len(key) < 10 for key in one)
        and all(map(_NAME.fits, one.values()))
    ),
)
_INT = Kind("a token id", lambda one: type(one) is int and -1 <= one < 2**31)
TOKEN_IDS = _INT | list_of(_INT) | NULL
# The harmless fields that loading a model or a task reads.
KINDS: dict[str, Kind] = {
    "architectures": list_of(TEXT) | NULL,
    "dtype": TEXT | NULL,
    "finetuning_task": TEXT | NULL,
    "id2label": LABELS | NULL,
    "is_encoder_decoder": FLAG | NULL,
    "label2id": OBJECT | NULL,
    "model_type": TEXT | NULL,
    "_name_or_path": TEXT | NULL,
    "num_labels": COUNT | NULL,
    "prefix": TEXT | NULL,
    "problem_type": either(
        "regression", "single_label_classification", "multi_label_classification"
    )
    | NULL,
    "task_specific_params": object_of(OBJECT | NULL) | NULL,
    "tokenizer_class": TEXT | NULL,
    "torch_dtype": TEXT | NULL,
}


def kinds_of(raw: Iterable[str]) -> dict[str, Kind]:
    """Return the kinds of the harmless fields and of the token ids in config.json."""
    names_of_tokens = [name for name in raw if name.endswith(TOKENS)]
    return KINDS | dict.fromkeys(names_of_tokens, TOKEN_IDS)


def is_harmless(name: str, value: Any, model_type: str) -> bool:
    """Return whether an unknown field of a family's config.json may be ignored."""
    if name in HARMLESS | TRAINING_ONLY or name.startswith(PREFIXES) or name.endswith(TOKENS):
        return True
    off = value is None or value is False or value in ("", [], {})
    defaults = DEFAULTS.get(model_type, {})
    return off and (name in OFF or (name in defaults and defaults[name] == value))


def read_labels(raw: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes by index, or None if config.json has none."""
    names = raw.get("id2label")
    if not names:
        return None
    return [str(names[number]) for number in sorted(names, key=int)]
