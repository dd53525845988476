"""One step over many small batches is the step over one large one; precision, averages, curves."""

import itertools
from dataclasses import replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers import assert_as_exact, assert_close, unchecked
from tests.training.toy import ToySeq2Seq, settings, toy_batch
from torch import nn

from qkv.data.batches import PairBatch
from qkv.training.averaging import MovingAverage
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.progress import TensorBoard
from qkv.training.run import Callback


def toy(dtype=torch.float32):
    torch.manual_seed(0)
    return ToySeq2Seq(vocab=11, d_model=8).to(dtype)


def parts(batch, sizes):
    """Rows of a batch as batches of their own, without columns that are padding alone."""
    for rows in torch.arange(len(batch.source)).split(sizes):
        mask, source_mask = batch.target_mask[rows], batch.source_mask[rows]
        length, source_length = mask.any(0).sum(), source_mask.any(0).sum()
        yield PairBatch(
            source=batch.source[rows, :source_length],
            source_mask=source_mask[:, :source_length],
            target_input=batch.target_input[rows, :length],
            target=batch.target[rows, :length],
            target_mask=mask[:, :length],
            n_targets=int(mask.sum()),
        )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sizes", [[1] * 8, [2] * 4, [1, 3, 4]])
def test_accumulated_batches_of_different_lengths_make_the_step_of_the_whole(sizes, dtype):
    torch.manual_seed(1)
    whole = [toy_batch(batch=8, source=11, target=13) for _ in range(5)]
    pieces = [list(parts(batch, sizes)) for batch in whole]
    assert len({piece.n_targets for piece in pieces[0]}) > 1
    ours, theirs, exact = toy(dtype), toy(dtype), toy(torch.float64)
    options = {"steps": 5, "learning_rate": 0.01}
    many = itertools.chain.from_iterable(pieces)
    mine = train(ours, many, pair_loss, settings(accumulate=len(sizes), **options), device="cpu")
    other, reference = (
        train(one, whole, pair_loss, settings(**options), device="cpu") for one in (theirs, exact)
    )
    pairs = [
        (p.detach(), theirs.get_parameter(name).detach(), exact.get_parameter(name).detach())
        for name, p in ours.named_parameters()
    ]
    losses = [torch.tensor(run.losses).double() for run in (mine, other, reference)]
    assert_as_exact(*losses)  # which are kept in float32
    for many_, whole_, exact_ in pairs:
        if dtype == torch.float64:
            assert_close(many_, whole_)
        else:
            assert_as_exact(many_, whole_, exact_)
    assert mine.targets == other.targets


def test_a_batch_that_is_all_padding_adds_nothing_to_the_others():
    torch.manual_seed(1)
    batch = toy_batch(batch=4)
    empty = replace(batch, target_mask=torch.zeros_like(batch.target_mask), n_targets=0)
    ours, theirs = toy(), toy()
    train(ours, [empty, batch], pair_loss, settings(steps=1, accumulate=2), device="cpu")
    train(theirs, [batch], pair_loss, settings(steps=1), device="cpu")
    for name, p in ours.named_parameters():
        assert torch.equal(p, theirs.get_parameter(name)), name


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits_learn_almost_the_same_and_keep_weights_in_32(precision):
    torch.manual_seed(1)
    batch = toy_batch(batch=8)
    seen = []

    class Wide(ToySeq2Seq):
        def hidden(self, *args, **options):
            hidden = super().hidden(*args, **options)
            projected = self.project(hidden)
            seen.append(projected.dtype)
            return hidden + projected

    def make():
        torch.manual_seed(0)
        model = Wide(vocab=11, d_model=8)
        model.project = nn.Linear(8, 8)
        return model

    options = {"steps": 20, "learning_rate": 0.02}
    ours, theirs = make(), make()
    mine = train(
        ours,
        itertools.repeat(batch),
        pair_loss,
        settings(precision=precision, **options),
        device="cpu",
    )
    assert seen == [getattr(torch, precision)] * 20
    other = train(theirs, itertools.repeat(batch), pair_loss, settings(**options), device="cpu")
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert mine.losses == pytest.approx(other.losses, rel=0.02)
    assert mine.losses != other.losses


