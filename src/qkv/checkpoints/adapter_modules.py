"""Fully trained modules and biases in PEFT's files."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from qkv.checkpoints.adapter_config import saves
from qkv.checkpoints.adapter_names import plain_parameters
from qkv.checkpoints.table import Row, listed
from qkv.errors import ConfigError

Rows = Mapping[str, Row]


class Whole(NamedTuple):
    """The fully stored modules and biases of an adapter.

    Args:
        modules: names of their fully trained modules.
        bias: which biases train: "none", "all", or "lora_only" for layers with LoRA.
        tensors: tensors by their names.
    """

    modules: tuple[str, ...]
    bias: str
    tensors: dict[str, Tensor]


def join_whole(model: nn.Module, rows: Rows, adapted: Collection[str]) -> Whole:
    """Return fully trained modules and biases, with PEFT's names.

    Args:
        model: our model.
        rows: table rows of its parameters.
        adapted: names of their layers with LoRA.

    Raises:
        ConfigError: if trained parameters are neither a full module of theirs nor biases, or
            contain LoRA.
    """
    parameters = plain_parameters(model)
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    own = {name: row for name, row in rows.items() if not row.optional}
    taken = {name for name, row in own.items() if trained.issuperset(row.ours)}
    modules = {name: _whole_module(name, own, taken) for name in taken}
    bias, biases = _biases(own, modules, adapted)
    stored = tuple(sorted(set(filter(None, modules.values()))))
    names = {name for name in own if saves(stored, name)}
    inside = {n for n in names if n.rpartition(".")[0] in adapted}
    covered = {ours for name in taken if modules[name] or name in biases for ours in own[name].ours}
    tied = {ours for row in rows.values() if row.optional for ours in row.ours}
    tied -= {ours for name in biases for ours in own[name].ours}
    blame = (trained - covered) | (trained & tied) | {ours for n in inside for ours in own[n].ours}
    if blame:
        raise ConfigError(
            f"{listed(sorted(blame))}: besides A and B, PEFT's files can store full modules of "
            "transformers, neither tied nor with LoRA inside, and biases, either all or those of "
            "layers with LoRA; expected these parameters to be frozen, or their full module to "
            "train"
        )
    tensors = {
        name: own[name].save([parameters[ours] for ours in own[name].ours])
        for name in own
        if name in names | biases
    }
    return Whole(stored, bias, tensors)


def _biases(
    own: Rows, modules: Mapping[str, str], adapted: Collection[str]
) -> tuple[str, set[str]]:
    """Return PEFT's value for the biases that train outside the modules, and their names."""
    every = {name for name in own if name.endswith(".bias")}
    of_layers = {name for name in every if name.removesuffix(".bias") in adapted}
    alone = {name for name in every if name in modules and not modules[name]}
    if alone and every.issubset(modules):
        return "all", every
    return ("lora_only", of_layers) if alone and alone == of_layers else ("none", set())


def _whole_module(name: str, own: Rows, taken: Collection[str]) -> str:
    """Return the largest fully trained module that contains a parameter; "" if there is none."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        module = ".".join(parts[:i])
        if all(one in taken for one in own if one.startswith(f"{module}.")):
            return module
    return ""
