"""BPE-dropout: the same text in other tokens, as often as the merges fail."""

import math

import numpy as np
import pytest

from qkv.data.batches import Batching, pair_batches
from qkv.data.subword_dropout import SubwordDropout
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError

TEXTS = ["the lowest of the lower towers", "a newer tower is wider than the new one"] * 3
RATE, LONGEST = 0.3, 1_000


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train_bpe(TEXTS, 300)


@pytest.fixture(scope="module")
def dropout(tokenizer):
    return SubwordDropout.of(tokenizer, RATE, LONGEST)


def depth(dropout, token):
    """Number of merges that made a token."""
    parts = dropout.merged.get(token, ())
    return bool(parts) + sum(depth(dropout, part) for part in parts)


def test_the_text_stays_the_same_and_its_tokens_change(tokenizer, dropout):
    rng = np.random.default_rng(0)
    ids = tokenizer.encode(TEXTS[0])
    found = [dropout(ids, rng) for _ in range(50)]
    assert {tokenizer.decode(one) for one in found} == {TEXTS[0]}
    assert len({tuple(one) for one in found}) > 10
    assert max(map(len, found)) > len(ids)


def test_a_token_stays_whole_if_none_of_its_merges_fails(tokenizer, dropout):
    rng = np.random.default_rng(1)
    token = max(dropout.merged, key=lambda one: depth(dropout, one))
    n, expected = 4_000, (1 - RATE) ** depth(dropout, token)
    whole = sum(dropout([token], rng) == [token] for _ in range(n)) / n
    assert abs(whole - expected) < 4 * math.sqrt(expected * (1 - expected) / n)
    assert depth(dropout, token) >= 5


def test_parts_come_together_with_the_probability_of_their_own_merges(dropout):
    # Of a token of two merges, (a b) c: the first alone fails, or both, or the second alone.
    token = next(one for one in dropout.merged if depth(dropout, one) == 2)
    rng = np.random.default_rng(2)
    n, expected = 4_000, {1: (1 - RATE) ** 2, 2: (1 - RATE) * RATE, 3: RATE}
    lengths = [len(dropout([token], rng)) for _ in range(n)]
    for length, p in expected.items():
        assert abs(lengths.count(length) / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_a_text_that_would_get_too_long_keeps_its_tokens(tokenizer):
    ids = tokenizer.encode(TEXTS[1])
    short = SubwordDropout.of(tokenizer, 0.9, len(ids))
    assert short(ids, np.random.default_rng(3)) == ids


def test_batches_differ_by_epoch_and_can_be_made_again(tokenizer, dropout):
    pairs = [(tokenizer.encode(text), tokenizer.encode(text[::-1])) for text in TEXTS]
    options = {"pad": 0, "start": 1, "stop": 2, "vary": dropout}

    def batches():
        return pair_batches(pairs, batching=Batching(batch_size=6, epochs=None, seed=7), **options)

    first, again = batches(), batches()
    one, two = next(first), next(first)
    assert one.source.tolist() != two.source.tolist()
    again.seek((1, 0))
    assert next(again).source.tolist() == two.source.tolist()
    for batch in (one, two):
        rows = [tokenizer.decode(row[row > 2].tolist()) for row in batch.source]
        assert sorted(rows) == sorted(TEXTS)


def test_other_tokenizers_and_rates_are_refused(tokenizer):
    with pytest.raises(ConfigError, match="no merges"):
        SubwordDropout.of(Tokenizer.train_wordpiece(TEXTS, 100), 0.1, LONGEST)
    for rate in (1.0, -0.1, math.nan):
        with pytest.raises(ConfigError, match=r"expected between 0 and 1, such as 0\.03"):
            SubwordDropout.of(tokenizer, rate, LONGEST)