def test_a_gradient_that_overflows_in_float16_is_left_out_and_the_scale_falls():
    torch.manual_seed(1)
    batch, scales = toy_batch(batch=3), []

    class See(Callback):
        def after_step(self, run):
            scales.append(run.scaler.get_scale())

    def loss(model, batch):
        return pair_loss(model, batch) * (1e36 if not scales else 1)

    model = toy()
    before = model.head.weight.clone()

    class Unmoved(Callback):
        def after_step(self, run):
            if run.step == 1:
                assert torch.equal(model.head.weight, before)

    train(
        model,
        itertools.repeat(batch),
        loss,
        settings(steps=3, precision="float16"),
        callbacks=[See(), Unmoved()],
        device="cpu",
    )
    assert scales == [32768.0] * 3
    assert not torch.equal(model.head.weight, before)


def test_the_average_is_evaluated_and_left_in_the_model():
    torch.manual_seed(1)
    batch, weights, evaluated = toy_batch(batch=3), [], []

    class See(Callback):
        def after_step(self, run):
            weights.append(run.model.head.weight.detach().clone())

    def evaluate(model):
        evaluated.append(model.head.weight.detach().clone())
        return {}

    model = toy(torch.float64)
    average = model.head.weight.detach().clone()
    train(
        model,
        itertools.repeat(batch),
        pair_loss,
        settings(steps=5, learning_rate=0.1, ema=0.3, evaluate_every=1),
        evaluate=evaluate,
        callbacks=[See()],
        device="cpu",
    )
    for step, weight in enumerate(weights, start=1):
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        assert_close(evaluated[step - 1], average)
    assert_close(model.head.weight.detach(), average)
    assert not torch.equal(weights[-1], average)


def test_an_average_of_equal_weights_is_these_weights():
    model = toy()
    average = MovingAverage(model, 0.9)
    average.update(1)
    with average.applied():
        assert torch.equal(model.head.weight, toy().head.weight)
    assert torch.equal(model.head.weight, toy().head.weight)


def test_curves_for_tensorboard(tmp_path):
    torch.manual_seed(1)
    history = train(
        toy(),
        itertools.repeat(toy_batch(batch=3)),
        pair_loss,
        settings(steps=5, evaluate_every=2),
        evaluate=lambda model: {"accuracy": 0.25},
        callbacks=[TensorBoard(tmp_path)],
        device="cpu",
    )
    events = EventAccumulator(str(tmp_path)).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == [1, 2, 3, 4, 5]
    assert [event.value for event in losses] == pytest.approx(history.losses)
    assert [event.step for event in events.Scalars("validation/accuracy")] == [2, 4, 5]
    assert len(events.Scalars("learning rate")) == len(events.Scalars("targets per second")) == 5


def test_a_batch_too_large_says_what_to_lower():
    batch = toy_batch(batch=3)

    def loss(model, batch):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    message = r"shapes \(3, 5\), .* did not fit into memory\. Lower the size of a batch and raise"
    with pytest.raises(Exception, match=message):
        train(toy(), [batch], loss, settings(steps=1), device="cpu")


def test_another_error_of_the_loss_comes_through():
    def loss(model, batch):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        train(toy(), [toy_batch()], loss, settings(steps=1), device="cpu")


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own doings
def test_a_compiled_loss_learns_the_same():
    torch.manual_seed(1)
    batch = toy_batch(batch=3)
    options = {"steps": 3, "learning_rate": 0.05}
    ours, theirs = toy(torch.float64), toy(torch.float64)
    with unchecked():
        mine = train(
            ours,
            itertools.repeat(batch),
            pair_loss,
            settings(compile=True, **options),
            device="cpu",
        )
    other = train(theirs, itertools.repeat(batch), pair_loss, settings(**options), device="cpu")
    assert mine.losses == pytest.approx(other.losses, rel=1e-12)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_a_run_can_be_stopped_from_beside():
    class Enough(Callback):
        ended = False

        def evaluated(self, run, scores):
            run.stop = "good enough"

        def end(self, run):
            self.ended = not run.model.training

    enough = Enough()
    history = train(
        toy(),
        itertools.repeat(toy_batch()),
        pair_loss,
        settings(steps=9, evaluate_every=2),
        evaluate=lambda model: {"x": 1.0},
        callbacks=[enough],
        device="cpu",
    )
    assert history.steps == [1, 2]
    assert enough.ended
