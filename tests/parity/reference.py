"""Their model in float64, and the comparison of ours with it in both precisions."""

import copy
import functools
from contextlib import contextmanager

import torch
from tests.helpers import assert_as_exact
from torch.overrides import TorchFunctionMode

BOUND = 1e-12
BOTH = (torch.float32, torch.float64)


class Widened(TorchFunctionMode):
    """Compute in float64 where the code asks for float32 by name (Llama's norms and angles)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        def widen(x):
            return torch.float64 if x is torch.float32 else x

        if function is torch.Tensor.float:
            function = torch.Tensor.double
        kwargs = {name: widen(x) for name, x in (kwargs or {}).items()}
        return function(*map(widen, args), **kwargs)


@contextmanager
def widened():
    """Let a model be made, and run, in float64 throughout."""
    default, narrow = torch.get_default_dtype(), torch.FloatTensor
    torch.set_default_dtype(torch.float64)
    torch.FloatTensor = torch.DoubleTensor  # Marian's table of positions
    try:
        with Widened():
            yield
    finally:
        torch.set_default_dtype(default)
        torch.FloatTensor = narrow


def in_float64(theirs):
    """Copy a model of theirs so that all it computes is in float64.

    Weights are those of `theirs`. Angles and sinusoids, which no file holds, are computed anew.
    """
    twin = copy.deepcopy(theirs).double()
    core = twin.get_base_model() if hasattr(twin, "get_base_model") else twin
    kept = core.state_dict()
    computed = {n for n, b in core.named_buffers() if n not in kept and b.is_floating_point()}
    tables = {n for n, p in core.named_parameters() if n.endswith("embed_positions.weight")}
    if computed | tables:
        with torch.random.fork_rng(), widened():
            fresh = type(core)(core.config).double()
        for name in computed:
            core.get_buffer(name).copy_(fresh.get_buffer(name))
        for name in tables:
            table = fresh.get_parameter(name)
            if not table.requires_grad:  # Marian's, where BART's are learned
                core.get_parameter(name).data.copy_(table)
    for name in ("forward", "generate"):
        if hasattr(twin, name):
            setattr(twin, name, always_widened(getattr(twin, name)))
    return twin


def always_widened(run):
    """Wrap a function of theirs so that it runs in float64 throughout."""

    @functools.wraps(run)
    def wide(*args, **kwargs):
        with widened():
            return run(*args, **kwargs)

    return wide


def agree(numbers, ours, theirs, precisions=BOTH):
    """Compare what two models compute: in float64 to 1e-12, in float32 by `assert_as_exact`.

    Args:
        numbers: of (ours, theirs, dtype), a dict of name to a pair of tensors, or to a pair and the
            scale of `assert_as_exact`. It is called once in each precision, with the same random
            numbers; what it draws it draws in float32.
        ours: a model in float32.
        theirs: the reference, in float32.
        precisions: those that are judged.
    """
    wide = copy.deepcopy(ours).double(), in_float64(theirs)
    with torch.random.fork_rng():
        narrow = numbers(ours, theirs, torch.float32)
    exact = numbers(*wide, torch.float64)
    assert narrow.keys() == exact.keys()
    for name, (mine, reference, *scale) in exact.items():
        if not (reference.any() or scale):  # what the loss did not read
            assert name.startswith("gradient"), f"{name} is 0"
            assert not mine.any(), name
            continue
        try:
            if torch.float64 in precisions:
                assert mine.shape == reference.shape
                largest = scale[0] if scale else reference.abs().max()
                far = ((mine - reference).abs().max() / largest).item()
                assert far <= BOUND, f"{far:.2e} apart in float64"
            if torch.float32 in precisions:
                assert_as_exact(*narrow[name][:2], reference, *scale)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def both_gradients(pairs):
    """Take the gradients of pairs of outputs, ours and theirs, by the same random upstream."""
    losses = [0, 0]
    for mine, reference in pairs:
        upstream = torch.randn(reference.shape).to(reference)
        losses[0] = losses[0] + (mine * upstream).sum()
        losses[1] = losses[1] + (reference * upstream).sum()
    for loss in losses:
        loss.backward()
