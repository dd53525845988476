"""A and B between PEFT's files and our layers.

Where one layer of theirs is several of ours (GPT-2's c_attn is query, key and value), each of ours
gets their A and its own rows of their B. The way back is exact:

    all still have the same A     that A, and the rows of B joined
    they have not                 [A_q; A_k; A_v], of rank 3 r, and diag(B_q, B_k, B_v)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qkv.checkpoints.adapter_config import AdapterConfig
from qkv.checkpoints.adapter_names import Published, plain_parameters
from qkv.checkpoints.table import TRANSPOSE, Row, listed, load_rows
from qkv.errors import ConfigError, DataError
from qkv.models.lora import LoRAConfig, LoRALayer, lora_layers
from qkv.models.lora_layers import row_lengths

# The ends of names: A, B and DoRA's lengths, of a linear layer and of an embedding.
LINEAR = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")
EMBEDDING = (".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")
ENDS = tuple(dict.fromkeys(LINEAR + EMBEDDING))
Rows = Mapping[str, Row]
Where = Callable[[str], str]  # how an error calls a tensor
Layers = Mapping[str, Sequence[str]]  # of theirs: what they are here


class Update(NamedTuple):
    """What the files say of one layer.

    Args:
        lora: rank and scale.
        A: reads the input.
        B: gives the update.
        magnitude: lengths of rows, of DoRA.
    """

    lora: LoRAConfig
    A: Tensor
    B: Tensor
    magnitude: Tensor | None = None


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


def adaptable(model: nn.Module, rows: Rows) -> dict[str, list[str]]:
    """Find which layers of ours each layer of theirs is; those that cannot have LoRA are left out.

    A tied output layer is a layer of its own, whose weight is an alias. Where several embeddings of
    theirs are one here, an update of one of them has no place.
    """
    layers = {
        name: getattr(module, "base", module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear | nn.Embedding | LoRALayer) and not name.endswith(".base")
    }
    parameters = plain_parameters(model)
    joined = {row.ours for name, row in rows.items() if row.optional and _is_embedding(name)}
    found = {}
    for name, row in rows.items():
        ours = [one.removesuffix(".weight") for one in row.ours if one.endswith(".weight")]
        if row.optional:
            weight = parameters[row.ours[0]]
            ours = [one for one, layer in layers.items() if layer.weight is weight]
        if row.optional or row.ours in joined:
            ours = [one for one in ours if isinstance(layers.get(one), nn.Linear)]
        fits = not (row.optional and _is_embedding(name)) and name.endswith(".weight")
        if ours and fits and all(one in layers for one in ours):
            found[name.removesuffix(".weight")] = ours
    return found


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
    named = [name for name in tensors if _filled(name) != name]
    pairs = dict.fromkeys(_filled(name).removesuffix(".weight") for name in named)
    layers = adaptable(model, rows)
    for name in pairs:
        if name not in layers:
            raise DataError(
                f"{where(_first(name, named))}: {name} is no linear layer or embedding of its own "
                "in this model (an output layer or an embedding that is tied?), so it cannot have "
                "LoRA"
            )
        if not config.targets(name):
            raise DataError(
                f"{where(_first(name, named))}: adapter_config.json does not name {name} in "
                "target_modules"
            )
    ends = {
        name: _ends(model.get_submodule(layers[name][0]))[: 3 if config.dora else 2]
        for name in layers
        if config.targets(name)
    }
    expected = [name + end for name, all_ in ends.items() for end in all_]
    if missing := [where(name) for name in expected if name not in tensors]:
        raise DataError(f"{listed(missing)} is missing: target_modules names its layer")
    if strange := sorted(set(named) - set(expected)):
        raise DataError(
            f"{listed([where(name) for name in strange])}: lengths of rows, which DoRA has, or a "
            "tensor of another kind of layer; adapter_config.json does not announce it (use_dora)"
        )
    updates: dict[str, Update] = {}
    for name in pairs:
        update = Update(config.lora(name), *(tensors[name + end] for end in ends[name]))
        _check_shapes(model, layers[name], update, [where(name + end) for end in ends[name]])
        updates |= _part(rows[f"{name}.weight"], layers[name], update)
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
    own = {ours for name in whole if not rows[name].optional for ours in rows[name].ours}
    if tied := [where(n) for n in whole if rows[n].optional and not own.issuperset(rows[n].ours)]:
        raise DataError(
            f"{listed(tied)}: this model has no parameter of its own for it; it is tied"
        )
    aliases = {name for name, row in rows.items() if row.optional and name.endswith(".bias")}
    expected = [name for name in rows if config.saves(name) and name not in aliases]
    if missing := [where(name) for name in expected if name not in whole]:
        raise DataError(
            f"{listed(missing)} is missing: modules_to_save names its module, or bias = "
            f"{config.bias!r} names it"
        )
    parameters, wanted = plain_parameters(model), [rows[name] for name in whole]
    shapes = {ours: parameters[ours].shape for row in wanted for ours in row.ours}
    return load_rows(wanted, whole, shapes, where=where)


def check_unchanged(
    model: nn.Module, rows: Rows, tensors: Mapping[str, Tensor], where: Where
) -> None:
    """Check the weights beside A and B, where the files have them: they are those of the base.

    Raises:
        DataError: if they are others.
    """
    parameters = plain_parameters(model)
    for name, tensor in tensors.items():
        weight = rows[name].save([parameters[ours].detach() for ours in rows[name].ours])
        narrow = min(weight.dtype, tensor.dtype, key=lambda kind: torch.finfo(kind).bits)
        if weight.shape != tensor.shape or not torch.equal(weight.to(narrow), tensor.to(narrow)):
            raise DataError(
                f"{where(name)}, of shape {tuple(tensor.shape)}, is not that of this model, of "
                f"shape {tuple(weight.shape)}; expected the base model that the adapter was "
                "trained on, with the same vocabulary"
            )


def join_updates(model: nn.Module, rows: Rows) -> tuple[dict[str, LoRAConfig], dict[str, Tensor]]:
    """Return rank and scale of each layer of theirs that has LoRA in our model, and its tensors.

    Raises:
        ConfigError: if what is one layer there has several scales here, or none has such an update.
    """
    present, layers = lora_layers(model), adaptable(model, rows)
    modules = dict(model.named_modules(remove_duplicate=False))
    if lost := sorted(present.keys() - {one for ours in layers.values() for one in ours}):
        raise ConfigError(
            f"{listed(lost)}: PEFT's files have no place for this update, as several layers of "
            "transformers are this one here"
        )
    loras, tensors = {}, {}
    for name, ours in layers.items():
        if not present.keys() & set(ours):
            continue
        loras[name], *factors = _join(rows[f"{name}.weight"], [modules[one] for one in ours])
        ends = _ends(modules[ours[0]])
        tensors |= {
            name + end: one for end, one in zip(ends, factors, strict=True) if one is not None
        }
    return loras, tensors


def _ends(layer: nn.Module) -> tuple[str, ...]:
    """Return how PEFT's names for A, B and the lengths of a layer end."""
    return LINEAR if isinstance(getattr(layer, "base", layer), nn.Linear) else EMBEDDING


