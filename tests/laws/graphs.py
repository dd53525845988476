"""Compile, export and trace a small model of every family; print what fails as JSON.

A process of its own: the shape checks of the tests are code that no graph can hold.
"""

import inspect
import json
import sys
import warnings

import torch
from tests.checking import NIGHTLY
from tests.checkpoints.folders import model
from tests.helpers import distance, right_mask

from qkv.models.vit import pair

LENGTHS = [([7, 5], 7), ([11, 3, 7], 11), ([13, 13, 2, 5, 1], 13)]  # of the rows; of the batch


def is_image(name):
    return name in ("vit", "deit")


def has_decoder(module):
    return "target" in inspect.signature(module.forward).parameters


def inputs(name, module, lengths, width, masked):
    """Tokens (or images) of a batch, and the mask of the source."""
    generator = torch.Generator().manual_seed(width)
    if is_image(name):
        sizes = getattr(module, "encoder", module).config
        shape = (len(lengths), sizes.n_channels, *pair(sizes.image_size))
        return (torch.randn(shape, generator=generator, dtype=torch.float64),), {}
    tokens = torch.randint(17, (len(lengths), width), generator=generator)
    mask = {"source_mask" if has_decoder(module) else "token_mask": right_mask(lengths, width)}
    return (tokens, tokens.flip(1)) if has_decoder(module) else (tokens,), mask if masked else {}


def compare(graph, name, module, masked):
    """The graph computes what the module does, for every batch and length."""
    for lengths, width in LENGTHS:
        args, options = inputs(name, module, lengths, width, masked)
        ours, theirs = graph(*args, **options), module(*args, **options)
        for a, b in zip(*((x,) if torch.is_tensor(x) else x for x in (ours, theirs)), strict=True):
            assert distance(a, b) <= 1e-12, f"{distance(a, b)} at length {width}"


def compiled(name, module):
    # At night as users do: a graph for one shape, then for any. By day only that: half the time.
    dynamic = None if NIGHTLY else True
    for masked in (False, True):
        graph = torch.compile(module, fullgraph=True, backend="eager", dynamic=dynamic)
        compare(graph, name, module, masked)


def exported(name, module):
    for masked in (False, True):
        args, options = inputs(name, module, *LENGTHS[0], masked)
        batch = torch.export.Dim("batch")
        shapes = [
            {0: batch} if is_image(name) else {0: batch, 1: torch.export.Dim(f"length_{i}")}
            for i in range(len(args))
        ]
        named = dict.fromkeys(options, shapes[0])
        names = list(inspect.signature(module.forward).parameters)
        named |= dict(zip(names, shapes, strict=False))
        graph = torch.export.export(module, args, options, dynamic_shapes=named).module()
        compare(graph, name, module, masked)


def traced(name, module):
    args, _ = inputs(name, module, *LENGTHS[0], masked=False)
    compare(torch.jit.trace(module, args), name, module, masked=False)


def failures(names):
    found = {}
    for name in names:
        module = model(name).double()
        for make in (compiled, exported, traced):
            torch.compiler.reset()
            try:
                make(name, module)
            except Exception as error:
                found[f"{make.__name__}-{name}"] = f"{type(error).__name__}: {error}"
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with torch.no_grad():
        print(json.dumps(failures(sys.argv[1:])))
