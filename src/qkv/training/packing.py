"""Split a state (nested dicts, lists, tuples, numbers, tensors) into tensors and JSON."""

from typing import Any

from torch import Tensor

from qkv.errors import TrainingError
from qkv.training.sharding import copied

Packed = tuple[dict[str, Tensor], Any]


def pack(state: Any, name: str = "") -> Packed:
    """Return the tensors of a state, named by their paths, and the rest as JSON.

    JSON has neither tuples nor keys other than strings: both are marked, and `unpack` restores
    them.

    Raises:
        TrainingError: a value is neither a tensor nor JSON.
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, at: str) -> Any:
        if isinstance(value, Tensor):
            # A copy of its own: a file cannot share memory between tensors.
            tensors[at] = copied(value).contiguous()
            return {"$tensor": at}
        if isinstance(value, dict):
            pairs = [[key, walk(item, f"{at}.{key}")] for key, item in value.items()]
            plain = all(isinstance(key, str) and not key.startswith("$") for key in value)
            return dict(pairs) if plain else {"$pairs": pairs}
        if isinstance(value, tuple | list):
            items = [walk(item, f"{at}.{i}") for i, item in enumerate(value)]
            return items if isinstance(value, list) else {"$tuple": items}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TrainingError(
            f"{at} of the training's state is a {type(value).__name__}, expected tensors, numbers, "
            "texts, lists and dicts: nothing else can be saved without pickling it"
        )

    packed = walk(state, name)
    return tensors, packed


def unpack(tensors: dict[str, Tensor], packed: Any) -> Any:
    """Restore the state that `pack` was called with."""
    if isinstance(packed, list):
        return [unpack(tensors, item) for item in packed]
    if not isinstance(packed, dict):
        return packed
    match packed:
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(unpack(tensors, item) for item in items)
        case {"$pairs": pairs}:
            return {key: unpack(tensors, item) for key, item in pairs}
    return {key: unpack(tensors, item) for key, item in packed.items()}
