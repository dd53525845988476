"""The structure of a record, version 1, and the check that header and tensors agree.

Axes: H heads, G key heads, Q queries, K keys, D head width, S steps, C candidates, L layers of
states (the embedding first), T tokens, N neighbors. Sequences are "source" and, for a model with a
decoder, "target". Unknown fields are ignored.

    made       {qkv, torch, seconds}
    model      {name, family, parameters, about, weak}
    task       {kind, inputs: {name: text}, output, note}
    sequences  {source: [{text, special}], target: ...}
    image      {png: base64, grid: [rows, columns], prefix: tokens before the patches}
    attention  [{name, stack, layer, kind: self|cross, queries, keys: a sequence each, heads,
                 kv_heads, d_head, causal, scale, long,
                 stats: {entropy, distance, special, first: one number per head},
                 tensors: {weights (H, Q, K), thumbnails (H, ., .), q (H, Q, D), k and v (G, K, D),
                           bias (H, Q, K), mask (Q, K)}}]
    states     [{stack, sequence, explained: (L, 2), points (L, T, 2), neighbors (L, T, N),
                 similarity (L, T, N)}]
    output     {kind: classes|positions|tokens, names: text by id,
                steps: [{name, sequence, position, chosen}],
                ids (S, C), logits (S, C), tail (S, 2, bins), chosen (S): log-probabilities}
    lens       {layers, ids (L, S, n), logprobs (L, S, n), chosen (L, S)}
    beam       {size, length_penalty, length_rule, best: ids of nodes,
                nodes: [{id, parent, step, text, logprob, total, kept, ended, score}]}
    ablation   {heads: [[index in attention, head]], effects (heads, S)}
    changes    {ablate: [[index in attention, head]], mask, before (S): log-probabilities}
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qkv.errors import DataError
from qkv.json_fields import (
    COUNT,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    Kind,
    check_kinds,
    either,
    list_of,
    object_of,
    shown,
    whole,
)

Tensors = Mapping[str, np.ndarray]
TASKS = (
    *("classify", "answer", "tag", "translate", "summarize", "generate", "recognize", "embed"),
    "attention",  # weights alone, of no task
)
STATS = ("entropy", "distance", "special", "first")
NUMBERS, OBJECTS, SIZE = list_of(NUMBER), list_of(OBJECT), whole(1)
PAIR = Kind(
    "two whole numbers",
    lambda one: isinstance(one, list) and len(one) == 2 and all(map(COUNT.fits, one)),
)
TOP = {
    **dict.fromkeys(("made", "model", "task", "sequences", "output"), OBJECT),
    **dict.fromkeys(("attention", "states"), OBJECTS),
    **dict.fromkeys(("image", "lens", "beam", "ablation", "changes"), OBJECT),
}
NEEDED = ("made", "model", "task", "sequences", "output", "attention", "states")
FIELDS = {
    "made": {"qkv": TEXT, "torch": TEXT, "seconds": NUMBER},
    "model": {"name": TEXT, "family": TEXT, "parameters": COUNT, "about": TEXT, "weak": TEXT},
    "task": {"kind": either(*TASKS), "inputs": object_of(TEXT), "output": TEXT, "note": TEXT},
    "output": {
        "kind": either("classes", "positions", "tokens"),
        "names": object_of(TEXT),
        "steps": OBJECTS,
        **dict.fromkeys(("ids", "logits", "tail", "chosen"), TEXT),
    },
    "image": {"png": TEXT, "grid": PAIR, "prefix": COUNT},
    "lens": {"layers": list_of(TEXT), "ids": TEXT, "logprobs": TEXT, "chosen": TEXT},
    "beam": {
        "size": SIZE,
        "length_penalty": NUMBER,
        "length_rule": either("gnmt", "power"),
        "best": list_of(COUNT),
        "nodes": OBJECTS,
    },
    "ablation": {"heads": list_of(PAIR), "effects": TEXT},
    "changes": {"ablate": list_of(PAIR), "mask": TEXT, "before": TEXT},
}
TOKEN = {"text": TEXT, "special": FLAG}
STEP = {"name": TEXT, "sequence": TEXT, "position": COUNT, "chosen": COUNT}
NODE = {
    **dict.fromkeys(("id", "step"), COUNT),
    **dict.fromkeys(("logprob", "total", "score"), NUMBER),
    **{"parent": whole(-1), "text": TEXT, "kept": FLAG, "ended": FLAG},
}
LAYER = {
    **dict.fromkeys(("name", "stack", "queries", "keys"), TEXT),
    **dict.fromkeys(("heads", "kv_heads", "d_head"), SIZE),
    **{"layer": COUNT, "kind": either("self", "cross"), "causal": FLAG, "long": FLAG},
    **{"scale": NUMBER, "stats": object_of(NUMBERS), "tensors": object_of(TEXT)},
}
STATES = {
    **dict.fromkeys(("stack", "sequence", "points", "neighbors", "similarity"), TEXT),
    "explained": list_of(NUMBERS),
}


def check_header(header: Mapping[str, Any], tensors: Tensors) -> None:
    """Check the fields of a header, and the shapes of the tensors that it names.

    Raises:
        DataError: a field or tensor is wrong; the message names it, its value and the expected one.
    """
    try:
        check_kinds(header, TOP)
        if missing := [name for name in NEEDED if name not in header]:
            raise DataError(f"a record without {', '.join(missing)}; expected all of {NEEDED}")
        for name, fields in FIELDS.items():
            if name in header:
                check_all(header[name], fields, name)
        for rows, fields, where in _lists(header):
            for row in rows:
                check_all(row, fields, where)
        _check_shapes(header, tensors)
    except DataError:
        raise
    except ValueError as error:  # of check_kinds
        raise DataError(str(error)) from error


def check_all(raw: Mapping[str, Any], fields: Mapping[str, Kind], where: str) -> None:
    """Check that all fields exist and have the right kinds."""
    if missing := [name for name in fields if name not in raw]:
        raise DataError(f"{where} has no {missing[0]}; expected {', '.join(fields)}")
    check_kinds(raw, fields, where=where)


def _lists(header: Mapping[str, Any]) -> list[tuple[Sequence[Any], Mapping[str, Kind], str]]:
    sequences = header["sequences"]
    if "source" not in sequences or not all(map(OBJECTS.fits, sequences.values())):
        raise DataError(f"sequences = {shown(sequences)}; expected lists of tokens, with a source")
    return [
        *((tokens, TOKEN, f"sequences.{name}") for name, tokens in sequences.items()),
        (header["output"]["steps"], STEP, "output.steps"),
        (header["attention"], LAYER, "attention"),
        (header["states"], STATES, "states"),
        (header.get("beam", {"nodes": []})["nodes"], NODE, "beam.nodes"),
    ]


def _check_shapes(header: Mapping[str, Any], tensors: Tensors) -> None:
    lengths = {name: len(tokens) for name, tokens in header["sequences"].items()}
    output, steps = header["output"], len(header["output"]["steps"])
    for step in output["steps"]:
        _check_position(step, lengths)
    for layer in header["attention"]:
        _check_layer(layer, tensors, lengths)
    for states in header["states"]:
        n_layers, length = len(states["explained"]), _length(states["sequence"], lengths)
        _check(tensors, states["points"], (n_layers, length, 2))
        for name in ("neighbors", "similarity"):
            _check(tensors, states[name], (n_layers, length, None))
    for name in ("ids", "logits"):
        _check(tensors, output[name], (steps, None))
    _check(tensors, output["tail"], (steps, 2, None))
    _check(tensors, output["chosen"], (steps,))
    if lens := header.get("lens"):
        n_layers = len(lens["layers"])
        for name in ("ids", "logprobs"):
            _check(tensors, lens[name], (n_layers, steps, None))
        _check(tensors, lens["chosen"], (n_layers, steps))
    heads = [layer["heads"] for layer in header["attention"]]
    for name, field in (("ablation", "heads"), ("changes", "ablate")):
        for i, head in header.get(name, {field: []})[field]:
            if i >= len(heads) or head >= heads[i]:
                raise DataError(f"{name} names head {head} of attention {i}, which does not exist")
    if ablation := header.get("ablation"):
        _check(tensors, ablation["effects"], (len(ablation["heads"]), steps))
    if changes := header.get("changes"):
        _check(tensors, changes["before"], (steps,))
    _check_nodes(header.get("beam", {"nodes": [], "best": []}))
    if image := header.get("image"):
        rows, columns = image["grid"]
        if image["prefix"] + rows * columns != lengths["source"]:
            raise DataError(
                f"an image of {image['prefix']} + {rows} x {columns} tokens, but the source has "
                f"{lengths['source']}"
            )


def _check_layer(layer: Mapping[str, Any], tensors: Tensors, lengths: Mapping[str, int]) -> None:
    """Check the tensors and statistics of an attention module."""
    heads, groups, width = layer["heads"], layer["kv_heads"], layer["d_head"]
    n_queries, n_keys = (_length(layer[name], lengths) for name in ("queries", "keys"))
    shapes = {
        "weights": (heads, n_queries, n_keys),
        "thumbnails": (heads, None, None),
        "q": (heads, n_queries, width),
        "k": (groups, n_keys, width),
        "v": (groups, n_keys, None),
        "bias": (heads, n_queries, n_keys),
        "mask": (n_queries, n_keys),
    }
    for name, tensor in layer["tensors"].items():
        if name in shapes:
            _check(tensors, tensor, shapes[name])
    if "weights" not in layer["tensors"] and not layer["long"]:
        raise DataError(f"{layer['name']!r} has no weights; expected them where long is false")
    if heads % groups:
        raise DataError(f"{layer['name']!r} has {heads} heads and {groups} key heads")
    for name in STATS:
        if len(layer["stats"].get(name, ())) != heads:
            raise DataError(f"{layer['name']!r} has not one {name} for each of its {heads} heads")


def _check_nodes(beam: Mapping[str, Any]) -> None:
    """Check that the nodes are a tree: each comes after its parent."""
    for i, node in enumerate(beam["nodes"]):
        if node["id"] != i or node["parent"] >= i:
            raise DataError(
                f"node {i} of the beam has id {node['id']} and parent {node['parent']}; expected "
                "nodes in order, each after its parent"
            )
    if any(i >= len(beam["nodes"]) for i in beam["best"]):
        raise DataError(f"the best path of the beam is {shown(beam['best'])}; expected its nodes")


def _check_position(step: Mapping[str, Any], lengths: Mapping[str, int]) -> None:
    if step["position"] >= _length(step["sequence"], lengths):
        raise DataError(f"a step at position {step['position']} of the {step['sequence']}: too far")


def _length(name: str, lengths: Mapping[str, int]) -> int:
    if name not in lengths:
        raise DataError(f"there is no sequence {shown(name)}; expected one of {', '.join(lengths)}")
    return lengths[name]


def _check(tensors: Tensors, name: str, shape: tuple[int | None, ...]) -> None:
    """Check a tensor's shape, where None is any size, and that its numbers are finite."""
    if name not in tensors:
        raise DataError(f"there is no tensor {shown(name)}, which the header names")
    found = tensors[name].shape
    if len(found) != len(shape) or any(
        n not in (None, m) for n, m in zip(shape, found, strict=True)
    ):
        expected = " x ".join("any" if n is None else str(n) for n in shape)
        raise DataError(f"the tensor {shown(name)} has shape {found}; expected {expected}")
    if not np.isfinite(tensors[name]).all():
        raise DataError(f"the tensor {shown(name)} has numbers that are not finite")
