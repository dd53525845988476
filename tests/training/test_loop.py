import builtins
import itertools
import math
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from tests.training.toy import ToySeq2Seq, settings, toy_batch
from torch import nn

from qkv.errors import ConfigError, MissingDependencyError, TrainingError
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.training import history as log
from qkv.training import loop
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.optim import adamw
from qkv.training.progress import Bar


def toy():
    torch.manual_seed(0)
    return ToySeq2Seq(vocab=11, d_model=8)


def batches():
    torch.manual_seed(1)
    return itertools.cycle([toy_batch(batch=2), toy_batch(batch=5), toy_batch(batch=3)])


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same(ours, theirs):
    for name, p in ours.items():
        assert torch.equal(p, theirs[name]), name


def by_hand(model, steps, clip=1.0, rate=1e-3):
    optimizer = adamw(model, learning_rate=rate)
    losses = []
    for _, batch in zip(range(steps), batches(), strict=False):
        loss = pair_loss(model, batch)
        optimizer.zero_grad()
        (loss / batch.n_targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item() / batch.n_targets)
    return losses


@pytest.mark.parametrize("clip", [0.01, 1.0, math.inf])
def test_equals_the_loop_written_by_hand(clip):
    ours, theirs = toy(), toy()
    history = train(ours, batches(), pair_loss, settings(steps=7, clip=clip), device="cpu")
    assert history.losses == pytest.approx(by_hand(theirs, 7, clip))
    assert_same(weights(ours), weights(theirs))


def test_history():
    history = train(toy(), batches(), pair_loss, settings(steps=4, learning_rate=0.5), device="cpu")
    assert history.steps == [1, 2, 3, 4]
    assert history.learning_rates == [0.5] * 4
    assert history.targets == sum(b.n_targets for b, _ in zip(batches(), range(4), strict=False))
    assert history.targets_per_second == pytest.approx(history.targets / history.seconds)


def test_the_schedule_multiplies_the_rate_of_every_group():
    model = toy()
    rates = []
    optimizer = torch.optim.SGD(
        [
            {"params": model.embedding.parameters(), "lr": 0.25},
            {"params": model.head.parameters(), "lr": 2.0},
        ]
    )

    def loss(model, batch):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return pair_loss(model, batch)

    history = train(
        model,
        batches(),
        loss,
        settings(steps=4, schedule="linear", warmup=2),
        optimizer=optimizer,
        device="cpu",
    )
    assert rates == [[0.125, 1.0], [0.25, 2.0], [0.125, 1.0], [0.0, 0.0]]
    assert history.learning_rates == [0.125, 0.25, 0.125, 0.0]


def test_evaluation_runs_in_evaluation_mode_without_gradients_and_training_goes_on():
    modes = []

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"calls": float(len(modes))}

    def loss(model, batch):
        assert model.training
        return pair_loss(model, batch)

    model = toy().eval()
    history = train(
        model, batches(), loss, settings(steps=5, evaluate_every=2), evaluate=evaluate, device="cpu"
    )
    assert modes == [(False, False)] * 3
    assert history.evaluations == [(2, {"calls": 1.0}), (4, {"calls": 2.0}), (5, {"calls": 3.0})]
    assert not model.training


def test_evaluation_only_at_the_end():
    history = train(
        toy(),
        batches(),
        pair_loss,
        settings(steps=3),
        evaluate=lambda model: {"x": 1.0},
        device="cpu",
    )
    assert history.evaluations == [(3, {"x": 1.0})]


