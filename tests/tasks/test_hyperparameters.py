"""How long and how fast: what is computed from the numbers, and which are refused."""

import itertools

import pytest

from qkv.data.batches import Batches
from qkv.errors import ConfigError
from qkv.tasks.hyperparameters import Training


def training(**options):
    return Training(**{"steps": 10, "batch_size": 3, **options})


def batches(n):
    return Batches(itertools.count(), lambda epoch: range(n), lambda row, rng: row, seed=0)


@pytest.mark.parametrize(
    ("options", "n_batches", "steps", "epoch"),
    [
        ({"steps": 17, "epochs": None}, 5, 17, 5),
        ({"epochs": 3.0}, 5, 15, 5),
        ({"epochs": 1.5}, 5, 8, 5),
        ({"epochs": 3.0, "accumulate": 4}, 5, 4, 1),
        ({"epochs": 2.0, "accumulate": 3}, 8, 5, 3),
        ({"epochs": 0.01}, 5, 1, 5),
        ({"epochs": 1.0, "accumulate": 9}, 2, 1, 1),
    ],
)
def test_steps_of_epochs(options, n_batches, steps, epoch):
    one = training(**{"steps": None, **options})
    assert one.n_steps(batches(n_batches)) == steps
    assert one.steps_of_epoch(batches(n_batches)) == epoch


def factors(steps=10, **options):
    schedule = training(**options).make_schedule(steps, d_model=64)
    return [schedule(step) for step in range(1, steps + 1)]


def test_schedules_after_a_warm_up_in_steps_or_as_a_share():
    for warmup in (2.0, 0.2):
        assert factors(schedule="constant", warmup=warmup) == [0.5, *[1] * 9]
        linear = factors(schedule="linear", warmup=warmup)
        assert linear == pytest.approx([0.5, 1, *(1 - i / 8 for i in range(1, 9))])
        cosine = factors(schedule="cosine", warmup=warmup)
        assert cosine[:2] == [0.5, 1]
        assert cosine[5] == pytest.approx(0.5)
        assert cosine[-1] == pytest.approx(0)
        noam = factors(schedule="noam", warmup=warmup)
        assert noam == pytest.approx([min(s**-0.5, s * 2**-1.5) / 8 for s in range(1, 11)])
    assert factors(schedule="noam", warmup=0.0)[:2] == pytest.approx([1 / 8, 2**-0.5 / 8])
    assert factors(schedule="linear", warmup=0.0)[0] == 0.9


def test_a_share_of_few_steps_leaves_one_to_train():
    assert factors(steps=1, schedule="constant", warmup=0.9) == [1]
    assert factors(steps=2, schedule="linear", warmup=0.9) == [1, 0]


def test_a_warm_up_as_long_as_the_training():
    with pytest.raises(ConfigError, match="warmup is 10 of 10 steps; expected"):
        training(schedule="linear", warmup=10.0).make_schedule(10, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"epochs": 2.0},
            r"training.steps = 10 and training.epochs = 2.0; expected one of the two",
        ),
        ({"steps": None}, r"steps = None and training.epochs = None; expected one of the two"),
        ({"max_tokens": 5}, r"training.batch_size = 3 and training.max_tokens = 5; expected one"),
        ({"steps": 0}, r"training.steps = 0; expected at least 1"),
        ({"steps": None, "epochs": 0.0}, r"training.epochs = 0.0; expected above 0"),
        ({"batch_size": 0}, r"training.batch_size = 0; expected at least 1"),
        ({"accumulate": 0}, r"training.accumulate = 0; expected at least 1"),
        ({"save_every": 0}, r"training.save_every = 0; expected at least 1"),
        ({"evaluate_every": 0}, r"training.evaluate_every = 0; expected at least 1"),
        ({"patience": 0}, r"training.patience = 0; expected at least 1"),
        ({"average_last": 0}, r"training.average_last = 0; expected at least 1"),
        ({"learning_rate": -1e-3}, r"training.learning_rate = -0.001; expected above 0"),
        ({"learning_rate": float("nan")}, r"training.learning_rate = nan; expected above 0"),
        ({"clip": 0.0}, r"training.clip = 0.0; expected above 0"),
        ({"warmup": -0.1}, r"training.warmup = -0.1; expected 0 or more"),
        ({"weight_decay": -1.0}, r"training.weight_decay = -1.0; expected 0 or more"),
        ({"smoothing": 1.0}, r"training.smoothing = 1.0; expected 0 or more, below 1"),
        ({"betas": (0.9, 1.0)}, r"training.betas = \(0.9, 1.0\); expected 0 or more, below 1"),
        ({"ema": 1.0}, r"training.ema = 1.0; expected between 0 and 1"),
        ({"average_last": 2, "patience": 3}, r"average_last = 2 with patience = 3 and ema = None"),
        ({"average_last": 2, "ema": 0.9}, r"average_last = 2 with patience = None and ema = 0.9"),
    ],
)
def test_numbers_that_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        training(**options)


def test_more_checkpoints_to_average_than_will_be_saved():
    one = training(steps=10, save_every=4, average_last=3)
    assert one.n_steps(batches(5)) == 10  # 4, 8 and the last
    with pytest.raises(
        ConfigError, match="average_last = 4, but 10 steps with save_every = 4 leav"
    ):
        training(steps=10, save_every=4, average_last=4).n_steps(batches(5))
