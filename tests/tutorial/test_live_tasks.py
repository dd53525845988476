"""The tasks on which the pages of the variants train: what is asked, and that it can be learned."""

import pytest
import torch

from qkv.attention.multi_head import MultiHeadAttention
from qkv.tutorial import live_tasks
from qkv.tutorial.live_tasks import D_MODEL, LENGTH, N_HEADS, NONE, SYMBOLS, LiveModel


def generator():
    return torch.Generator().manual_seed(3)


def plain(layer):
    return MultiHeadAttention(D_MODEL, N_HEADS, causal=True)


def test_copying_shows_each_symbol_before_it_is_asked_for_again():
    rows = live_tasks.copying(5, 7, generator())
    first, second = rows.tokens.unbind(-1)
    assert torch.equal(first[:, :5], rows.answers)
    assert (first[:, 5] == NONE).all()
    assert torch.equal(first[:, 6:], rows.answers[:, :-1])  # the token before each answer
    assert (second == NONE).all()
    assert rows.n_targets == 35


def test_recall_asks_for_the_last_value_of_a_key():
    rows = live_tasks.recall(11, 7, generator())
    overwritten = 0
    for tokens, answers in zip(rows.tokens.tolist(), rows.answers.tolist(), strict=True):
        stored = dict(tokens[:11])  # a later value replaces an earlier one
        overwritten += 11 - len(stored)
        assert [stored[key] for key, _ in tokens[11:]] == answers
        assert {value for _, value in tokens[11:]} == {NONE}
    assert overwritten > 7


def test_batches_have_the_training_lengths_and_depend_on_the_seed_alone():
    def lengths(seed):
        drawn = live_tasks.batches("copying", seed)
        return [next(drawn).answers.shape[1] for _ in range(60)]

    assert set(lengths(0)) == set(range(3, LENGTH + 1))
    assert lengths(0) == lengths(0) != lengths(1)


def test_the_loss_is_the_sum_of_cross_entropies_and_a_new_model_knows_nothing():
    torch.manual_seed(0)
    model, rows = LiveModel(plain), live_tasks.recall(5, 13, generator())
    logits = model.head(model.hidden(rows))
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), rows.answers.flatten(), reduction="sum"
    )
    torch.testing.assert_close(live_tasks.loss(model, rows), expected)
    assert live_tasks.share_right(model, "recall", 5) < 4 / SYMBOLS


def test_a_model_predicts_from_what_comes_before_alone():
    torch.manual_seed(0)
    model = LiveModel(plain).double()
    rows = live_tasks.copying(5, 2, generator())
    changed = live_tasks.Rows(rows.tokens.clone(), rows.answers)
    changed.tokens[:, 8:] = NONE
    difference = (model.hidden(rows) - model.hidden(changed)).abs().amax((0, 2))
    assert (difference[:3] < 1e-12).all()
    assert (difference[3:] > 1e-3).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_learning_improves_on_chance_in_a_few_steps():
    scores = live_tasks.learn(plain, steps=60)
    assert list(scores) == [
        "copying",
        "copying, twice the length",
        "recall",
        "recall, twice the length",
    ]
    assert scores["recall"] > 0.25 > 3 / SYMBOLS
