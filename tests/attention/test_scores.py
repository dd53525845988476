"""One golden value by hand for each score function, and each module equal to its function."""

import math

import pytest
import torch
from tests.helpers import assert_close

from qkv.attention.additive import AdditiveAttention
from qkv.attention.multiplicative import (
    ConcatAttention,
    DotAttention,
    GeneralAttention,
    LocationAttention,
)
from qkv.attention.scores import (
    additive_scores,
    concat_scores,
    dot_scores,
    general_scores,
    location_scores,
    scaled_dot_scores,
)
from qkv.errors import ConfigError, LengthError


def matrix(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def vector(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def expect(scores, *rows):
    torch.testing.assert_close(scores, matrix(*rows), rtol=1e-15, atol=1e-15)


def test_dot():
    # (1, 2) . (3, -1) = 3 - 2 = 1 and (1, 2) . (0, 2) = 4
    expect(dot_scores(matrix([1, 2]), matrix([3, -1], [0, 2])), [1, 4])


def test_scaled_dot():
    # (1, 2, 3, 4) . (2, 0, 1, -1) = 2 + 0 + 3 - 4 = 1, over sqrt(4)
    query, key = matrix([1, 2, 3, 4]), matrix([2, 0, 1, -1])
    expect(scaled_dot_scores(query, key), [0.5])
    expect(scaled_dot_scores(query, key, scale=3.0), [3.0])


def test_general():
    # q W = (1, 2) [[1, 0, 2], [0, 1, 1]] = (1, 2, 4); (1, 2, 4) . (1, 2, 3) = 1 + 4 + 12 = 17
    weight = matrix([1, 0, 2], [0, 1, 1])
    expect(general_scores(matrix([1, 2]), matrix([1, 2, 3]), weight), [17])


def test_additive():
    # W s = (0.5, -1), U h = (0.5, 1): 2 tanh(1) + 3 tanh(0) = 2 * 0.7615941559557649
    scores = additive_scores(matrix([0.5, -1]), matrix([0.5, 1]), vector(2, 3))
    expect(scores, [1.5231883119115297])


def test_concat():
    # [q; k] = (1, 0.5, -1); W [q; k] = (1 - 1, 2 * 0.5 + 1) = (0, 2)
    # v . tanh(0, 2) = 3 tanh(2) = 3 * 0.9640275800758169
    weight = matrix([1, 0, 1], [0, 2, -1])
    scores = concat_scores(matrix([1, 0.5]), matrix([-1]), weight, vector(5, 3))
    expect(scores, [2.8920827402274507])


def test_location():
    # W q = [[1, 0], [0, 1], [1, 1]] (2, 3) = (2, 3, 5), of which two keys take the first two
    weight = matrix([1, 0], [0, 1], [1, 1])
    expect(location_scores(matrix([2, 3]), weight, torch.tensor([0, 1])), [2, 3])
    expect(location_scores(matrix([2, 3]), weight, torch.tensor([2, 0, 1])), [5, 2, 3])


def test_location_refuses_more_keys_than_it_was_built_for():
    with pytest.raises(LengthError, match=r"got 7 keys, .* at most 5: .* fixed in advance"):
        location_scores(torch.ones(3, 2), torch.ones(5, 2), torch.arange(7))


Q, K, DQ, DM, A = 3, 5, 7, 11, 13


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (
            AdditiveAttention(DQ, DM, A),
            lambda m, q, k: additive_scores(q @ m.query.weight.T, k @ m.key.weight.T, m.vector),
        ),
        (DotAttention(DM, DM), lambda m, q, k: dot_scores(q, k)),
        (GeneralAttention(DQ, DM), lambda m, q, k: general_scores(q, k, m.key.weight)),
        (ConcatAttention(DQ, DM, A), lambda m, q, k: concat_scores(q, k, m.weight, m.vector)),
        (
            LocationAttention(DQ, 17),
            lambda m, q, k: location_scores(q, m.weight, torch.arange(K).expand(2, K)),
        ),
    ],
    ids=["additive", "dot", "general", "concat", "location"],
)
def test_modules_score_as_their_functions_and_mix_by_softmax(module, function):
    module = module.double()
    width = DM if isinstance(module, DotAttention) else DQ
    queries, memory = torch.randn(2, Q, width).double(), torch.randn(2, K, DM).double()
    scores = function(module, queries, memory)
    assert scores.shape == (2, Q, K)
    assert_close(module.scores(queries, module.keys(memory)), scores)
    assert_close(module(queries, memory), scores.softmax(-1) @ memory)


def test_a_module_without_memory_attends_to_its_own_input():
    module, x = DotAttention(7, 7).double(), torch.randn(2, 5, 7).double()
    assert_close(module(x), module(x, x))


def test_dot_attention_needs_one_width():
    with pytest.raises(ConfigError, match="the query has 7 and the memory 11; use general"):
        DotAttention(7, 11)


def test_location_attention_refuses_a_longer_memory():
    attention = LocationAttention(7, 5)
    with pytest.raises(LengthError, match=r"got 11 keys, .* at most 5"):
        attention(torch.ones(2, 3, 7), torch.ones(2, 11, 7))


def test_v_starts_with_a_gradient_for_all_parameters():
    attention = AdditiveAttention(DQ, DM, A)
    attention(torch.randn(2, Q, DQ), torch.randn(2, K, DM)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in attention.parameters())
    assert attention.vector.std().item() < 3 / math.sqrt(A)