def test_time_of_evaluations_is_not_training_time(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(log.time, "perf_counter", lambda: float(next(clock)))

    def evaluate(model):
        for _ in range(1000):
            next(clock)
        return {}

    history = train(
        toy(),
        batches(),
        pair_loss,
        settings(steps=4, evaluate_every=1),
        evaluate=evaluate,
        device="cpu",
    )
    assert history.seconds < 10


def poisoned(loss_at, how):
    """`pair_loss`, spoiled at one call."""
    calls = itertools.count(1)

    def loss(model, batch):
        total = pair_loss(model, batch)
        return how(total) if next(calls) == loss_at else total

    return loss


@pytest.mark.parametrize("check_every", [1, 4])
@pytest.mark.parametrize("snapshot_every", [1, 3])
@pytest.mark.parametrize("how", [lambda x: x * math.nan, lambda x: x * math.inf, lambda x: x / 0])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_weights(
    monkeypatch, check_every, snapshot_every, how
):
    monkeypatch.setattr(log, "SNAPSHOT_EVERY", snapshot_every)
    monkeypatch.setattr(loop, "check_interval", lambda device: check_every)
    model, reference = toy(), toy()
    # Looked at in steps 1, 4 and 8 (or all); kept each time, or where 3 updates are in between.
    good = {(1, 1): 4, (1, 3): 3, (4, 1): 3, (4, 3): 3}[check_every, snapshot_every]
    match = (
        rf"the loss was (nan|inf) and the norm of the gradient nan at step 6, .* of step {good}, "
        r"the last good ones\. Either the learning rate \(0\.001\) is too high"
    )
    with pytest.raises(TrainingError, match=match):
        train(model, batches(), poisoned(6, how), settings(steps=10), device="cpu")
    by_hand(reference, good)
    assert_same(weights(model), weights(reference))
    assert all(p.isfinite().all() for p in model.parameters())
    assert not model.training


def test_a_gradient_that_is_not_finite_stops_although_the_loss_is_finite():
    model = toy()
    # The square root of zero: its value is finite, its slope is not.
    loss = poisoned(3, lambda x: x + (x - x.detach()).sqrt())
    with pytest.raises(TrainingError, match=r"norm of the gradient (nan|inf) at step 3"):
        train(model, batches(), loss, settings(steps=5), device="cpu")
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_first_step_leaves_the_weights_as_they_were_given():
    model, before = toy(), weights(toy())
    with pytest.raises(TrainingError, match=r"at step 1, .* weights of step 0,"):
        train(
            model, batches(), poisoned(1, lambda x: x * math.nan), settings(steps=5), device="cpu"
        )
    assert_same(weights(model), before)


def test_a_batch_without_tokens_is_named():
    batch = toy_batch(batch=2)
    empty = replace(batch, target_mask=torch.zeros_like(batch.target_mask), n_targets=0)
    with pytest.raises(TrainingError, match="the batches of step 1 have no targets"):
        train(toy(), [empty], pair_loss, settings(steps=1), device="cpu")


def test_weights_that_explode_are_put_back():
    model = toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
    with pytest.raises(TrainingError, match=r"learning rate \(1e\+38\) is too high"):
        train(
            model,
            batches(),
            pair_loss,
            settings(steps=9, clip=1e9),
            optimizer=optimizer,
            device="cpu",
        )
    assert all(p.isfinite().all() for p in model.parameters())


def test_batches_that_end_too_early():
    three = list(itertools.islice(batches(), 3))
    with pytest.raises(TrainingError, match="ended after 3 of 5 steps; pass an endless iterator"):
        train(toy(), three, pair_loss, settings(steps=5), device="cpu")
    assert train(toy(), three, pair_loss, settings(steps=3), device="cpu").steps == [1, 2, 3]


def test_an_interrupt_passes_through_and_leaves_the_model_usable():
    model = toy()

    def loss(model, batch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, batches(), loss, settings(steps=3), device="cpu")
    assert not model.training
    assert train(model, batches(), pair_loss, settings(steps=2), device="cpu").steps == [1, 2]


def test_runs_follow_each_other_on_any_device():
    here = Accelerator().device.type
    for device in ("cpu", "auto", here, "cpu"):
        history = train(toy(), batches(), pair_loss, settings(steps=2), device=device)
        assert len(history.losses) == 2


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match='device is "npu", but the accelerator here is'):
        train(toy(), batches(), pair_loss, settings(steps=1), device="npu")


def test_without_accelerate_the_message_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("accelerate"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r'pip install "qkv\[train\]"'):
        train(toy(), batches(), pair_loss, settings(steps=1), device="cpu")


def test_silent_where_the_output_is_no_terminal(capfd):
    train(toy(), batches(), pair_loss, settings(steps=2), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_bar_on_a_terminal(monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    train(toy(), batches(), pair_loss, settings(steps=3), device="cpu", callbacks=[Bar("dates")])
    shown = capfd.readouterr().out
    for part in ("dates", "3/3", "loss", "tokens/s"):
        assert part in shown
    hidden = Bar(show=False)
    train(toy(), batches(), pair_loss, settings(steps=3), callbacks=[hidden], device="cpu")
    assert capfd.readouterr().out == ""


def rnn():
    return RNNSeq2Seq(
        RNNConfig(source_vocab_size=11, target_vocab_size=11, d_embedding=16, d_hidden=32)
    )


def transformer():
    return Transformer(
        TransformerConfig(
            source_vocab_size=11,
            target_vocab_size=11,
            d_model=32,
            n_heads=4,
            d_ff=64,
            n_encoder_layers=1,
            n_decoder_layers=1,
            dropout=0.0,
        )
    )


@pytest.mark.parametrize("make", [rnn, transformer])
def test_a_tiny_batch_can_be_overfitted(make):
    model, batch = make(), toy_batch(batch=5)
    history = train(
        model,
        itertools.repeat(batch),
        pair_loss,
        settings(steps=120, learning_rate=0.01),
        device="cpu",
    )
    assert history.losses[0] > 2
    assert history.losses[-1] < 0.02
    logits = model(batch.source, batch.target_input, source_mask=batch.source_mask)
    assert torch.equal(logits.argmax(-1)[batch.target_mask], batch.target[batch.target_mask])
