"""Defaults and switches of config.json against transformers' config classes, field by field."""

import dataclasses

import pytest
from tests.checkpoints.tiny import TINY
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedConfig

from qkv.checkpoints.harmless import DEFAULTS, OFF, is_harmless
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError

PUBLISHED = [name for name in FAMILIES if not name.startswith("qkv_")]
COMMON = {one.name for one in dataclasses.fields(PreTrainedConfig)}


def theirs(model_type):
    return {
        one.name: one.default
        for one in dataclasses.fields(CONFIG_MAPPING[model_type])
        if one.name not in COMMON and one.default is not dataclasses.MISSING
    }


def is_off(value):
    return value is None or value is False or value in ("", [], {})


def read(model_type, **changes):
    family = FAMILIES[model_type]
    raw = {**TINY[model_type], "model_type": model_type, **changes}
    return family.read_config(raw, family.architectures[0])


def test_each_published_family_has_its_defaults():
    assert DEFAULTS.keys() == set(PUBLISHED)


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_what_is_off_when_it_is_left_out(model_type):
    off = {name: value for name, value in theirs(model_type).items() if is_off(value)}
    assert DEFAULTS[model_type] == off


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_what_is_left_out_has_the_default_of_transformers(model_type):
    """Whatever a family takes for granted, theirs takes for granted too."""
    family = FAMILIES[model_type]
    shape = family.architectures[0]
    silent = family.read_config({"model_type": model_type}, shape)
    for name in {one.theirs for one in family.fields}:
        if name in theirs(model_type):
            raw = {"model_type": model_type, name: theirs(model_type)[name]}
            said = family.read_config(raw, shape)
            if name in ("image_size", "patch_size"):  # a number here, and a pair there
                said = dataclasses.replace(said, **{name: (getattr(said, name),) * 2})
            assert said == silent, name


def switches():
    """Every field of any config of transformers that is true when it is left out."""
    found = set()
    for config in CONFIG_MAPPING.values():
        fields = (one for one in dataclasses.fields(config) if one.default is True)
        found.update(one.name for one in fields)
    return sorted(found - COMMON)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_switch_that_is_turned_off_is_refused_by_name(model_type):
    """False is no sign that nothing is special: what is on by default would be turned off."""
    family = FAMILIES[model_type]
    known = {one.theirs for one in family.fields} | family.only.keys() | family.harmless
    known |= OFF  # reviewed: transformers 4 wrote them into every file
    unknown = [
        name for name in switches() if name not in known and not is_harmless(name, True, model_type)
    ]
    assert len(unknown) > 100
    for name in unknown:
        with pytest.raises(ConfigError, match=rf"{name} = False: unknown for {model_type}"):
            read(model_type, **{name: False})


@pytest.mark.parametrize("value", [0, 0.0, "", [], {}, None, False])
def test_nothing_is_harmless_for_being_empty(value):
    with pytest.raises(ConfigError, match=r"use_qkv_scale = .*: unknown for bert"):
        read("bert", use_qkv_scale=value)


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_settings_of_generation_change_no_number(model_type):
    settings = GenerationConfig._get_default_generation_params()
    tiny = read(model_type)
    assert all(read(model_type, **{name: value}) == tiny for name, value in settings.items())
