"""adapter_config.json of PEFT: what is read, and what is refused by its name."""

import pytest
from tests.checkpoints.adapted import CONFIG, adapted, base, refused, rewrite

from qkv.checkpoints.adapters import load_adapter, save_adapter
from qkv.errors import ConfigError, DataError
from qkv.models.lora import lora_layers


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bias": "boft_only"}, "bias = 'boft_only' is not implemented; expected 'none' or 'all'"),
        ({"use_qalora": True}, "use_qalora = True is not implemented"),
        ({"lora_bias": True}, "lora_bias = True is not implemented"),
        ({"layers_to_transform": 1, "layers_pattern": "("}, r"'\(' is not a regular expression"),
        ({"peft_type": "ADALORA"}, "peft_type = 'ADALORA'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa_niter_4' is not"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication = .* is not implemented"),
        ({"of_a_year_to_come": {"x": 1}}, "of_a_year_to_come = {'x': 1} is not implemented"),
        ({"target_modules": "(query"}, r"'\(query' is not a regular expression"),
        ({"rank_pattern": {"*": 3}}, r"'\*' is not a regular expression"),
        (
            {"rank_pattern": {"query": 0}},
            "each value a whole number of at least 1",
        ),
        ({"r": -1}, "r = -1; expected a whole number of at least 1"),
        ({"r": "8"}, "r = '8'; expected a whole number"),
        ({"r": True}, "r = True; expected a whole number"),
        ({"lora_alpha": [1]}, r"lora_alpha = \[1\]; expected a finite number above 0"),
        ({"lora_alpha": 10**400}, "lora_alpha = 1000.*; expected a finite number above 0"),
        ({"lora_alpha": float("nan")}, "lora_alpha = nan; expected a finite number above 0"),
        ({"use_rslora": 1}, "use_rslora = 1; expected true or false"),
        ({"use_dora": "yes"}, "use_dora = 'yes'; expected true or false"),
        ({"layers_to_transform": ["1"]}, r"= \['1'\]; expected a list, each a whole number"),
        (
            {"layers_pattern": 3},
            "layers_pattern = 3; expected a list, each a string or",
        ),
        ({"target_modules": ["query", 3]}, "expected a list, each a string or a string"),
        ({"rank_pattern": {"query": 2.5}}, "expected an object, each value a whole number"),
        ({"modules_to_save": "classifier"}, "modules_to_save = 'classifier'; expected a list"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path = 5; expected a string or null"),
        ({"peft_type": "IA3", "r": ...}, "peft_type = 'IA3'"),
        ({"peft_type": {}}, "peft_type = {}"),
        ({"init_lora_weights": []}, r"init_lora_weights = \[\] is not implemented"),
        ({"lora_dropout": 1.0}, r"dropout = 1\.0 of LoRA"),
    ],
)
def test_what_is_not_implemented_is_named(fields, message, tmp_path):
    save_adapter(adapted(), tmp_path)
    rewrite(tmp_path, **fields)
    refused(tmp_path, ConfigError, rf"{CONFIG}: .*{message}".replace(": .*", "(: |: .*)"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"r": ..., "peft_type": ...}, "lacks peft_type, r; is it an adapter_config"),
        ({"target_modules": None}, "lacks target_modules"),
    ],
)
def test_a_config_that_is_none(fields, message, tmp_path):
    save_adapter(adapted(), tmp_path)
    rewrite(tmp_path, **fields)
    refused(tmp_path, DataError, message)


def test_what_is_off_or_harmless_is_read(tmp_path):
    save_adapter(adapted(), tmp_path)
    off = {"use_dora": False, "loftq_config": {}, "layers_pattern": None, "of_a_year_to_come": []}
    off |= {"layers_to_transform": [], "eva_config": None, "bias": "none", "lora_bias": False}
    harmless = {"megatron_core": "x", "qalora_group_size": 16, "task_type": "SEQ_CLS"}
    # Of ways to start that were not taken, or that changed nothing beside A and B.
    harmless |= {"eva_config": {"rho": 2.0}, "corda_config": {"x": 1}, "init_lora_weights": "eva"}
    rewrite(tmp_path, **{**off, **harmless}, peft_version="0.99", fan_in_fan_out=True)
    load_adapter(base(), tmp_path)


@pytest.mark.parametrize(
    ("target", "excluded"),
    [
        (["query", "value"], None),
        (["self.query", "self.value"], []),
        (r".*\.(query|value)", None),
        (["query", "value", "classifier"], None),  # which is stored whole
        (["query", "value", "dense"], r".*dense"),
        (["query", "value", "key"], ["attention.self.key"]),
    ],
)
def test_layers_are_named_as_peft_does(target, excluded, tmp_path):
    save_adapter(adapted(train=("classifier",)), tmp_path)
    rewrite(tmp_path, target_modules=target, exclude_modules=excluded)
    load_adapter(base(), tmp_path)


@pytest.mark.parametrize("target", [["uery", "value"], r"(query|value)", ["query"], ["ery", "lue"]])
def test_a_part_of_a_name_is_none(target, tmp_path):
    save_adapter(adapted(), tmp_path)
    rewrite(tmp_path, target_modules=target)
    refused(tmp_path, DataError, "does not name bert.* in target_modules")


def test_a_pattern_is_of_whole_parts_of_a_name(tmp_path):
    save_adapter(adapted(), tmp_path)
    rewrite(tmp_path, rank_pattern={"uery": 5, "quer": 5}, alpha_pattern={"ttention.*": 5})
    one = base()
    load_adapter(one, tmp_path)
    assert {(layer.rank, layer.alpha) for layer in lora_layers(one).values()} == {(3, 7.0)}
