"""Weights from torch.nn's modules into ours, and their gradients in the layout of torch.nn."""

import torch
from tests.parity.reference import BOTH, agree


def pairs(ours, theirs, kind):
    """Our parameters beside theirs; torch.nn keeps queries, keys and values in one tensor."""
    if kind == "attention":
        projections = (ours.query, ours.key, ours.value)
        return [
            ([p.weight for p in projections], theirs.in_proj_weight),
            ([p.bias for p in projections], theirs.in_proj_bias),
            ([ours.output.weight], theirs.out_proj.weight),
            ([ours.output.bias], theirs.out_proj.bias),
        ]
    return [([ours.weight], theirs.weight), ([ours.bias], theirs.bias)]


def block_pairs(ours, theirs):
    """Our Block beside nn.TransformerEncoderLayer, or nn.TransformerDecoderLayer."""
    found = pairs(ours.self_attention, theirs.self_attn, "attention")
    residuals = [ours.self_attention_residual]
    if ours.cross_attention is not None:
        found += pairs(ours.cross_attention, theirs.multihead_attn, "attention")
        residuals.append(ours.cross_attention_residual)
    residuals.append(ours.feed_forward_residual)
    for i, residual in enumerate(residuals, 1):
        found += pairs(residual.norm, getattr(theirs, f"norm{i}"), "norm")
    found += pairs(ours.feed_forward.up, theirs.linear1, "linear")
    return found + pairs(ours.feed_forward.down, theirs.linear2, "linear")


def stack_pairs(ours, theirs):
    """Our Stack beside nn.TransformerEncoder, or nn.TransformerDecoder."""
    layers = zip(ours.blocks, theirs.layers, strict=True)
    found = [pair for layer in layers for pair in block_pairs(*layer)]
    return found + (pairs(ours.norm, theirs.norm, "norm") if ours.norm is not None else [])


def randomize(parameter):
    """Matrices keep the variance, vectors stay near the 0 or 1 that they start at.

    The errors of two computations are compared, and a badly conditioned network amplifies both.
    """
    noise = torch.randn_like(parameter)
    if parameter.ndim > 1:
        parameter.data.copy_(noise * parameter.shape[-1] ** -0.5)
    else:
        parameter.data.add_(noise * 0.2)


def copy(found, ours):
    """Give theirs random values and ours the same; no parameter of ours may be left out."""
    for mine, reference in found:
        randomize(reference)
        for part, value in zip(mine, reference.data.split([len(p) for p in mine]), strict=True):
            part.data.copy_(value)
    copied = {id(part) for mine, _ in found for part in mine}
    assert copied == {id(parameter) for parameter in ours.parameters()}


def compare(run, ours, theirs, pairs, inputs, real=None, precisions=BOTH):
    """Compare outputs, and the gradients of inputs and of all parameters, by `agree`.

    Args:
        run: of (ours, theirs, *inputs), the output of each.
        ours: our module.
        theirs: the reference.
        pairs: of (ours, theirs), our parameters beside theirs.
        inputs: tensors in float32.
        real: True where an output is compared; everywhere where None.
        precisions: as in `agree`.
    """

    def numbers(ours, theirs, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        mine, reference = run(ours, theirs, *leaves)
        if real is not None:
            mine, reference = mine[real], reference[real]
        found = pairs(ours, theirs)
        upstream = torch.randn(reference.shape).to(dtype)
        parts = [part for parts, _ in found for part in parts]
        gradients = torch.autograd.grad((mine * upstream).sum(), [*leaves, *parts])
        references = torch.autograd.grad(
            (reference * upstream).sum(), [*leaves, *(parameter for _, parameter in found)]
        )
        n = len(leaves)
        compared = {"output": (mine, reference)}
        for i, pair in enumerate(zip(gradients[:n], references[:n], strict=True)):
            compared[f"gradient of input {i}"] = pair
        rest = iter(gradients[n:])
        for i, ((parts, _), expected) in enumerate(zip(found, references[n:], strict=True)):
            joined = torch.cat([next(rest) for _ in parts])
            compared[f"gradient of parameter {i}"] = joined, expected
        return compared

    agree(numbers, ours, theirs, precisions)


def measure(ours, theirs):
    """max|a - b| / max|b|."""
    assert ours.shape == theirs.shape
    assert theirs.any()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
