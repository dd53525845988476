"""Perplexity and bits per character: by hand, laws, and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from qkv.errors import DataError
from qkv.evaluation.perplexity import language_model_scores


def test_scores_by_hand():
    # Two tokens at p = 1/2 and three at p = 1/8: 2 + 9 bits for 5 tokens and 22 characters.
    nats = [2 * math.log(2), 3 * math.log(8)]
    scores = language_model_scores(nats, [2, 3], [10, 12])
    assert (scores.count, scores.tokens, scores.characters) == (2, 5, 22)
    assert scores.loss == pytest.approx(11 / 5 * math.log(2))
    assert scores.perplexity == pytest.approx(2 ** (11 / 5))
    assert scores.bits_per_character == pytest.approx(11 / 22)


def test_a_uniform_guess_has_the_perplexity_of_the_vocabulary():
    tokens = [3, 5, 7]
    logits, targets = torch.zeros(15, 11), torch.arange(15) % 11
    losses = [F.cross_entropy(logits[:n], targets[:n], reduction="sum").item() for n in tokens]
    scores = language_model_scores(losses, tokens, tokens)
    assert scores.perplexity == pytest.approx(11, rel=1e-5)
    assert scores.bits_per_character == pytest.approx(math.log2(11), rel=1e-5)
    assert scores.loss_interval == pytest.approx((math.log(11), math.log(11)), rel=1e-5)


def test_how_a_text_is_cut_does_not_change_the_scores():
    rng = np.random.default_rng(0)
    losses = rng.exponential(size=60)
    characters = rng.integers(1, 9, size=60)
    whole = language_model_scores([losses.sum()], [60], [int(characters.sum())])
    parts = language_model_scores(
        losses.reshape(12, 5).sum(1), [5] * 12, characters.reshape(12, 5).sum(1)
    )
    for name in ("tokens", "characters", "loss", "perplexity", "bits_per_character"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name))
    # One text says nothing of others.
    assert (whole.loss_interval, whole.perplexity_interval) == (None, None)
    low, high = parts.loss_interval
    assert low < parts.loss < high
    assert parts.perplexity_interval == pytest.approx((math.exp(low), math.exp(high)))


def test_long_texts_count_for_what_they_are():
    scores = language_model_scores([1.0, 300.0], [1, 100])
    assert scores.loss == pytest.approx(301 / 101)
    assert scores.loss_interval == pytest.approx((1.0, 3.0))
    assert (scores.characters, scores.bits_per_character) == (None, None)
    json.dumps(dataclasses.asdict(scores), allow_nan=False)


def test_a_loss_beyond_all_numbers_is_infinitely_perplexed():
    assert language_model_scores([1e4], [1]).perplexity == math.inf


@pytest.mark.parametrize(
    ("losses", "tokens", "characters", "message"),
    [
        ([], [], None, "0 losses of texts with 0 sizes; expected the same number, at least one"),
        ([1.0], [1, 2], None, "1 losses of texts with 2 sizes"),
        ([1.0], [1], [1, 2], "1 losses of texts with 1 and 2 sizes"),
        ([1.0, -1.0], [1, 1], None, r"text 2 has the loss -1.0 and the sizes \[1\]"),
        ([math.nan], [1], [3], r"text 1 has the loss nan and the sizes \[1, 3\]; .*diverge"),
        ([1.0, 2.0], [3, 0], None, r"text 2 .* sizes \[0\]; .*is the text empty"),
        ([1.0], [3], [0], r"text 1 .* sizes \[3, 0\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(losses, tokens, characters, message):
    with pytest.raises(DataError, match=message):
        language_model_scores(losses, tokens, characters)
