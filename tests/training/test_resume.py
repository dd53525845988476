"""A run that ends anywhere goes on as if nothing had happened, to the bit."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess

import numpy as np
import pytest
import torch
from tests.helpers import unchecked
from tests.training.toy import ToySeq2Seq, settings, toy_batch
from torch import nn

from qkv.data.batches import Batches
from qkv.errors import ConfigError, Interrupted, StorageError, TrainingError
from qkv.training import checkpointing
from qkv.training.averaging import MovingAverage
from qkv.training.checkpointing import Checkpoints, average_checkpoints, find_checkpoints
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.optim import adamw
from qkv.training.run import Callback

STEPS = 13


@pytest.fixture(autouse=True)
def as_users_run_it():
    """The checks of types draw from Python's random numbers, with which these runs are made."""
    with unchecked():
        yield


class Noisy(nn.Module):
    """A model whose steps depend on all three generators of random numbers."""

    def __init__(self):
        super().__init__()
        self.inner = ToySeq2Seq(vocab=11, d_model=8)
        self.inner.dropout.p = 0.3
        self.head = self.inner.head
        self.register_buffer("calls", torch.zeros(()))

    def hidden(self, source, target, *, source_mask=None):
        self.calls += 1
        noise = random.random() + np.random.rand()
        return self.inner.hidden(source, target, source_mask=source_mask) * noise


class Kept(Callback):
    """A callback with a state of its own."""

    def __init__(self):
        self.total, self.seen = torch.zeros(3), []

    def after_step(self, run):
        self.total += torch.rand(3)
        self.seen.append((run.step, 0.1))

    def state_dict(self):
        return {"total": self.total, "seen": self.seen}

    def load_state_dict(self, state):
        self.total, self.seen = state["total"], state["seen"]


def endless():
    """Batches that can be sought: five an epoch, drawn from their own random numbers."""

    def make(group, rng):
        torch.manual_seed(int(rng.integers(1000)) + group)  # spoils what is not restored
        return toy_batch(batch=group)

    return Batches(itertools.count(), lambda epoch: [2, 3, 5, 2, 4], make, seed=7)


def plain():
    """The same, as a generator, which nothing can seek."""
    yield from endless()


def run(
    folder,
    *,
    steps=STEPS,
    batches=endless,
    every=1,
    loss=pair_loss,
    recipe=None,
    resumed=lambda step: None,
    **options,
):
    torch.manual_seed(3)
    random.seed(4)
    np.random.seed(5)
    model, kept = Noisy(), Kept()
    checkpoints = None
    if folder:
        checkpoints = Checkpoints(folder, every=every, recipe=recipe, resumed=resumed)
    history = train(
        model,
        batches(),
        loss,
        settings(
            steps=steps,
            ema=options.pop("ema", 0.9),
            accumulate=options.pop("accumulate", 2),
            evaluate_every=4,
            schedule="cosine",
            warmup=2,
            **options,
        ),
        evaluate=lambda m: {"norm": float(m.head.weight.norm())},
        callbacks=[kept, *([checkpoints] if checkpoints else [])],
        device="cpu",
    )
    return model, kept, history


def dying(at):
    """A loss that ends the process's work at its n-th call."""
    calls = itertools.count(1)

    def loss(model, batch):
        if next(calls) == at:
            raise MemoryError("killed")
        return pair_loss(model, batch)

    return loss


def assert_same(ours, theirs):
    model, kept, history = ours
    other, other_kept, other_history = theirs
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert torch.equal(kept.total, other_kept.total)
    assert kept.seen == other_kept.seen
    assert history.losses == other_history.losses
    assert history.evaluations == other_history.evaluations
    assert history.learning_rates == other_history.learning_rates
    assert history.targets == other_history.targets


@pytest.mark.parametrize("batches", [endless, plain])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("at", [1, 7, 12, 26])
def test_a_run_that_dies_goes_on_to_the_bit(tmp_path, at, every, batches):
    with pytest.raises(TrainingError, match="did not fit into memory"):
        run(tmp_path, loss=dying(at), batches=batches, every=every)
    assert_same(run(tmp_path, batches=batches, every=every), run(None))