def _filled(name: str) -> str:
    """Return the parameter that a tensor is for: of A and B, the weight that they stand beside."""
    for end in ENDS:
        if name.endswith(end):
            return f"{name.removesuffix(end)}.weight"
    return name


def _first(layer: str, names: Sequence[str]) -> str:
    return next(name for name in names if _filled(name) == f"{layer}.weight")


def _is_embedding(name: str) -> bool:
    return name.endswith("embed_tokens.weight")


def _part(row: Row, ours: Sequence[str], update: Update) -> dict[str, Update]:
    """Give each layer of ours its rows of B."""
    columns = [update.B] if update.magnitude is None else [update.B, update.magnitude[:, None]]
    turned = [x.T if TRANSPOSE in row.verbs else x for x in columns]
    parts = [row.load(x) for x in turned]
    return {
        name: Update(update.lora, update.A, up, *(part[:, 0] for part in lengths))
        for name, up, *lengths in zip(ours, *parts, strict=True)
    }


def _check_shapes(
    model: nn.Module, ours: Sequence[str], update: Update, where: Sequence[str]
) -> None:
    layers, rank = [model.get_submodule(name) for name in ours], update.lora.rank
    widths = [_widths(layer) for layer in layers]
    d_in, d_out = widths[0][0], sum(out for _, out in widths)
    shapes = ((rank, d_in), (d_out, rank), (d_out,))
    tensors = [tensor for tensor in update[1:] if tensor is not None]
    for name, tensor, shape in zip(where, tensors, shapes, strict=False):
        if tensor.shape != shape or not tensor.is_floating_point():
            raise DataError(
                f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}; expected "
                f"floating point numbers of shape {shape}: adapter_config.json says rank {rank}, "
                "and the rest is the width of the layer (is this the base model of the adapter?)"
            )


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Return the widths of what A reads and B gives."""
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _join(row: Row, parts: Sequence[nn.Module]) -> Update:
    """Join what is one layer of theirs; a part without LoRA gets rows of zeros."""
    present = [one for one in parts if isinstance(one, LoRALayer)]
    first = present[0]
    if any(one.scale != first.scale for one in present):
        raise ConfigError(
            f"{listed(row.ours)} are one layer in PEFT's files ({row.theirs}), which has one "
            f"alpha / rank; here they have {', '.join(f'{one.scale:g}' for one in present)}"
        )
    down = first.A.detach()
    ups = [
        (one.B if isinstance(one, LoRALayer) else down.new_empty(_widths(one)[1], 0)).detach()
        for one in parts
    ]
    if len(present) < len(parts) or any(not torch.equal(one.A, down) for one in present):
        down = torch.cat([one.A.detach() for one in present])
        ups = torch.block_diag(*ups).split([len(up) for up in ups])
    times = len(down) / first.rank
    lora = LoRAConfig(
        rank=len(down),
        alpha=first.alpha * (math.sqrt(times) if first.rank_stabilized else times),
        dropout=first.dropout,
        rank_stabilized=first.rank_stabilized,
        dora=first.dora,
    )
    return Update(lora, down, _saved(row, ups), _lengths(row, parts) if first.dora else None)


def _lengths(row: Row, parts: Sequence[nn.Module]) -> Tensor:
    """Join the lengths of rows; those without LoRA have the lengths that they are stored with."""
    lengths = [
        one.magnitude.detach()
        if isinstance(one, LoRALayer) and one.magnitude is not None
        else row_lengths(one.get_parameter("weight"))
        for one in parts
    ]
    return _saved(row, [one[:, None] for one in lengths])[:, 0]


def _saved(row: Row, ups: Sequence[Tensor]) -> Tensor:
    up = row.save(ups)
    return up.T if TRANSPOSE in row.verbs else up
