from dataclasses import replace

import jaxtyping
import pytest
import torch
from tests.checking import type_checks
from tests.helpers import assert_as_exact
from tests.training.toy import ToySeq2Seq, toy_batch
from torch.nn import functional as F

from qkv.errors import VocabularyError
from qkv.training.losses import linear_cross_entropy, pair_loss

N, V, D = 13, 11, 5


def problem(rows=N, dtype=torch.float64, bias=True):
    torch.manual_seed(0)
    hidden = torch.randn(rows, D, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, dtype=dtype, requires_grad=True)
    offset = torch.randn(V, dtype=dtype, requires_grad=True) if bias else None
    return hidden, weight, offset, torch.randint(V, (rows,))


def expected(hidden, weight, bias, targets, smoothing):
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("chunk_size", [1, 4, N, 100, None])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_cross_entropy_forward_and_backward(smoothing, chunk_size, bias):
    hidden, weight, offset, targets = problem(bias=bias)
    inputs = [x for x in (hidden, weight, offset) if x is not None]
    loss = linear_cross_entropy(
        hidden, weight, offset, targets, smoothing=smoothing, chunk_size=chunk_size
    )
    reference = expected(hidden, weight, offset, targets, smoothing)
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=1e-12)
    # A factor before backward: the gradients must be scaled by what comes from above.
    ours = torch.autograd.grad(loss * 0.7, inputs)
    theirs = torch.autograd.grad(reference * 0.7, inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradcheck():
    hidden, weight, bias, targets = problem()

    def loss(*inputs):
        return linear_cross_entropy(*inputs, targets, smoothing=0.1, chunk_size=4)

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


def test_golden_value_by_hand():
    # Logits (ln 3, 0): probabilities 3/4 and 1/4. Target 0, smoothing 0.2: weights 0.9 and 0.1.
    hidden = torch.tensor([[1.0]], dtype=torch.float64)
    weight = torch.tensor([[3.0], [1.0]], dtype=torch.float64).log()
    loss = linear_cross_entropy(hidden, weight, None, torch.tensor([0]), smoothing=0.2)
    assert loss.item() == pytest.approx(0.9 * 0.2876820724517809 + 0.1 * 1.3862943611198906)


def test_without_gradients_the_loss_is_the_same():
    hidden, weight, bias, targets = problem()
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, bias, targets, smoothing=0.1, chunk_size=4)
    assert not loss.requires_grad
    reference = expected(hidden, weight, bias, targets, 0.1)
    torch.testing.assert_close(loss, reference.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", [(0,), (1, 2), (0, 1)])
def test_frozen_inputs_get_no_gradient_and_the_others_the_right_one(frozen):
    hidden, weight, bias, targets = problem()
    inputs = (hidden, weight, bias)
    reference = torch.autograd.grad(expected(*inputs, targets, 0.1), inputs)
    for i in frozen:
        inputs[i].requires_grad_(False)
    linear_cross_entropy(*inputs, targets, smoothing=0.1, chunk_size=4).backward()
    for i, (x, gradient) in enumerate(zip(inputs, reference, strict=True)):
        assert (x.grad is None) == (i in frozen)
        if i not in frozen:
            torch.testing.assert_close(x.grad, gradient, rtol=1e-12, atol=1e-12)


def test_no_rows_give_zero_loss_and_zero_gradients():
    hidden, weight, bias, targets = problem(rows=0)
    loss = linear_cross_entropy(hidden, weight, bias, targets, smoothing=0.1)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad.shape == (0, D)
    assert weight.grad.eq(0).all()
    assert bias.grad.eq(0).all()


def test_huge_logits_stay_finite():
    hidden, weight, bias, targets = problem(dtype=torch.float32)
    hidden = (hidden.detach() * 1e4).requires_grad_()
    loss = linear_cross_entropy(hidden, weight, bias, targets, chunk_size=4)
    loss.backward()
    narrow = expected(hidden, weight, bias, targets, 0.0)
    exact = expected(hidden.double(), weight.double(), bias.double(), targets, 0.0)
    assert_as_exact(loss, narrow, exact)
    assert hidden.grad.isfinite().all()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype):
    halves = problem(rows=500, dtype=dtype)
    floats = [x.detach().float().requires_grad_() for x in halves[:3]]
    loss = linear_cross_entropy(*halves, smoothing=0.1, chunk_size=64)
    reference = linear_cross_entropy(*floats, halves[3], smoothing=0.1)
    (loss / 500).backward()
    (reference / 500).backward()
    assert loss.dtype == torch.float32
    exact = expected(*(x.double() for x in floats), halves[3], 0.1)
    assert_as_exact(loss, reference, exact)
    for half, single in zip(halves[:3], floats, strict=True):
        torch.testing.assert_close(half.grad, single.grad.to(dtype))


def test_backward_twice_gives_the_same():
    hidden, weight, bias, targets = problem()
    loss = linear_cross_entropy(hidden, weight, bias, targets)
    (first,) = torch.autograd.grad(loss * 0.5, hidden, retain_graph=True)
    (second,) = torch.autograd.grad(loss, hidden)
    assert torch.equal(2 * first, second)


@pytest.mark.parametrize(("bad", "run"), [(V, "0 to 11"), (-1, "-1 to 10")])
def test_targets_outside_the_vocabulary_are_refused(bad, run):
    hidden, weight, bias, _ = problem()
    targets = torch.arange(N) % V
    targets[3] = bad
    match = f"target ids run from {run}, but the output has ids 0 to 10; was the text encoded"
    with pytest.raises(VocabularyError, match=match):
        linear_cross_entropy(hidden, weight, bias, targets)


def test_shapes_are_checked_at_run_time():
    hidden, weight, bias, targets = problem()
    with type_checks(True), pytest.raises(jaxtyping.TypeCheckError):
        linear_cross_entropy(hidden, weight, bias, targets[1:])


def model_and_batch():
    torch.manual_seed(0)
    return ToySeq2Seq(vocab=V, d_model=D).double(), toy_batch(vocab=V)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pair_loss_is_the_cross_entropy_of_the_real_tokens(smoothing):
    model, batch = model_and_batch()
    loss = pair_loss(model, batch, smoothing=smoothing)
    logits = model(batch.source, batch.target_input, source_mask=batch.source_mask)
    mask = batch.target_mask
    reference = F.cross_entropy(
        logits[mask], batch.target[mask], reduction="sum", label_smoothing=smoothing
    )
    assert batch.n_targets == int(mask.sum()) < mask.numel()
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=1e-12)
    ours = torch.autograd.grad(loss, list(model.parameters()))
    theirs = torch.autograd.grad(reference, list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_padding_changes_nothing():
    model, batch = model_and_batch()
    other = replace(
        batch,
        source=torch.where(batch.source_mask, batch.source, 7),
        target=torch.where(batch.target_mask, batch.target, 3),
        target_input=torch.where(batch.target_mask, batch.target_input, 2),
    )
    assert not torch.equal(other.target, batch.target)
    torch.testing.assert_close(
        pair_loss(model, other), pair_loss(model, batch), rtol=1e-12, atol=1e-12
    )