def test_a_run_that_dies_again_and_again(tmp_path):
    for at in (5, 3, 1, 9, 2):
        with pytest.raises(TrainingError):
            run(tmp_path, loss=dying(at))
    assert_same(run(tmp_path), run(None))


def test_in_float16_the_scaler_goes_on_as_well(tmp_path):
    options = {"precision": "float16", "batches": endless}
    with pytest.raises(TrainingError, match="did not fit"):
        run(tmp_path, loss=dying(9), **options)
    assert_same(run(tmp_path, **options), run(None, **options))
    state = json.loads((find_checkpoints(tmp_path)[0] / "state.json").read_text())
    assert state["state"]["scaler"]["scale"] == 65536.0


def test_a_finished_run_does_nothing_more(tmp_path):
    first = run(tmp_path)

    def never(model, batch):
        raise AssertionError

    assert_same(run(tmp_path, loss=never), first)


def test_checkpoints_change_nothing(tmp_path):
    assert_same(run(tmp_path), run(None))


def test_two_are_kept_and_a_damaged_one_is_passed_over_with_a_warning(tmp_path):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(17))
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000008", "step-00000007"]
    damaged = tmp_path / "step-00000008" / "training.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    message = "step-00000008 is damaged, that of step 7 is used; it is step-00000008.damaged now"
    with pytest.warns(UserWarning, match=message):
        again = run(tmp_path)
    assert_same(again, run(None))
    assert (tmp_path / "step-00000008.damaged" / "training.safetensors").read_bytes() == content


def test_two_damaged_checkpoints_take_no_new_one_with_them(tmp_path):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(25))  # twelve steps, of which 11 and 12 are kept
    for path in find_checkpoints(tmp_path):
        (path / "state.json").write_text("x")
    with (
        pytest.warns(UserWarning, match="is damaged, there is none before it") as warned,
        pytest.raises(TrainingError),
    ):
        run(tmp_path, loss=dying(9))
    assert len(warned) == 2
    assert [path.name for path in find_checkpoints(tmp_path)] == ["step-00000004", "step-00000003"]
    assert_same(run(tmp_path), run(None))


def test_the_step_is_told_that_a_run_goes_on_from_and_not_that_of_a_damaged_one(tmp_path):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(17))
    told = []
    (tmp_path / "step-00000008" / "model.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged"):
        run(tmp_path, resumed=told.append)
    assert told == [7]


@pytest.mark.parametrize(
    "content", ["[]", "5", "null", '{"model.safetensors": 5}', "{", "\ud800x", "[" * 100_000]
)
def test_checksums_that_say_something_else_mean_damaged(tmp_path, content):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(9))
    path = find_checkpoints(tmp_path)[0] / "checksums.json"
    path.write_text(content, encoding="utf-8", errors="surrogatepass")
    with pytest.warns(UserWarning, match="step-00000004 is damaged, that of step 3 is used"):
        run(tmp_path)


def test_what_is_no_checkpoint_is_left_where_it_is(tmp_path):
    others = ["step-final", "step-1", "step-000000x5", "best", ".step-mine"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000099").write_text("a file")
    run(tmp_path)
    assert_same(run(tmp_path), run(None))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, "step-00000099", "step-00000012", "step-00000013"}


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    def loss(model, batch):
        with pytest.raises(StorageError, match=f"{os.getpid()} on .*expected one writer"):
            run(tmp_path)
        return pair_loss(model, batch)

    run(tmp_path, loss=loss, steps=3)


def test_an_old_checkpoint_that_cannot_be_removed_ends_nothing(tmp_path, monkeypatch):
    remove = checkpointing.remove_folder

    def refuse(path):
        monkeypatch.setattr(checkpointing, "remove_folder", remove)
        raise PermissionError(13, "not yours")

    monkeypatch.setattr(checkpointing, "remove_folder", refuse)
    with pytest.warns(UserWarning, match="step-00000001 is no longer needed and stays: .*not your"):
        again = run(tmp_path)
    assert_same(again, run(None))


