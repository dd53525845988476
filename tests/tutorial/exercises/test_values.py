import math

import numpy as np
import pytest
import torch

from qkv.tutorial.exercises.values import (
    MAX_NUMBERS,
    Other,
    difference,
    plain,
    read_values,
    write_values,
)

TENSOR = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def test_values_are_written_without_pickle_and_read_back(tmp_path):
    value = plain(
        {
            "tensors": (TENSOR, torch.tensor([True, False]), torch.tensor(3)),
            "numbers": [1, 2.5, True, None, "text", math.inf],
            "array": np.arange(3),
            "other": {1, 2},
        }
    )
    write_values(tmp_path, value)
    again = read_values(tmp_path)
    assert difference(again, value) is None
    assert again["other"] == Other("a set")
    assert {path.name for path in tmp_path.iterdir()} == {"tensors.safetensors", "values.json"}


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (object(), "an object"),
        ({1: 2}, "a dict"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2).to_sparse(), "sparse"),
        (torch.zeros(1).expand(MAX_NUMBERS + 1), "far larger than expected"),
        (np.array(["a"]), "an array of"),
    ],
)
def test_what_cannot_be_compared_is_described(value, what):
    assert what in plain(value).what


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [
        (TENSOR, TENSOR + 1e-9),
        (TENSOR.tolist(), TENSOR),
        (TENSOR.float(), TENSOR),
        (torch.tensor([1, 2], dtype=torch.int32), torch.tensor([1, 2])),
        ([1.0, 2.0], [1, 2]),
        (torch.tensor([1.0, 2.0]), [1.0, 2.0]),
        (torch.tensor(2.0), 2.0),
        (torch.tensor(True), True),
        (2, 2.0),
        (2.0, 2),
        ("a", "a"),
        (torch.tensor([math.nan]), torch.tensor([math.nan])),
    ],
)
def test_what_is_as_good_as_equal(theirs, expected):
    assert difference(theirs, expected) is None


@pytest.mark.parametrize(
    ("theirs", "expected", "message"),
    [
        (TENSOR + torch.eye(2), TENSOR, "the result at [0, 0] is 2; expected 1 (2 of 4 numbers"),
        (
            TENSOR.float() * 1.00001,
            TENSOR,
            "the result at [0, 0] is 1.00001; expected 1 (4 of 4 numbers differ; "
            "its dtype is torch.float32, expected torch.float64)",
        ),
        (TENSOR[0], TENSOR, "the result has shape (2,); expected (2, 2)"),
        (TENSOR.int(), TENSOR, "the result has dtype torch.int32; expected torch.float64"),
        (
            torch.tensor([1, 0]),
            torch.tensor([True, False]),
            "the result has dtype torch.int64; expec",
        ),
        (None, TENSOR, "the result is None; expected a tensor of shape (2, 2)"),
        ([[1.0], [2.0, 3.0]], TENSOR, "the result is a list or tuple of 2 elements; expected a te"),
        (2.5, 2, "the result is 2.5 (a number of type float); expected 2 (a number of type int)"),
        (1, True, "the result is 1 (a number of type int); expected True"),
        (3, 4, "the result is 3; expected 4"),
        ("a", "b", "the result is 'a'; expected 'b'"),
        ([1], [1, 2], "the result has 1 element; expected 2 elements"),
        ([1, 3], [1, 2], "result[1] is 3; expected 2"),
        (1, [1], "the result is 1 (a number of type int); expected a list or tuple of 1 element"),
        ({"a": 1}, {"a": 1, "b": 2}, "the result has no 'b'; expected the keys 'a', 'b'"),
        ({"a": 1, "c": 2}, {"a": 1}, "the result also has 'c', which is not expected"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "result['a'][1] is 2; expected 3"),
        ([1], {"a": 1}, "the result is a list or tuple of 1 element; expected a dict with 'a'"),
        (1.0 + 1e-6, 1.0, "the result is 1.000001; expected 1"),
        (Other("a set"), 1, "the result is a set; expected 1"),
        (torch.tensor(math.nan), torch.tensor(1.0), "the result is nan; expected 1"),
    ],
)
def test_the_first_difference_in_words(theirs, expected, message):
    assert difference(theirs, expected).startswith(message)


def test_a_tolerance_is_absolute():
    assert difference(10.05, 10.0, close=0.06) is None
    assert difference(10.07, 10.0, close=0.06) == "the result is 10.07; expected 10"
