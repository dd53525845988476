"""A record of attention weights alone, of any origin.

Shapes: H heads, Q queries, K keys.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from qkv.errors import DataError, ShapeError
from qkv.explorer.parts import as_array
from qkv.explorer.record import Record
from qkv.explorer.statistics import head_stats, token_distances

TOLERANCE = 1e-3  # by which a weight may exceed 1, after rounding


def record_of_weights(
    weights: ArrayLike | Mapping[str, ArrayLike],
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    name: str = "",
    text: str = "",
    output: str = "",
) -> Record:
    """Return a record with attention weights, and nothing else of a model.

    Args:
        weights: weights of one module, (Q, K), (H, Q, K) or (1, H, Q, K), or of several by name,
            such as `record_attention` yields; the heads of modules may differ in number.
        queries: label of each query.
        keys: label of each key; None: queries and keys are from one sequence.
        name: name of the model.
        text: the input, for the title.
        output: the output, for the title.

    Raises:
        ShapeError: the numbers of weights and labels differ.
        DataError: a weight is not between 0 and 1, or there are no weights.
    """
    modules = weights if isinstance(weights, Mapping) else {"attention": weights}
    if not modules:
        raise DataError("no weights; expected those of at least one module")
    labels = list(queries), list(queries if keys is None else keys)
    heads = {what: _heads(what, one, labels) for what, one in modules.items()}
    tensors = {f"a{i}.weights": as_array("weights", one) for i, one in enumerate(heads.values())}
    empty: dict[str, tuple[int, ...]] = {"ids": (0, 0), "logits": (0, 0)}
    empty |= {"tail": (0, 2, 0), "chosen": (0,)}
    for what, shape in empty.items():
        kind = np.int32 if what == "ids" else np.float32
        tensors[f"output.{what}"] = np.zeros(shape, kind)
    sides = {"source": labels[1]} | ({} if keys is None else {"target": labels[0]})
    header = {
        "model": {"name": name, "family": "", "parameters": 0, "about": "", "weak": ""},
        "task": {"kind": "attention", "inputs": {"text": text}, "output": output, "note": ""},
        "sequences": {
            side: [{"text": str(one), "special": False} for one in tokens]
            for side, tokens in sides.items()
        },
        "attention": list(_describe(heads, "source" if keys is None else "target")),
        "states": [],
        "output": {
            "kind": "tokens",
            "names": {},
            "steps": [],
            **{what: f"output.{what}" for what in empty},
        },
        "made": {"qkv": version("qkv"), "torch": torch.__version__, "seconds": 0},
    }
    return Record(header, tensors)


def _heads(
    name: str, weights: ArrayLike, labels: tuple[list[str], list[str]]
) -> Float[Tensor, "H Q K"]:
    """Return the weights with an axis of heads, after checking them."""
    heads = torch.as_tensor(weights).detach().float().cpu()
    if heads.ndim == 4 and heads.shape[0] == 1:
        heads = heads[0]
    heads = heads[None] if heads.ndim == 2 else heads
    n_queries, n_keys = map(len, labels)
    if heads.ndim != 3 or heads.shape[1:] != (n_queries, n_keys) or not heads.numel():
        raise ShapeError(
            f"the weights {name!r} have shape {tuple(torch.as_tensor(weights).shape)}; expected "
            f"([1, heads,] {n_queries}, {n_keys}), for {n_queries} queries and {n_keys} keys"
        )
    if not (heads.isfinite().all() and heads.min() >= 0 and heads.max() <= 1 + TOLERANCE):
        raise DataError(
            f"the weights {name!r} are between {float(heads.min()):.3g} and "
            f"{float(heads.max()):.3g}; expected 0 to 1 (are they scores before the softmax?)"
        )
    return heads.clamp(max=1)


def _describe(heads: Mapping[str, Tensor], side: str) -> Iterator[dict[str, Any]]:
    """Yield the description of each module."""
    for i, (name, weights) in enumerate(heads.items()):
        stack, _, rest = name.partition(".blocks.")
        number = rest.partition(".")[0]
        distances = token_distances(*weights.shape[1:])
        stats = head_stats(weights, distances, torch.zeros(weights.shape[2], dtype=torch.bool))
        yield {
            "name": name,
            "stack": stack,
            "layer": int(number) if number.isdecimal() else 0,
            "kind": "self" if side == "source" else "cross",
            "queries": side,
            "keys": "source",
            "heads": len(weights),
            "kv_heads": len(weights),
            "d_head": 1,
            "causal": False,
            "scale": 1.0,
            "long": False,
            "stats": {what: one.tolist() for what, one in stats._asdict().items()},
            "tensors": {"weights": f"a{i}.weights"},
        }
