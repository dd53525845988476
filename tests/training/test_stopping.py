"""The best weights of a run, and when to stop: scores are given, so that all is known."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from tests.helpers import unchecked
from tests.training.toy import settings
from torch import nn

from qkv.errors import ConfigError, TrainingError
from qkv.training.checkpointing import Checkpoints
from qkv.training.loop import train
from qkv.training.run import Callback
from qkv.training.stopping import KeepBest

BATCH = SimpleNamespace(n_targets=1, to=lambda device: BATCH)


class Counter(nn.Module):
    """A model whose weight tells the step: each update takes 1 off, and a buffer counts calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.frozen = nn.Parameter(torch.full((5,), 7.0), requires_grad=False)
        self.register_buffer("calls", torch.zeros(()))

    @property
    def at(self):
        return -self.weight[0].item(), self.calls.item()


def loss(model, batch):
    model.calls += 1
    return model.weight.sum()


def run(
    callback,
    scores,
    *,
    steps=None,
    model=None,
    others=(),
    metric="accuracy",
    losses=None,
    **options,
):
    """One evaluation a step; `scores` are what they say."""
    model = model or Counter()
    given, of_loss = iter(scores), iter(losses or itertools.repeat(0.5))
    history = train(
        model,
        itertools.repeat(BATCH),
        loss,
        settings(steps=steps or len(scores), clip=math.inf, evaluate_every=1, **options),
        optimizer=torch.optim.SGD([model.weight], lr=1.0),
        evaluate=lambda model: {metric: next(given), "loss": next(of_loss)},
        callbacks=[callback, *others],
        device="cpu",
    )
    return model, history


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("max", [0.1, 0.5, 0.3, 0.4], 2),
        ("min", [0.9, 0.5, 0.3, 0.4], 3),
        ("max", [0.1, 0.2, 0.3, 0.4], 4),
        ("max", [0.4, 0.3, 0.2, 0.1], 1),
        ("max", [0.4, 0.5, 0.5, 0.5], 2),  # as good is not better
        ("min", [math.inf, 3.0, math.inf, 3.0], 2),
        ("min", [-1.0, -2.0, 0.0, 1.0], 2),
    ],
)
def test_the_best_weights_are_put_back(mode, scores, best):
    keep = KeepBest("accuracy", mode=mode)
    model, history = run(keep, scores)
    assert model.at == (best, best)
    assert (keep.step, keep.score) == (best, scores[best - 1])
    assert history.steps == [1, 2, 3, 4]
    assert torch.equal(model.frozen, torch.full((5,), 7.0))


@pytest.mark.parametrize(
    ("patience", "n_steps", "best"), [(1, 3, 2), (2, 4, 2), (3, 5, 2), (4, 10, 6), (None, 10, 6)]
)
def test_patience(patience, n_steps, best):
    scores = [0.1, 0.5, 0.4, 0.4, 0.3, 0.7, 0.1, 0.1, 0.1, 0.1]
    model, history = run(KeepBest("accuracy", mode="max", patience=patience), scores)
    assert history.steps[-1] == n_steps
    assert model.at == (best, best)


def test_of_equal_scores_the_lower_loss_is_kept():
    losses = [0.9, 0.5, 0.4, 0.4, 0.6, 0.1]
    keep = KeepBest("accuracy", mode="max")
    model, _ = run(keep, [0.1, 0.5, 0.5, 0.5, 0.5, 0.4], losses=losses)
    assert model.at == (3, 3)
    assert (keep.step, keep.score, keep.loss) == (3, 0.5, 0.4)


def test_a_lower_loss_alone_does_not_keep_the_run_going():
    losses = [0.5, 0.4, 0.3, 0.2, 0.1]
    model, history = run(KeepBest("accuracy", mode="max", patience=2), [1.0] * 5, losses=losses)
    assert history.steps[-1] == 3
    assert model.at == (3, 3)


