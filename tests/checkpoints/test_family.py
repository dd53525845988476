"""config.json: what is read, what is refused by name."""

import pytest
from tests.checkpoints.tiny import TINY

from qkv.checkpoints.registry import FAMILIES, family_of
from qkv.errors import ConfigError, DataError
from qkv.models.bert import BertConfig

BERT = FAMILIES["bert"]


def read(family="bert", **changes):
    family = FAMILIES[family]
    raw = {**TINY[family.model_type], "model_type": family.model_type, **changes}
    return family.read_config(raw, family.architectures[0])


def test_fields_become_ours():
    assert read(hidden_act="gelu_new", layer_norm_eps=1e-7) == BertConfig(
        vocab_size=37,
        n_positions=41,
        n_segments=2,
        d_model=22,
        n_heads=11,
        d_ff=29,
        n_layers=3,
        activation="gelu_tanh",
        norm_eps=1e-7,
    )


def test_what_an_old_file_does_not_say_has_the_default_of_the_family():
    assert read(initializer_range=0.02, transformers_version="2.1.0").norm_eps == 1e-12


def test_positions_of_roberta_start_after_the_padding():
    assert read("roberta", pad_token_id=3).first_position == 4
    assert FAMILIES["roberta"].write_config(read("roberta", pad_token_id=3))["pad_token_id"] == 3


def test_classifiers_drop_what_the_rest_drops_unless_told():
    assert read(hidden_dropout_prob=0.3).head_dropout == 0.3
    assert read(hidden_dropout_prob=0.3, classifier_dropout=None).head_dropout == 0.3
    assert read(hidden_dropout_prob=0.3, classifier_dropout=0).head_dropout == 0
    assert read("distilbert").head_dropout == 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "mish"}, "hidden_act = 'mish' is not implemented for bert.*'gelu'"),
        ({"is_decoder": True}, "is_decoder = True is not implemented for bert; expected False"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"pruned_heads": {"1": [0]}}, "pruned_heads = {'1': "),
        ({"rope_theta": 10.0}, "rope_theta = 10.0: unknown for bert"),
        ({"hidden_size": "22"}, "hidden_size = '22'; expected a whole number of at least 1"),
        ({"num_hidden_layers": None}, "num_hidden_layers = None; expected a whole number"),
        ({"layer_norm_eps": True}, "layer_norm_eps = True; expected a number"),
        ({"num_attention_heads": 7}, "not divisible"),
        ({"intermediate_size": 0}, "intermediate_size = 0; expected a whole number of at least 1"),
        ({"vocab_size": -1}, "vocab_size = -1; expected a whole number of at least 1"),
        ({"vocab_size": 2**28 + 1}, "vocab_size = 268435457; expected .* at most 268,435,456"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps = nan; expected a number"),
        ({"layer_norm_eps": -1e-5}, "eps = -1e-05 in a norm; expected a finite number above 0"),
        ({"layer_norm_eps": 0}, "eps = 0.0 in a norm"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps = 1000.*; expected a number"),
        ({"hidden_act": []}, r"hidden_act = \[\] is not implemented for bert"),
        ({"pad_token_id": 37}, "pad_token_id = 37, but vocab_size = 37; .*was a token added"),
        ({"pad_token_id": -7}, "pad_token_id = -7; expected a token id"),
    ],
)
def test_values_that_are_not_implemented_are_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        BERT.architectures[0].build(read(**changes), 2)


def test_a_field_without_a_default_is_asked_for():
    family = FAMILIES["qkv_transformer"]
    with pytest.raises(DataError, match="source_vocab_size is missing; qkv_transformer has no"):
        family.read_config({}, family.architectures[0])


@pytest.mark.parametrize("name", ["bertt", None, 7, ["bert"]])
def test_an_unknown_model_type_names_those_that_there_are(name):
    with pytest.raises(ConfigError, match=r"model_type = .* is not implemented; .*bert, roberta"):
        family_of(name)


def test_an_unknown_architecture_names_those_that_there_are():
    with pytest.raises(ConfigError, match=r"'BertForPoetry' of bert is not.*BertForMaskedLM"):
        BERT.architecture("BertForPoetry")
