"""Convert A and B between PEFT's files and our layers.

If one of their layers corresponds to several of ours (GPT-2's c_attn to query, key and value), each
of ours gets their A and its rows of their B. The inverse is exact:

    all have the same A           that A, and the rows of B joined
    otherwise                     [A_q; A_k; A_v], of rank 3 r, and diag(B_q, B_k, B_v)
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

# Suffixes of A, B and DoRA's norms, for a linear layer and for an embedding.
LINEAR = (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")
EMBEDDING = (".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector")
ENDS = tuple(dict.fromkeys(LINEAR + EMBEDDING))
Rows = Mapping[str, Row]
Where = Callable[[str], str]  # the name of a tensor in an error
Layers = Mapping[str, Sequence[str]]  # our layers by the name of theirs


class Update(NamedTuple):
    """The LoRA of one layer in the files.

    Args:
        lora: configuration with rank and scale.
        A: matrix A, applied to the input.
        B: matrix B, which gives the update.
        magnitude: row norms, for DoRA.
    """

    lora: LoRAConfig
    A: Tensor
    B: Tensor
    magnitude: Tensor | None = None


def choose(
    kinds: Sequence[Published], names: Sequence[str], config: AdapterConfig, where: Where
) -> Rows:
    """Return the rows of the class of transformers that has all names of an adapter.

    Raises:
        DataError: naming the unknown tensors.
    """
    unknown = [[name for name in names if _filled(name) not in kind.rows] for kind in kinds]
    fewest, kind = min(zip(unknown, kinds, strict=True), key=lambda pair: len(pair[0]))
    if fewest:
        raise DataError(
            f"{listed([where(name) for name in fewest])}: this model is a {kind.name} and has "
            f"no such layer; the adapter was made for {config.base or 'another model'}"
        )
    return kind.rows


def adaptable(model: nn.Module, rows: Rows) -> dict[str, list[str]]:
    """Map each of their layers that can have LoRA to our layers.

    A tied output layer is a separate layer whose weight is an alias. If several of their embeddings
    correspond to one of ours, none of them can have an update.
    """
    layers = {
        name: getattr(module, "base", module)
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear | nn.Embedding | LoRALayer) and not name.endswith(".base")
    }
    parameters = plain_parameters(model)
    joined = {row.ours for name, row in rows.items() if row.optional and _is_embedding(name)}
    mapping = {}
    for name, row in rows.items():
        ours = [one.removesuffix(".weight") for one in row.ours if one.endswith(".weight")]
        if row.optional:
            weight = parameters[row.ours[0]]
            ours = [one for one, layer in layers.items() if layer.weight is weight]
        if row.optional or row.ours in joined:
            ours = [one for one in ours if isinstance(layers.get(one), nn.Linear)]
        fits = not (row.optional and _is_embedding(name)) and name.endswith(".weight")
        if ours and fits and all(one in layers for one in ours):
            mapping[name.removesuffix(".weight")] = ours
    return mapping


def read_updates(
    model: nn.Module,
    rows: Rows,
    tensors: Mapping[str, Tensor],
    config: AdapterConfig,
    where: Where,
) -> dict[str, Update]:
    """Return rank and scale, A and B for each of our layers that has LoRA in the files.

    Raises:
        DataError: if a tensor is missing, not covered by the config, or of another shape.
    """
    named = [name for name in tensors if _filled(name) != name]
    pairs = dict.fromkeys(_filled(name).removesuffix(".weight") for name in named)
    layers = adaptable(model, rows)
    for name in pairs:
        if name not in layers:
            raise DataError(
                f"{where(_first(name, named))}: {name} is not a separate linear layer or embedding "
                "in this model (is it a tied output layer or embedding?), so it cannot have LoRA"
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
            f"{listed([where(name) for name in strange])}: row norms of DoRA without use_dora in "
            "adapter_config.json, or a tensor of another kind of layer"
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
    """Return our parameters that are fully stored in the files.

    Raises:
        DataError: if a tensor is missing, of another shape, or not a separate parameter.
    """
    whole = {name: tensor for name, tensor in tensors.items() if _filled(name) == name}
    own = {ours for name in whole if not rows[name].optional for ours in rows[name].ours}
    if tied := [where(n) for n in whole if rows[n].optional and not own.issuperset(rows[n].ours)]:
        raise DataError(f"{listed(tied)}: this model has no separate parameter for it; it is tied")
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
    """Check that base weights in the files, if any, equal those of the model.

    Raises:
        DataError: if they differ.
    """
    parameters = plain_parameters(model)
    for name, tensor in tensors.items():
        weight = rows[name].save([parameters[ours].detach() for ours in rows[name].ours])
        narrow = min(weight.dtype, tensor.dtype, key=lambda kind: torch.finfo(kind).bits)
        if weight.shape != tensor.shape or not torch.equal(weight.to(narrow), tensor.to(narrow)):
            raise DataError(
                f"{where(name)}, of shape {tuple(tensor.shape)}, differs from this model's, of "
                f"shape {tuple(weight.shape)}; expected the base model that the adapter was "
                "trained on, with the same vocabulary"
            )


def join_updates(model: nn.Module, rows: Rows) -> tuple[dict[str, LoRAConfig], dict[str, Tensor]]:
    """Return rank, scale and tensors of each of their layers that has LoRA in our model.

    Raises:
        ConfigError: if parts of one of their layers have different scales, or none can have the
            update.
    """
    present, layers = lora_layers(model), adaptable(model, rows)
    modules = dict(model.named_modules(remove_duplicate=False))
    if lost := sorted(present.keys() - {one for ours in layers.values() for one in ours}):
        raise ConfigError(
            f"{listed(lost)}: PEFT's files cannot store this update, as it belongs to several "
            "layers of transformers"
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
    """Return the suffixes of PEFT's names for A, B and the row norms of a layer."""
    return LINEAR if isinstance(getattr(layer, "base", layer), nn.Linear) else EMBEDDING


def _filled(name: str) -> str:
    """Return the parameter that a tensor belongs to; for A and B, the weight."""
    for end in ENDS:
        if name.endswith(end):
            return f"{name.removesuffix(end)}.weight"
    return name


def _first(layer: str, names: Sequence[str]) -> str:
    return next(name for name in names if _filled(name) == f"{layer}.weight")


def _is_embedding(name: str) -> bool:
    return name.endswith("embed_tokens.weight")


def _part(row: Row, ours: Sequence[str], update: Update) -> dict[str, Update]:
    """Split B into the rows of our layers."""
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
                f"floating point numbers of shape {shape}: adapter_config.json has rank {rank}, "
                "and the width is the layer's (is this the base model of the adapter?)"
            )


def _widths(layer: nn.Module) -> tuple[int, int]:
    """Return the input width of A and the output width of B."""
    if isinstance(layer, nn.Embedding):
        return layer.num_embeddings, layer.embedding_dim
    assert isinstance(layer, nn.Linear)
    return layer.in_features, layer.out_features


def _join(row: Row, parts: Sequence[nn.Module]) -> Update:
    """Join the parts of one of their layers; a part without LoRA gets rows of zeros."""
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
    """Join the row norms; layers without LoRA have the norms of their weights."""
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