class Stopped(Callback):
    def end(self, run):
        self.reason = run.stop


def test_the_run_says_why_it_stopped():
    stopped = Stopped()
    keep = KeepBest("accuracy", mode="max", patience=2)
    run(keep, [0.1, 0.25, 0.2, 0.1, 0.3], others=[stopped])
    assert stopped.reason == "accuracy was 0.25 at best, and no better in the last 2 evaluations"
    run(keep, [0.3, 0.2, 0.1], others=[stopped])  # it was over in any case
    assert stopped.reason is None


def test_a_second_run_begins_anew():
    keep = KeepBest("accuracy", mode="max", patience=3)
    run(keep, [0.9, 0.1])
    model, _ = run(keep, [0.1, 0.3, 0.2])
    assert (keep.step, keep.score) == (2, 0.3)
    assert model.at == (2, 2)


def test_only_what_changes_is_kept_and_nothing_of_it_is_shared():
    model = Counter()
    keep = KeepBest("accuracy", mode="max")
    run(keep, [0.1], model=model)
    assert set(keep.weights) == {"weight", "calls"}
    assert model.weight.data_ptr() != keep.weights["weight"].data_ptr()


def test_a_moving_average_is_what_is_evaluated_and_kept():
    seen = []

    class See(Callback):
        def evaluated(self, run, scores):
            seen.append(run.model.weight.detach().clone())

    model, _ = run(KeepBest("accuracy", mode="max"), [0.1, 0.3, 0.2], others=[See()], ema=0.9)
    assert torch.equal(model.weight, seen[1])
    assert not torch.equal(seen[1], torch.full((3,), -2.0))


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("scores", "best", "n_steps"),
    [([0.1, 0.6, 0.4, 0.3, 0.2, 0.2, 0.9], 2, 6), ([0.1, 0.5, 0.4, 0.6, 0.3, 0.2, 0.0], 4, 7)],
)
def test_a_run_that_is_resumed_remembers_the_best_and_its_patience(
    tmp_path, scores, best, n_steps, first
):
    def half(scores):
        keep = KeepBest("accuracy", mode="max", patience=4)
        callbacks = [keep, Checkpoints(tmp_path, every=1)][:: 1 if first else -1]
        model, history = run(callbacks[0], scores, steps=7, others=callbacks[1:])
        assert history.steps[-1] == n_steps
        assert model.at == (best, best)
        assert (keep.step, keep.score) == (best, 0.6)

    def dies():
        yield from scores[:3]
        raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        half(dies())
    half(iter(scores[3:]))
    half(iter([]))  # a run that is over stays so, and ends with the best weights again


def test_an_unknown_metric():
    message = "no 'f1' among the scores; evaluate returned accuracy, loss"
    with pytest.raises(ConfigError, match=message):
        run(KeepBest("f1", mode="max"), [0.1])


def test_a_score_that_is_no_number():
    with pytest.raises(TrainingError, match="accuracy is nan after step 2; expected a number"):
        run(KeepBest("accuracy", mode="max"), [0.1, math.nan])


def test_nothing_was_evaluated():
    model = Counter()
    message = "nothing was evaluated in 2 steps, so there are no best weights by 'accuracy'"
    with pytest.raises(ConfigError, match=message):
        train(
            model,
            itertools.repeat(BATCH),
            loss,
            settings(steps=2),
            optimizer=torch.optim.SGD([model.weight], lr=1.0),
            callbacks=[KeepBest("accuracy", mode="max")],
            device="cpu",
        )
    assert model.calls == 2


def test_arguments_that_make_no_sense():
    with unchecked(), pytest.raises(ConfigError, match="mode = 'highest'; expected 'max'"):
        KeepBest("accuracy", mode="highest")
    with pytest.raises(ConfigError, match="patience = 0 evaluations; expected at least 1, or None"):
        KeepBest("accuracy", mode="max", patience=0)
