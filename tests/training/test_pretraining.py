"""Losses of pretraining: those of the full logits at the places asked for; and each is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.helpers import randomized, unchecked
from tests.training.toy import settings
from torch.nn import functional as F

from qkv.data.batches import Batching
from qkv.data.masking import Masking, masked_batches
from qkv.data.pretraining import causal_batches
from qkv.models.bert import Bert, BertConfig
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.heads import MaskedLM
from qkv.training.loop import train
from qkv.training.pretraining import causal_loss, masked_loss

PAD, START, SEPARATOR, MASK, TOPICS = 0, 1, 2, 3, 7
WORDS = 2 * TOPICS
VOCAB = 4 + WORDS + 5  # special tokens, words, sentinels
MASKING = Masking(
    mask=MASK, vocab_size=VOCAB, special=(PAD, START, SEPARATOR, *range(4 + WORDS, VOCAB))
)


def sentence(topic, length):
    """The two words of a topic in turns."""
    return [4 + 2 * topic + i % 2 for i in range(length)]


def texts():
    rng = np.random.default_rng(0)
    return [sentence(*rng.integers((0, 5), (TOPICS, 12)).tolist()) for _ in range(97)]


def bert(head, **options):
    sizes = {"d_model": 32, "n_heads": 4, "d_ff": 64, "n_layers": 2, "n_positions": 40}
    rates = {"dropout": 0.0, "attention_dropout": 0.0}
    return head(Bert(BertConfig(vocab_size=VOCAB, **sizes, **rates, **options)))


def gpt():
    sizes = {"d_model": 32, "n_heads": 4, "d_ff": 64, "n_layers": 2, "n_positions": 40}
    rates = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    return GPT(GPTConfig(vocab_size=VOCAB, **sizes, **rates))


def framed(corpus):
    return [[START, *text, SEPARATOR] for text in corpus]


OBJECTIVES = {
    "masked": (
        lambda: bert(MaskedLM),
        masked_loss,
        lambda epochs: masked_batches(
            framed(texts()),
            MASKING,
            pad=PAD,
            batching=Batching(max_tokens=400, epochs=epochs),
        ),
    ),
    "causal": (
        gpt,
        causal_loss,
        lambda epochs: causal_batches(
            texts(),
            length=24,
            stop=SEPARATOR,
            batching=Batching(batch_size=16, epochs=epochs),
        ),
    ),
}
each = pytest.mark.parametrize("objective", list(OBJECTIVES))


def reference(model, batch, objective):
    """The loss from all logits."""
    if objective == "causal":
        logits = model(batch.tokens).flatten(0, 1)[batch.positions]
        return F.cross_entropy(logits, batch.targets, reduction="sum")
    logits = model(batch.tokens, token_mask=batch.token_mask, segments=batch.segments)
    return F.cross_entropy(logits.flatten(0, 1)[batch.positions], batch.targets, reduction="sum")


@each
def test_the_loss_is_that_of_the_full_logits(objective):
    make, loss, batches = OBJECTIVES[objective]
    model, batch = randomized(make()), next(iter(batches(1)))
    found, n = loss(model, batch), batch.n_targets
    assert n == batch.n_targets > 10
    expected = reference(model, batch, objective)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (
        torch.autograd.grad(one, list(model.parameters()), allow_unused=True)
        for one in (found, expected)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@each
def test_padding_changes_nothing(objective):
    make, loss, batches = OBJECTIVES[objective]
    model = randomized(make())
    batch = max(batches(1), key=lambda one: int((~one.token_mask).sum()))
    mask = batch.token_mask
    assert not mask.all()
    other = replace(batch, tokens=torch.where(mask, batch.tokens, 7))
    assert not torch.equal(other.tokens, batch.tokens)
    torch.testing.assert_close(loss(model, other), loss(model, batch), rtol=1e-12, atol=1e-12)


@each
def test_it_is_learned(objective):
    make, loss, batches = OBJECTIVES[objective]
    torch.manual_seed(0)
    model = make()
    with unchecked():  # the same shapes over and over: checking them would take most of the time
        history = train(
            model, batches(None), loss, settings(steps=120, learning_rate=3e-3), device="cpu"
        )
    first, last = np.mean(history.losses[:5]), np.mean(history.losses[-10:])
    assert last < 0.75 * first  # what the frequencies of words alone give is 0.84


def test_only_the_places_asked_for_are_scored():
    make, loss, batches = OBJECTIVES["masked"]
    model, batch = make(), next(iter(batches(1)))
    rows, scored = [], []
    model.head.dense.register_forward_hook(lambda _, __, out: rows.append(len(out)))
    model.head.output.register_forward_hook(lambda *_: scored.append(True))
    loss(model, batch)
    assert rows == [batch.n_targets]
    assert rows[0] < 0.3 * int(batch.token_mask.sum())
    assert not scored  # the fused loss makes the logits, chunk by chunk
