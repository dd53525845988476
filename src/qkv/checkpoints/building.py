"""Build the model of a config.json after checking its sizes."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qkv.checkpoints.family import Architecture, Family
from qkv.checkpoints.harmless import KINDS
from qkv.checkpoints.reader import Weights
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError
from qkv.json_fields import check_kinds, quoted

FEW_LAYERS = 128  # fast to build, even if the file has none of them
MOST_CLASSES = 2**20
MOST_FRESH = 2**30  # elements: 4 GB in float32, as in the embedding of a large model


class Uninitialized(TorchFunctionMode):
    """Skip initialization, which parameters on the meta device do not need.

    It would do nothing there, but would import PyTorch's compiler (one second).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if (
            func in (Tensor.normal_, Tensor.uniform_)
            or getattr(func, "__module__", "") == "torch.nn.init"
        ):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def named_architecture(raw: Mapping[str, Any]) -> str | None:
    """Return the first name in the `architectures` of config.json, or None.

    Raises:
        ConfigError: if they are not a list of names.
    """
    check_kinds(raw, {"architectures": KINDS["architectures"]})
    return (raw.get("architectures") or [None])[0]


def count_classes(raw: Mapping[str, Any]) -> int:
    """Return the number of classes in config.json; the default is 2, as in transformers.

    Raises:
        ConfigError: if its number or names of classes are invalid.
    """
    check_kinds(raw, {name: KINDS[name] for name in ("id2label", "num_labels")})
    n_labels = raw.get("num_labels")
    return len(raw.get("id2label") or ()) or (2 if n_labels is None else n_labels)


def build(shape: Architecture, config: Any, raw: Mapping[str, Any]) -> nn.Module:
    """Build the model of a config.json without allocating memory.

    Raises:
        ConfigError: if its sizes are impossible.
    """
    try:
        with torch.device("meta"), Uninitialized():
            return shape.build(config, count_classes(raw))
    except (RuntimeError, OverflowError) as error:
        raise ConfigError(
            f"its sizes give tensors that cannot be allocated: {quoted(str(error))}"
        ) from error


def check_size(
    family: Family, config: Any, raw: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Check the numbers of layers and classes, before building takes long.

    Raises:
        ConfigError: if there are more layers than tensors, or implausibly many classes.
    """
    for one in family.fields:
        n_layers = getattr(config, one.ours)
        if one.ours.endswith("_layers") and n_layers > max(len(weights), FEW_LAYERS):
            raise ConfigError(
                f"{one.theirs} = {n_layers}, but there are only {len(weights)} tensors: "
                "config.json describes another model than the stored one"
            )
    if (n_classes := count_classes(raw)) > MOST_CLASSES:
        raise ConfigError(
            f"num_labels = {n_classes}; expected at most {MOST_CLASSES:,}, with names in id2label"
        )


def check_fresh(model: nn.Module, fresh: Collection[str], weights: Weights) -> None:
    """Check that newly initialized parameters are not implausibly larger than the stored ones.

    Raises:
        ConfigError: if they are; states both sizes.
    """
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    most = max(MOST_FRESH, sum(shard.n_bytes for shard in weights.shards))
    if (n_new := sum(sizes[name] for name in fresh)) > most:
        raise ConfigError(
            f"{listed(sorted(fresh))} would be newly initialized with {n_new:,} elements; expected "
            f"at most {most:,}: a size in config.json is wrong"
        )
