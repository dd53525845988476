"""What the parity tests of published families share: their model through a file into ours."""

from contextlib import contextmanager

import torch
from tests.parity.weights import randomize

from qkv.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.registry import family_of
from qkv.checkpoints.table import save_rows


def through_a_file(theirs, folder):
    """Give their model random weights, save it as they do, and load the folder as we do."""
    for parameter in theirs.parameters():
        if parameter.requires_grad:  # a table of sinusoids is none of its weights
            randomize(parameter)
    theirs.eval().save_pretrained(folder)
    return load_checkpoint(folder)


@contextmanager
def outputs_of(modules):
    """Collect what each module returns, in order, while the block runs."""
    outputs = [None] * len(modules)
    hooks = [
        module.register_forward_hook(lambda _, __, out, i=i: outputs.__setitem__(i, out))
        for i, module in enumerate(modules)
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def gradients(ours, theirs, config, folder):
    """Pair the gradients under the names of the file: both are written as if they were weights.

    Returns:
        name to the gradients of ours and theirs, and to their scale where float32 needs one.
    """
    family = family_of(config["model_type"])
    shape = family.architecture(config["architectures"][0])
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in ours.named_parameters()
    }
    mine = save_rows(shape.rows(ours), found)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.zeros(()) if parameter.grad is None else parameter.grad)
    theirs.save_pretrained(folder)
    prefix = family.prefix if shape.base else ""
    known = {one.theirs.removeprefix(prefix) for one in shape.rows(ours) if one.value}
    reference = {name: x for name, x in open_weights(folder).items() if name not in known}
    mine = {name.removeprefix(prefix): gradient for name, gradient in mine.items()}
    assert mine.keys() == set(reference)
    keys = {one.theirs for one in shape.rows(ours) if [n[-8:] for n in one.ours] == ["key.bias"]}
    keys = {name.removeprefix(prefix) for name in keys}
    pairs = {f"gradient of {name}": (mine[name], reference[name]) for name in mine}
    for name in keys:
        # What is added to every key moves all scores of a query alike, which softmax does not
        # see: without rotary positions this gradient is 0, and both have what rounding leaves.
        scale = reference[name.removesuffix("bias") + "weight"].abs().max().item()
        pairs[f"gradient of {name}"] += (scale,)
    return pairs


def files_agree(first, second):
    """Compare two folders' weights: names, order, bytes and metadata of each file."""
    first, second = open_weights(first), open_weights(second)
    assert [s.path.name for s in first.shards] == [s.path.name for s in second.shards]
    for mine, other in zip(first.shards, second.shards, strict=True):
        assert mine.path.read_bytes() == other.path.read_bytes()
    assert first.index == second.index


def comes_back(checkpoint, theirs_class, source, folder):
    """Save what was loaded: the same files, which their class loads again."""
    save_checkpoint(checkpoint, folder)
    files_agree(source, folder)
    again, report = theirs_class.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    return again.eval()
