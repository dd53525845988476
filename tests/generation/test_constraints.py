"""What constraints forbid and force, by hand; tests/parity holds them against transformers."""

import pytest
import torch

from qkv.errors import ConfigError
from qkv.generation.constraints import (
    bad_words,
    forbid,
    forbid_at,
    force_at,
    minimum_length,
    no_ngram_of,
    renormalize,
    source_penalty,
)

VOCAB = 7


def left(processor, *rows, logits=None):
    """The tokens that each row may have next, and that no argument was changed."""
    width = max(map(len, rows))
    tokens = torch.tensor([[-1] * (width - len(row)) + row for row in rows])
    logits = torch.zeros(len(rows), VOCAB) if logits is None else logits
    before = tokens.clone(), logits.clone()
    found = processor(tokens, logits)
    assert torch.equal(tokens, before[0])
    assert torch.equal(logits, before[1])
    return [row.isfinite().nonzero().flatten().tolist() for row in found]


EVERY = [*range(VOCAB)]


def test_forbidden_tokens_and_those_that_the_vocabulary_does_not_have():
    assert left(forbid([5, 0, 99, -1]), [1], [2]) == [[1, 2, 3, 4, 6]] * 2
    assert left(forbid([]), [1]) == [EVERY]


def test_places_are_counted_from_what_decoding_began_with():
    for begun in (1, 3):
        prompt = [4] * begun
        first = forbid_at([2], place=0, begun=begun)
        assert left(first, prompt) == [[0, 1, 3, 4, 5, 6]]
        assert left(first, [*prompt, 1]) == [EVERY]
        forced = force_at([2, 6], place=1, begun=begun)
        assert left(forced, prompt) == [EVERY]
        assert left(forced, [*prompt, 1]) == [[2, 6]]
        least = minimum_length(2, [0, 3], begun=begun)
        for n, expected in enumerate(([1, 2, 4, 5, 6], [1, 2, 4, 5, 6], EVERY)):
            assert left(least, [*prompt, *[1] * n]) == [expected]


def test_what_is_forced_is_certain():
    logits = torch.tensor([[1.0, -3.0, 9.0]])
    found = force_at([1], place=0, begun=1)(torch.tensor([[0]]), logits)
    assert found.softmax(-1).tolist() == [[0.0, 1.0, 0.0]]
    assert found.log_softmax(-1)[0, 1] == 0


def test_bad_words_of_one_and_of_several_tokens():
    words = bad_words([[6], [1, 2], [3, 1, 4], [1, 5]])
    assert left(words, [1], [2], [3, 1]) == [[0, 1, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 3]]
    with pytest.raises(ConfigError, match="a bad word is empty; expected at least one token"):
        bad_words([[1], []])


def test_ngrams_of_the_source():
    source = [1, 2, 3, 1, 4]
    assert left(no_ngram_of(source, 1), [6]) == [[0, 5, 6]]
    assert left(no_ngram_of(source, 2), [1], [3], [5]) == [
        [0, 1, 3, 5, 6],
        [0, 2, 3, 4, 5, 6],
        EVERY,
    ]
    assert left(no_ngram_of(source, 3), [1], [1, 2], [3, 1]) == [
        EVERY,
        [0, 1, 2, 4, 5, 6],
        [0, 1, 2, 3, 5, 6],
    ]
    assert left(no_ngram_of(source, 6), [1, 2, 3, 1, 4]) == [EVERY]
    with pytest.raises(ConfigError, match="n is 0, expected at least 1"):
        no_ngram_of(source, 0)


def test_a_source_penalty_above_1_favors_what_the_source_says():
    logits = torch.tensor([[2.0, -2.0, 2.0, -2.0]]).repeat(2, 1)
    found = source_penalty([0, 1, 1], 4.0)(torch.zeros(2, 1).long(), logits)
    assert found.tolist() == [[8.0, -0.5, 2.0, -2.0]] * 2
    with pytest.raises(ConfigError, match=r"source_penalty is 0\.0, expected above 0"):
        source_penalty([0], 0.0)


def test_renormalized_log_probabilities_sum_to_1():
    logits = torch.tensor([[2.0, -torch.inf, 1.0]])
    assert renormalize(torch.zeros(1, 1), logits).exp().sum().item() == pytest.approx(1)
