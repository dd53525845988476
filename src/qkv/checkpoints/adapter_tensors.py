"""A and B between PEFT's files and our layers.

Where one layer of theirs is several of ours (GPT-2's c_attn is query, key and value), each of ours
gets their A and its own rows of their B. The way back is exact:

    all still have the same A     that A, and the rows of B joined
    they have not                 [A_q; A_k; A_v], of rank 3 r, and diag(B_q, B_k, B_v)
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from qkv.checkpoints.adapter_config import AdapterConfig, saves
from qkv.checkpoints.adapter_names import Published, plain_parameters
from qkv.checkpoints.table import TRANSPOSE, Row, listed, load_rows
from qkv.errors import ConfigError, DataError
from qkv.models.lora import LoRAConfig, LoRALinear

A, B = ".lora_A.weight", ".lora_B.weight"
Rows = Mapping[str, Row]
Where = Callable[[str], str]  # how an error calls a tensor
Update = tuple[LoRAConfig, Tensor, Tensor]  # rank and scale, A, B


def choose(
    kinds: Sequence[Published], names: Sequence[str], config: AdapterConfig, where: Where
) -> Rows:
    """Return the rows of the class of transformers that knows all names of an adapter.

    Raises:
        DataError: naming the tensors that it does not know.
    """
    unknown = [[name for name in names if _filled(name) not in kind.rows] for kind in kinds]
    fewest, kind = min(zip(unknown, kinds, strict=True), key=lambda pair: len(pair[0]))
    if fewest:
        raise DataError(
            f"{listed([where(name) for name in fewest])}: the {kind.name} that this model is has "
            f"no such layer; the adapter was made for {config.base or 'another model'}"
        )
    return kind.rows


def read_updates(
    model: nn.Module,
    rows: Rows,
    tensors: Mapping[str, Tensor],
    config: AdapterConfig,
    where: Where,
) -> dict[str, Update]:
    """Return rank and scale, A and B for each layer of ours that has LoRA in the files.

    Raises:
        DataError: if a tensor is missing, not announced by the config, or of another shape.
    """
    pairs = dict.fromkeys(
        _filled(name).removesuffix(".weight") for name in tensors if _filled(name) != name
    )
    layers = {name.removesuffix(".weight"): _layers(model, row) for name, row in rows.items()}
    for name in pairs:
        if not layers[name]:
            raise DataError(
                f"{where(name + A)}: {name} is no linear layer of its own in this model (an output "
                "layer that is tied?), so it cannot have LoRA"
            )
        if not config.targets(name):
            raise DataError(
                f"{where(name + A)}: adapter_config.json does not name {name} in target_modules"
            )
    targets = {name for name, found in layers.items() if found and config.targets(name)}
    expected = [name + end for name in layers if name in targets for end in (A, B)]
    if missing := [where(name) for name in expected if name not in tensors]:
        raise DataError(f"{listed(missing)} is missing: target_modules names its layer")
    updates: dict[str, Update] = {}
    for name in pairs:
        down, up, lora = tensors[name + A], tensors[name + B], config.lora(name)
        row, widths = rows[f"{name}.weight"], [one.out_features for one in layers[name]]
        _check_shape(where(name + A), down, (lora.rank, layers[name][0].in_features), lora)
        _check_shape(where(name + B), up, (sum(widths), lora.rank), lora)
        parts = row.load(up.T if TRANSPOSE in row.verbs else up)
        for ours, part in zip(row.ours, parts, strict=True):
            updates[ours.removesuffix(".weight")] = lora, down, part
    return updates


def read_whole(
    model: nn.Module,
    rows: Rows,
    tensors: Mapping[str, Tensor],
    config: AdapterConfig,
    where: Where,
) -> dict[str, Tensor]:
    """Return the parameters of ours that the files hold whole.

    Raises:
        DataError: if a tensor is missing, of another shape, or no parameter of its own.
    """
    whole = {name: tensor for name, tensor in tensors.items() if _filled(name) == name}
    if tied := [where(name) for name in whole if rows[name].optional]:
        raise DataError(
            f"{listed(tied)}: this model has no parameter of its own for it; it is tied"
        )
    if missing := [where(name) for name in rows if config.saves(name) and name not in whole]:
        raise DataError(f"{listed(missing)} is missing: modules_to_save names its module")
    parameters, wanted = plain_parameters(model), [rows[name] for name in whole]
    shapes = {ours: parameters[ours].shape for row in wanted for ours in row.ours}
    return load_rows(wanted, whole, shapes, where=where)


def join_updates(model: nn.Module, rows: Rows) -> dict[str, Update]:
    """Return rank and scale, A and B for each layer of theirs that has LoRA in our model.

    Raises:
        ConfigError: if what is one layer there has several scales here.
    """
    return {
        name.removesuffix(".weight"): _join(row, _layers(model, row))
        for name, row in rows.items()
        if _has_lora(model, row)
    }


def join_whole(model: nn.Module, rows: Rows) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the modules of theirs that train whole, and the tensors that PEFT wants for them.

    Raises:
        ConfigError: if what trains is no whole module of theirs, or has LoRA inside.
    """
    parameters = plain_parameters(model)
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    own = {name: row for name, row in rows.items() if not row.optional}
    taken = {name for name, row in own.items() if trained.issuperset(row.ours)}
    modules = {name: _whole_module(name, own, taken) for name in taken}
    said = {ours for name, module in modules.items() if module for ours in own[name].ours}
    tied = {ours for row in rows.values() if row.optional for ours in row.ours}
    stored = tuple(sorted(set(filter(None, modules.values()))))
    tensors = {name: row for name, row in own.items() if saves(stored, name)}
    inside = {ours for row in tensors.values() if _has_lora(model, row) for ours in row.ours}
    if blame := sorted((trained - said) | (trained & tied) | inside):
        raise ConfigError(
            f"{listed(blame)}: PEFT's files hold, besides A and B, whole modules of transformers "
            "that train, none tied to another and none with LoRA inside; expected this to be "
            "frozen, or its whole module to train"
        )
    return stored, {
        name: row.save([parameters[ours] for ours in row.ours]) for name, row in tensors.items()
    }


