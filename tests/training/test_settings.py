"""How long and how fast: what is computed from the numbers, and which are refused."""

import itertools

import pytest
from torch import nn

from qkv.data.batches import Batches, Batching
from qkv.errors import ConfigError
from qkv.models.bert import Bert, BertConfig
from qkv.training.settings import Training


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
    assert one.steps_per_epoch(batches(n_batches)) == epoch


def factors(steps=10, **options):
    schedule = training(**options).schedule_for(steps, d_model=64)
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
        training(schedule="linear", warmup=10.0).schedule_for(10, 64)


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


def test_training_on_ready_made_batches_needs_no_batch_size_but_batching_does():
    one = training(batch_size=None)
    assert one.n_steps([]) == 10
    with pytest.raises(
        ConfigError,
        match=r"training.batch_size = None and training.max_tokens = None; expected one of the two",
    ):
        one.batching()


def test_epochs_of_batches_that_cannot_count_them():
    message = "a list of batches does not know how many make an epoch; set training.steps"
    with pytest.raises(ConfigError, match=message):
        training(steps=None, epochs=2.0).n_steps([1, 2, 3])


def test_evaluations_are_an_epoch_apart_unless_set():
    assert training(accumulate=2).evaluation_interval(batches(6), 10) == 3
    assert training(evaluate_every=7).evaluation_interval(batches(6), 10) == 7
    assert training().evaluation_interval(iter(batches(6)), 10) == 6  # an iterator of itself
    assert training().evaluation_interval([1, 2, 3], 10) == 10


def test_noam_needs_the_width_of_the_model():
    with pytest.raises(ConfigError, match="depends on d_model, but the config of this model has n"):
        training(schedule="noam").schedule_for(10, None)


def test_optimizers():
    model = nn.Sequential(nn.Linear(3, 5))
    plain = training(learning_rate=0.3, betas=(0.4, 0.5), weight_decay=0.6).make_optimizer(model)
    assert [group["weight_decay"] for group in plain.param_groups] == [0.6, 0.0]
    assert {(g["lr"], g["betas"], g["eps"]) for g in plain.param_groups} == {
        (0.3, (0.4, 0.5), 1e-9)
    }
    encoder = Bert(BertConfig(vocab_size=11, d_model=6, n_heads=2, d_ff=14, n_layers=2))
    layers = training(learning_rate=0.8).make_optimizer(encoder, layer_decay=0.5, eps=1e-7)
    assert sorted({group["lr"] for group in layers.param_groups}) == [0.1, 0.2, 0.4, 0.8]
    assert {group["eps"] for group in layers.param_groups} == {1e-7}


def test_batching_is_endless_and_has_the_size_and_the_seed_of_the_settings():
    assert training(seed=7).batching() == Batching(batch_size=3, seed=7, epochs=None)
    tokens = training(batch_size=None, max_tokens=50).batching()
    assert tokens == Batching(max_tokens=50, seed=0, epochs=None)
