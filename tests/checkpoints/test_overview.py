"""What is said to be implemented is what loads; what is said to be refused is refused."""

import pytest
from tests.checkpoints.tiny import TINY

from qkv.checkpoints.overview import (
    base_model,
    list_architectures,
    list_families,
    list_fields,
    list_refused,
)
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError

each = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def test_all_families_and_their_models():
    rows = {row["model_type"]: row for row in list_families(FAMILIES.values())}
    assert rows.keys() == FAMILIES.keys()
    assert rows["roberta"]["model"] == "Bert"
    assert rows["gpt2"]["model"] == "GPT"
    assert rows["bert"]["architectures"].startswith("BertModel, BertForPreTraining, BertForMasked")


@each
def test_an_architecture_builds_what_is_said(family):
    for row in list_architectures(family):
        shape = family.architecture(row["architecture"])
        built = shape.build(family.read_config(TINY[family.model_type], shape), 5)
        assert type(built).__name__ == row["builds"]
    assert base_model(family) in {row["builds"] for row in list_architectures(family)}


@each
def test_every_field_is_one_of_the_config(family):
    fields = list_fields(family)
    assert {row["config.json"] for row in fields} == {one.theirs for one in family.fields}
    ours = {name for row in fields for name in row["here"].split(", ")}
    assert ours <= set(family.config.__dataclass_fields__)


@each
def test_refused_values_are_refused(family):
    shape = family.architecture(None)
    raw = TINY[family.model_type]
    for row in list_refused(family):
        name = row["config.json"]
        with pytest.raises(ConfigError, match=f"{name} = 'another' is not implemented"):
            family.read_config({**raw, name: "another"}, shape)
