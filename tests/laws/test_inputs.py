"""Every model refuses what is no batch of tokens, or two batches that do not belong together."""

from functools import cache

import pytest
import torch
from tests.helpers import MODELS, PROMPTED, problem, unchecked

from qkv.errors import ShapeError

build = cache(lambda name: MODELS[name]())
every_model = pytest.mark.parametrize("name", list(MODELS))
WRONG = {
    "one axis": (lambda tokens: tokens[0], r"torch.int64 and shape \(\d,\); .* tokens\[None\]"),
    "three axes": (lambda tokens: tokens[None], r"shape \(1, 3, \d\); expected integer ids"),
    "floats": (lambda tokens: tokens.float(), r"dtype torch.float32 .* expected integer ids"),
    "booleans": (lambda tokens: tokens > 3, r"dtype torch.bool .* expected integer ids"),
}


@pytest.fixture(autouse=True)
def without_checks():
    """As users run it: without the shape checks of the tests."""
    with unchecked(), torch.no_grad():
        yield


@every_model
@pytest.mark.parametrize("what", list(WRONG))
def test_what_is_no_batch_of_tokens_is_refused(name, what):
    model, (source, target, _) = build(name), problem()
    spoil, message = WRONG[what]
    with pytest.raises(ShapeError, match=message):
        model.step(spoil(target), model.start(source))
    if name in PROMPTED:
        with pytest.raises(ShapeError, match=message):
            model.model(spoil(source))
    else:
        with pytest.raises(ShapeError, match=message):
            model(source, spoil(target))
    if type(model).__name__ != "DecoderOnly":  # which ignores its source
        with pytest.raises(ShapeError, match=message):
            model.start(spoil(source))


@every_model
def test_rows_that_are_not_those_of_the_source_are_refused(name):
    model, (source, target, _) = build(name), problem()
    message = "tokens have 2 rows, but their source or state has 3"
    if type(model).__name__ not in ("DecoderOnly", "Prompted"):  # which join the two themselves
        with pytest.raises(ShapeError, match=message):
            model(source, target[:2])
    state = model.start(source)
    model.step(target, state)
    with pytest.raises(ShapeError, match=message):
        model.step(target[:2], state)
    state.reorder(torch.tensor([1, 0]))
    model.step(target[:2], state)