def _filled(name: str) -> str:
    """Return the parameter that a tensor is for: of A and B, the weight that they stand beside."""
    for end in (A, B):
        if name.endswith(end):
            return f"{name.removesuffix(end)}.weight"
    return name


def _layers(model: nn.Module, row: Row) -> list[nn.Linear | LoRALinear]:
    """Return the linear layers of a weight; none where it is of something else."""
    if not all(name.endswith(".weight") for name in row.ours):
        return []
    modules = [model.get_submodule(name.removesuffix(".weight")) for name in row.ours]
    layers = [one for one in modules if isinstance(one, nn.Linear | LoRALinear)]
    return layers if len(layers) == len(modules) else []


def _has_lora(model: nn.Module, row: Row) -> bool:
    return any(isinstance(one, LoRALinear) for one in _layers(model, row))


def _check_shape(where: str, factor: Tensor, shape: tuple[int, int], lora: LoRAConfig) -> None:
    if factor.shape != shape or not factor.is_floating_point():
        raise DataError(
            f"{where} has shape {tuple(factor.shape)} and dtype {factor.dtype}; expected floating "
            f"point numbers of shape {shape}: adapter_config.json says rank {lora.rank}, and the "
            "rest is the width of the layer (is this the base model of the adapter?)"
        )


def _join(row: Row, parts: Sequence[nn.Linear | LoRALinear]) -> Update:
    """Join what is one layer of theirs; a part without LoRA gets rows of zeros."""
    present = [one for one in parts if isinstance(one, LoRALinear)]
    first = present[0]
    if any(one.scale != first.scale for one in present):
        raise ConfigError(
            f"{listed(row.ours)} are one layer in PEFT's files ({row.theirs}), which has one "
            f"alpha / rank; here they have {', '.join(f'{one.scale:g}' for one in present)}"
        )
    down = first.A.detach()
    ups = [
        (one.B if isinstance(one, LoRALinear) else down.new_empty(one.out_features, 0)).detach()
        for one in parts
    ]
    if len(present) < len(parts) or any(not torch.equal(one.A, down) for one in present):
        down = torch.cat([one.A.detach() for one in present])
        ups = torch.block_diag(*ups).split([len(up) for up in ups])
    up = row.save(ups)
    times = len(down) / first.rank
    alpha = first.alpha * (math.sqrt(times) if first.rank_stabilized else times)
    lora = LoRAConfig(
        rank=len(down),
        alpha=alpha,
        dropout=first.dropout,
        rank_stabilized=first.rank_stabilized,
    )
    return lora, down, up.T if TRANSPOSE in row.verbs else up


def _whole_module(name: str, own: Rows, taken: Collection[str]) -> str:
    """Return the largest module around a parameter of which all are taken; "" if there is none."""
    parts = name.split(".")
    for i in range(1, len(parts)):
        module = ".".join(parts[:i])
        if all(one in taken for one in own if one.startswith(f"{module}.")):
            return module
    return ""