@pytest.mark.parametrize("name", ["model.safetensors", "state.json", "checksums.json"])
def test_a_checkpoint_without_a_file_is_damaged(tmp_path, name):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(9))
    (find_checkpoints(tmp_path)[0] / name).unlink()
    with pytest.warns(UserWarning, match="is damaged"):
        again = run(tmp_path)
    assert_same(again, run(None))


def test_a_full_disk_leaves_the_old_checkpoint_and_says_so(tmp_path, monkeypatch):
    saved, replace = [], checkpointing.replace_folder

    def full(path):
        saved.append(path)
        if len(saved) == 4:
            raise OSError(28, "No space left on device")
        return replace(path)

    monkeypatch.setattr(checkpointing, "replace_folder", full)
    message = (
        r"checkpoint of step 4 cannot be written: .*No space left on device; that of step 3 is "
        r"whole \(is the disk full\?\)"
    )
    with pytest.raises(TrainingError, match=message):
        run(tmp_path)
    assert find_checkpoints(tmp_path)[0].name == "step-00000003"
    assert_same(run(tmp_path), run(None))


def test_a_disk_that_fills_up_inside_a_checkpoint_leaves_nothing_behind(tmp_path, monkeypatch):
    written = itertools.count(1)
    write = checkpointing.Path.write_bytes

    def full(path, data):
        if next(written) == 11:  # the third file of the third checkpoint
            write(path, data[:10])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(checkpointing.Path, "write_bytes", full)
    with pytest.raises(TrainingError, match="step 3 cannot be written"):
        run(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001", "step-00000002"]


def test_another_recipe_is_refused_with_the_fields_that_differ(tmp_path):
    recipe = {"training": {"steps": 13, "rate": 0.1}, "data": {"path": "a.csv"}}
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(5), recipe=recipe)
    other = {"training": {"steps": 13, "rate": 0.2}, "data": {"path": "a.csv", "seed": 1}}
    message = (
        r"belongs to another run: recipe data\.seed was missing and is 1; training\.rate was 0\.1 "
        r"and is 0\.2\. Continue with the same, or choose another folder"
    )
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, recipe=other)
    run(tmp_path, recipe=recipe)


def test_another_version_is_refused(tmp_path, monkeypatch):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(5))
    real = checkpointing.version
    monkeypatch.setattr(
        checkpointing, "version", lambda name: "9.9" if name == "torch" else real(name)
    )
    with pytest.raises(ConfigError, match=r"another run: versions torch was '2.* and is '9\.9'"):
        run(tmp_path)


def test_another_model_is_refused(tmp_path):
    with pytest.raises(TrainingError):
        run(tmp_path, loss=dying(5))
    model = ToySeq2Seq(vocab=11, d_model=8)
    with pytest.raises(ConfigError, match=r"has another model: calls was '\(\)' and is missing"):
        train(
            model,
            endless(),
            pair_loss,
            settings(steps=3),
            callbacks=[Checkpoints(tmp_path, every=1)],
            device="cpu",
        )


def test_a_state_of_fewer_callbacks_is_refused(tmp_path):
    model = ToySeq2Seq(vocab=11, d_model=8)
    checkpoints = Checkpoints(tmp_path, every=1)
    train(model, endless(), pair_loss, settings(steps=1), callbacks=[checkpoints], device="cpu")
    more = [checkpoints, Callback()]
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is shorter than argument 1"):
        train(model, endless(), pair_loss, settings(steps=3), callbacks=more, device="cpu")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step(tmp_path, number):
    calls = itertools.count(1)

    def loss(model, batch):
        if next(calls) == 9:
            signal.raise_signal(number)
        return pair_loss(model, batch)

    before = signal.getsignal(number)
    message = "stopped at step 5 of 13 as requested, and saved in .*; the same command again"
    with pytest.raises(Interrupted, match=message) as caught:
        run(tmp_path, loss=loss, every=100)
    assert caught.value.signal == number
    assert signal.getsignal(number) is before
    assert find_checkpoints(tmp_path)[0].name == "step-00000005"
    assert_same(run(tmp_path, every=100), run(None))


