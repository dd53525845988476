"""The config.json of published encoder-decoders, with all that time has left in them."""

import pytest
import torch

from qkv.checkpoints.registry import family_of
from qkv.models.bart import BartConfig
from qkv.models.marian import MarianConfig
from qkv.models.t5 import T5Config

STACKS = {
    f"{stack}_{name}": value
    for stack in ("encoder", "decoder")
    for name, value in {"attention_heads": 16, "ffn_dim": 4096, "layerdrop": 0.0}.items()
}
LABELS = {
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
}
OLD = {
    "_num_labels": 3,
    "add_final_layer_norm": False,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "normalize_before": False,
    "num_beams": 4,
    "use_cache": True,
    **LABELS,
}
MARIAN = {
    **OLD,
    **STACKS,
    "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-de",
    "activation_dropout": 0.0,
    "activation_function": "swish",
    "add_bias_logits": False,
    "architectures": ["MarianMTModel"],
    "attention_dropout": 0.0,
    "bad_words_ids": [[58100]],
    "bos_token_id": 0,
    "d_model": 512,
    "decoder_attention_heads": 8,
    "encoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "encoder_ffn_dim": 2048,
    "decoder_layers": 6,
    "encoder_layers": 6,
    "decoder_start_token_id": 58100,
    "decoder_vocab_size": 58101,
    "dropout": 0.1,
    "eos_token_id": 0,
    "extra_pos_embeddings": 58101,
    "forced_eos_token_id": 0,
    "max_length": 512,
    "max_position_embeddings": 512,
    "model_type": "marian",
    "normalize_embedding": False,
    "num_hidden_layers": 6,
    "pad_token_id": 58100,
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True,
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 58101,
}
BART = {
    **OLD,
    **STACKS,
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "architectures": ["BartForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "d_model": 1024,
    "decoder_layers": 12,
    "encoder_layers": 12,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "eos_token_id": 2,
    "force_bos_token_to_be_generated": True,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "length_penalty": 2.0,
    "max_length": 142,
    "max_position_embeddings": 1024,
    "min_length": 56,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "num_hidden_layers": 12,
    "output_past": True,
    "pad_token_id": 1,
    "prefix": " ",
    "scale_embedding": False,
    "task_specific_params": {"summarization": {"num_beams": 4}},
    "torch_dtype": "float32",
    "transformers_version": "4.7.0.dev0",
    "vocab_size": 50264,
}
T5_SMALL = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"prefix": "summarize: "}},
    "vocab_size": 32128,
}
FLAN_T5_SMALL = {
    **T5_SMALL,
    "d_ff": 1024,
    "dense_act_fn": "gelu_new",
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "num_layers": 8,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.23.1",
}


@pytest.mark.parametrize(
    ("raw", "expected", "n_parameters"),
    [
        (MARIAN, MarianConfig(), 73_944_309),
        (BART, BartConfig(vocab_size=50_264), 406_290_432),
        (T5_SMALL, T5Config(), 60_506_624),
        (
            FLAN_T5_SMALL,
            T5Config(
                d_ff=1024,
                n_heads=6,
                n_encoder_layers=8,
                n_decoder_layers=8,
                feed_forward="geglu_tanh",
                tied_output=False,
            ),
            76_961_152,
        ),
    ],
    ids=["opus-mt-en-de", "bart-large-cnn", "t5-small", "flan-t5-small"],
)
def test_published_configs(raw, expected, n_parameters):
    family = family_of(raw["model_type"])
    architecture = family.architecture(raw["architectures"][0])
    config = family.read_config(raw, architecture)
    assert config == expected
    with torch.device("meta"):
        model = architecture.build(config, 3)
    assert sum(p.numel() for p in model.parameters()) == n_parameters


@pytest.mark.parametrize("said", [{"num_decoder_layers": None}, {"num_decoder_layers": 6}, {}])
def test_t5_has_as_many_layers_in_both_stacks_unless_it_says_otherwise(said):
    family = family_of("t5")
    config = family.read_config({**T5_SMALL, **said}, family.architectures[0])
    assert config.n_decoder_layers == 6


@pytest.mark.parametrize(
    ("said", "tied"),
    [
        ({}, True),
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    ],
)
def test_t5_is_scaled_where_it_is_tied(said, tied):
    family = family_of("t5")
    assert family.read_config({**T5_SMALL, **said}, family.architectures[0]).tied_output is tied


@pytest.mark.parametrize(("size", "expected"), [(None, 58101), (58101, 58101)])
def test_marian_has_one_vocabulary_unless_it_says_otherwise(size, expected):
    family = family_of("marian")
    raw = {**MARIAN, "decoder_vocab_size": size}
    config = family.read_config(raw, family.architectures[0])
    assert config.target_vocab_size == expected
