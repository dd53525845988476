"""Laws of every family's tables and fields."""

from collections import Counter

import pytest
import torch
from tests.checkpoints.tiny import TINY
from tests.helpers import randomized

from qkv.checkpoints.registry import FAMILIES
from qkv.checkpoints.table import load_rows, save_rows

N_CLASSES = 5
ALL = [
    pytest.param(family, architecture, id=f"{family.model_type}-{architecture.name}")
    for family in FAMILIES.values()
    for architecture in family.architectures
]
each = pytest.mark.parametrize(("family", "architecture"), ALL)


def built(family, architecture, device="cpu"):
    config = family.read_config(TINY[family.model_type], architecture)
    with torch.device(device):
        return architecture.build(config, N_CLASSES)


def test_every_family_has_a_small_config():
    assert set(TINY) == set(FAMILIES)


@each
def test_the_table_is_a_bijection(family, architecture):
    model = built(family, architecture, "meta")
    rows = architecture.rows(model)
    assert max(Counter(one.theirs for one in rows).values()) == 1
    ours = Counter(name for one in rows if not one.optional for name in one.ours)
    assert set(ours.values()) == {1}
    assert set(ours) == {name for name, _ in model.named_parameters()}


@each
def test_rows_write_what_they_read(family, architecture):
    model = randomized(built(family, architecture), torch.float32)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    shapes = {name: p.shape for name, p in parameters.items()}
    rows = architecture.rows(model)
    written = save_rows(rows, parameters)
    read = load_rows(rows, written, shapes)
    assert read.keys() == parameters.keys()
    assert all(torch.equal(read[name], parameters[name]) for name in read)
    # Aliases and constants too are written where the file had them.
    had = [one.theirs for one in rows if one.ours or one.value]
    written = save_rows(rows, parameters, had=had)
    assert set(written) == set(had)
    assert load_rows(rows, written, shapes).keys() == parameters.keys()


@each
def test_fields_write_what_they_read(family, architecture):
    config = family.read_config(TINY[family.model_type], architecture)
    raw = family.write_config(config)
    assert family.read_config(raw, architecture) == config
    for name, value in TINY[family.model_type].items():
        assert raw[name] == value


@each
def test_models_hold_no_buffers(family, architecture):
    assert dict(built(family, architecture, "meta").named_buffers()) == {}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_names_of_the_base_model_are_those_below_a_head(family):
    for architecture in family.architectures:
        names = [one.theirs for one in architecture.rows(built(family, architecture, "meta"))]
        prefix = family.prefix if architecture.prefix is None else architecture.prefix
        assert any(name.startswith(prefix) for name in names)
        if architecture.base:
            assert all(name.startswith(family.prefix) for name in names)