def test_a_second_signal_ends_it_at_once(tmp_path):
    def loss(model, batch):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, loss=loss)


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path):
    calls = itertools.count(1)

    def loss(model, batch):
        total = pair_loss(model, batch)
        return total * (float("nan") if next(calls) == 9 else 1)

    with pytest.raises(TrainingError, match="at step 5"):
        run(tmp_path, loss=loss)
    assert find_checkpoints(tmp_path)[0].name == "step-00000004"
    assert_same(run(tmp_path), run(None))


def test_the_mean_of_the_last_checkpoints(tmp_path):
    torch.manual_seed(0)
    model, seen = ToySeq2Seq(vocab=11, d_model=8), []

    class See(Callback):
        def after_step(self, run):
            seen.append({n: p.detach().double() for n, p in run.model.named_parameters()})
            seen[-1] = {n: p.clone() for n, p in seen[-1].items()}

    train(
        model,
        endless(),
        pair_loss,
        settings(steps=6, learning_rate=0.1),
        callbacks=[See(), Checkpoints(tmp_path, every=2, keep=3)],
        device="cpu",
    )
    (tmp_path / "step-final").mkdir()
    newer = tmp_path / "step-00000008"  # damaged: it does not count
    newer.mkdir()
    average_checkpoints(model, tmp_path, 3)
    for name, p in model.named_parameters():
        mean = torch.stack([seen[i][name] for i in (5, 3, 1)]).mean(0)
        assert torch.equal(p, mean.to(p.dtype))
    with pytest.raises(TrainingError, match="has 3 whole checkpoints, expected 4 to average"):
        average_checkpoints(model, tmp_path, 4)


def test_what_a_checkpoint_says_of_itself(tmp_path):
    run(tmp_path, recipe={"steps": 13})
    state = json.loads((find_checkpoints(tmp_path)[0] / "state.json").read_text())
    assert state["recipe"] == {"steps": 13}
    assert state["versions"]["torch"] == torch.__version__
    assert state["versions"].keys() >= {"python", "qkv", "numpy", "accelerate"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    if head.returncode == 0:
        assert state["git"].rstrip("+") == head.stdout.strip()


def test_without_git_there_is_no_revision(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert checkpointing.git_revision() is None


def test_shared_weights_are_saved_once_and_stay_shared(tmp_path):
    def make():
        torch.manual_seed(0)
        model = ToySeq2Seq(vocab=11, d_model=8)
        model.head.weight = model.embedding.weight
        return model

    checkpoints = Checkpoints(tmp_path, every=1)
    train(make(), endless(), pair_loss, settings(steps=3), callbacks=[checkpoints], device="cpu")
    model = make()
    model.embedding.weight.data.zero_()
    checkpoints = Checkpoints(tmp_path, every=1)
    train(model, endless(), pair_loss, settings(steps=3), callbacks=[checkpoints], device="cpu")
    assert model.head.weight is model.embedding.weight
    assert model.head.weight.abs().sum() > 0


def test_numbers_that_make_no_sense(tmp_path):
    with pytest.raises(ConfigError, match="every = 0 and keep = 2; expected at least 1 of both"):
        Checkpoints(tmp_path, every=0)
    with pytest.raises(ConfigError, match=r"ema is 1\.0; expected a decay between 0 and 1"):
        MovingAverage(Noisy(), 1.0)


def test_frozen_parameters_stay_out_of_the_average_and_come_back(tmp_path):
    def go(folder, steps):
        torch.manual_seed(0)
        model = ToySeq2Seq(vocab=11, d_model=8)
        model.embedding.requires_grad_(False)
        before = model.embedding.weight.clone()
        train(
            model,
            endless(),
            pair_loss,
            settings(steps=steps, ema=0.5),
            optimizer=adamw(model, weight_decay=0.3),
            callbacks=[Checkpoints(folder, every=1)],
            device="cpu",
        )
        assert torch.equal(model.embedding.weight, before)
        return model.head.weight

    assert torch.equal(go(tmp_path / "a", 5), go(tmp_path / "b", 5))
    shutil.rmtree(tmp_path / "a")
