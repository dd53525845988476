"""Weights from torch.nn's modules into ours, and their gradients in the layout of torch.nn."""

import torch

BOUNDS = {torch.float32: 2e-6, torch.float64: 1e-12}


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


def compare(ours, theirs, found, inputs, real=None):
    """Compare outputs, and the gradients of inputs and of all parameters, tensor by tensor."""
    bound = BOUNDS[theirs.dtype]
    if real is not None:
        ours, theirs = ours[real], theirs[real]
    distances = {"output": measure(ours, theirs)}
    upstream = torch.randn_like(theirs)
    mine = [part for parts, _ in found for part in parts]
    ours_grads = torch.autograd.grad((ours * upstream).sum(), [*inputs, *mine])
    their_grads = torch.autograd.grad(
        (theirs * upstream).sum(), [*inputs, *(reference for _, reference in found)]
    )
    n = len(inputs)
    for i in range(n):
        distances[f"input {i}"] = measure(ours_grads[i], their_grads[i])
    rest = iter(ours_grads[n:])
    for i, (parts, _) in enumerate(found):
        joined = torch.cat([next(rest) for _ in parts])
        distances[f"parameter {i}"] = measure(joined, their_grads[n + i])
    too_far = {name: d for name, d in distances.items() if not d <= bound}
    assert too_far == {}


def measure(ours, theirs):
    """max|a - b| / max|b|."""
    assert ours.shape == theirs.shape
    assert theirs.any()
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()
