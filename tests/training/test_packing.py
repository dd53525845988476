import json
import math

import pytest
import torch

from qkv.errors import TrainingError
from qkv.training.packing import pack, unpack

STATE = {
    "state": {0: {"step": torch.tensor(3.0), "exp": torch.randn(2, 3)}, 5: {}},
    "groups": [{"betas": (0.9, 0.98), "lr": 0.1, "fused": None, "params": [0, 1]}],
    "$odd": ((1, "a"), [], {}, True, -math.inf),
    "third": 1 / 3,
}


def test_a_state_comes_back_as_it_was_through_json():
    tensors, packed = pack(STATE)
    again = unpack(tensors, json.loads(json.dumps(packed)))
    assert torch.equal(again["state"][0].pop("exp"), STATE["state"][0]["exp"])
    assert again["state"][0]["step"].item() == 3
    assert again["state"][5] == {}
    assert again["groups"] == STATE["groups"]
    assert type(again["groups"][0]["betas"]) is tuple
    assert again["$odd"] == STATE["$odd"]
    assert again["third"] == 1 / 3


def test_tensors_are_copies_apart():
    x = torch.zeros(4)
    tensors, _ = pack({"a": x, "b": x, "c": x[1:]})
    x += 1
    assert len(tensors) == 3
    assert all(t.sum() == 0 and t.untyped_storage().nbytes() == t.nbytes for t in tensors.values())


def test_what_is_neither_a_tensor_nor_json_is_refused_by_its_place():
    with pytest.raises(TrainingError, match=r"\.a\.1 of the training's state is a set, expected"):
        pack({"a": [1, {2}]})
