"""Name tables, which map the tensors of a file to our parameters and back.

One row per tensor, with `{}` for the layer index, and a closed list of verbs:

    row(theirs, ours)                      the same tensor under two names
    row(theirs, ours, TRANSPOSE)           a matrix stored as (in, out)
    row(theirs, (q, k, v), split(8, 8, 8)) one tensor of theirs is several of ours
    row(theirs, ours, permute(...))        the same numbers in another order
    row(theirs, ours, ONE_ROW)             a vector stored as a matrix of one row
    alias(theirs, ours)                    a second name of a parameter (a tied head)
    own_or_same(theirs, ours, other)       a parameter that defaults to another if missing
    constant(theirs, make)                 a buffer that the config determines
    ignore(theirs)                         a tensor that this model does not use

Verbs are applied from left to right when loading: `row(theirs, (q, k, v), TRANSPOSE, split(8, 8,
8))`. The last three are optional in a file, which is written back as it was.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from qkv.errors import DataError

Tensors = Sequence[Tensor]
Take = Callable[["Row", Tensors], Tensors]
BODY = ("stack", "decoder", "embedding", "source_embedding", "target_embedding")
COMPUTED = (
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
)  # not float8, which has no arithmetic


@dataclass(frozen=True)
class Verb:
    """A conversion from a tensor of theirs to tensors of ours, and its inverse."""

    load: Callable[[Tensors], Tensors]
    save: Callable[[Tensors], Tensors]


TRANSPOSE = Verb(lambda parts: [part.T for part in parts], lambda parts: [part.T for part in parts])

ONE_ROW = Verb(
    lambda parts: [part.squeeze(0) for part in parts],
    lambda parts: [part.unsqueeze(0) for part in parts],
)


def split(*sizes: int) -> Verb:
    """Split the first axis into parts of these sizes: one tensor of theirs is several of ours."""
    return Verb(lambda parts: parts[0].split(sizes), lambda parts: [torch.cat(list(parts))])


def permute(*axes: int, rows: Sequence[int] | None = None) -> Verb:
    """Permute the axes; with `rows`, those into which the first axis is unflattened.

    `permute(0, 2, 1, rows=(n_heads, d_head // 2, 2))` converts heads with interleaved rotary pairs
    to heads whose pairs are halves.
    """
    back = [axes.index(i) for i in range(len(axes))]
    if rows is None:
        return Verb(
            lambda parts: [part.permute(axes) for part in parts],
            lambda parts: [part.permute(back) for part in parts],
        )
    reordered = [rows[axis] for axis in axes]
    return Verb(
        lambda parts: [_permute_rows(part, rows, axes) for part in parts],
        lambda parts: [_permute_rows(part, reordered, back) for part in parts],
    )


@dataclass(frozen=True)
class Row:
    """A tensor of the file and our parameters that it fills."""

    theirs: str
    ours: tuple[str, ...] = ()
    verbs: tuple[Verb, ...] = ()
    optional: bool = False
    value: Callable[[], Tensor] | None = None  # the required value of a constant
    same: str | None = None  # our parameter that replaces a missing tensor

    def load(self, tensor: Tensor) -> Tensors:
        """Convert the file's tensor to ours."""
        parts: Tensors = [tensor]
        for verb in self.verbs:
            parts = verb.load(parts)
        return parts

    def save(self, parts: Tensors) -> Tensor:
        """Convert our tensors to the file's."""
        for verb in reversed(self.verbs):
            parts = verb.save(parts)
        return parts[0]


def row(theirs: str, ours: str | tuple[str, ...], *verbs: Verb) -> Row:
    """Return the row of a tensor that fills parameters."""
    return Row(theirs, (ours,) if isinstance(ours, str) else ours, verbs)


def affine(theirs: str, ours: str) -> list[Row]:
    """Return the rows of the weight and bias of a module."""
    return [row(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


def alias(theirs: str, ours: str, *verbs: Verb) -> Row:
    """Return the row of a second name of a parameter; if a file has both, they must be equal."""
    return dataclasses.replace(row(theirs, ours, *verbs), optional=True)


def own_or_same(theirs: str, ours: str, other: str) -> Row:
    """Return the row of a tensor that a file omits if it equals another (mT5's output layer).

    There are always two parameters, which may diverge in training. While equal, it is omitted.
    """
    return dataclasses.replace(row(theirs, ours), same=other)


def constant(theirs: str, value: Callable[[], Tensor]) -> Row:
    """Return the row of a known buffer, which is checked when read, within the file's rounding."""
    return Row(theirs, optional=True, value=value)


def ignore(theirs: str) -> Row:
    """Return the row of a tensor that the model does not use, but that is written back."""
    return Row(theirs, optional=True)


def layers(rows: Iterable[Row], n: int) -> list[Row]:
    """Repeat rows for each layer, with `{}` as its index."""
    rows = list(rows)
    return [_renamed(one, "{}", str(i)) for i in range(n) for one in rows]


def under(rows: Iterable[Row], *, theirs: str = "", ours: str = "") -> list[Row]:
    """Add prefixes to the names in rows, such as "bert." and "encoder."."""
    return [
        dataclasses.replace(
            one, theirs=theirs + one.theirs, ours=tuple(ours + name for name in one.ours)
        )
        for one in rows
    ]


def load_rows(
    rows: Iterable[Row],
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    *,
    where: Callable[[str], str] = str,
    take: Take | None = None,
) -> dict[str, Tensor]:
    """Convert all tensors, and check that none is unknown, missing or of another shape.

    Args:
        rows: rows of the table.
        weights: the file's tensors, by the table's names.
        shapes: shape of each of our parameters.
        where: describes a tensor of theirs in errors, for example with its file.
        take: replaces the tensors of a row after they were checked, by tensors on the meta device
            if they are kept elsewhere.

    Raises:
        DataError: naming the tensors that do not match.
    """
    table = {one.theirs: one for one in rows}
    if unknown := [where(name) for name in weights if name not in table]:
        raise DataError(
            f"no parameter of this model is called {listed(unknown)}; does config.json belong to "
            "these weights, and does it name their family and head?"
        )
    filled: dict[str, Tensor] = {}
    for name, one in table.items():
        if name in weights and one.value is not None:
            _check_constant(where(name), weights[name], one.value)
        elif name in weights and one.ours:
            tensor = weights[name]
            parts = _load(one, tensor, where(name))
            for ours, part in zip(one.ours, parts, strict=True):
                _check_part(where(name), tensor, part, shapes[ours])
            parts = parts if take is None else take(one, parts)
            for ours, part in zip(one.ours, parts, strict=True):
                if ours in filled and not torch.equal(filled[ours], part):
                    raise DataError(
                        f"{where(name)} differs from {_names_of(ours, table)[0]}, but the model "
                        f"has one parameter for both ({ours}): config.json ties them"
                    )
                filled[ours] = part
    for one in table.values():
        if one.same is not None and one.theirs not in weights and one.same in filled:
            filled[one.ours[0]] = filled[one.same].clone()
    if missing := [ours for ours in shapes if ours not in filled]:
        theirs = [where(_names_of(ours, table)[0]) for ours in missing]
        raise DataError(
            f"{listed(theirs)} is missing (for {listed(missing)}); {_advice(missing, shapes)}"
        )
    return filled


def save_rows(
    rows: Iterable[Row],
    parameters: Mapping[str, Tensor],
    *,
    had: Collection[str] = (),
    kept: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Convert our parameters to the file's tensors.

    Args:
        rows: rows of the table.
        parameters: our parameters.
        had: the table's names in the file from which the model was loaded; a tensor that it had
            only under an alias keeps that name.
        kept: tensors that the model does not use.
    """
    kept = kept or {}
    rows = list(rows)
    covered = {ours for one in rows if one.theirs in had for ours in one.ours}
    tensors = {}
    for one in rows:
        wanted = one.theirs in had or not (one.optional or covered.issuperset(one.ours))
        if one.same is not None and one.theirs not in had:
            wanted = not torch.equal(parameters[one.ours[0]], parameters[one.same])
        if not wanted:
            continue
        if one.ours:
            tensors[one.theirs] = one.save([parameters[name] for name in one.ours])
        elif one.theirs in kept:
            tensors[one.theirs] = kept[one.theirs]
        elif one.value is not None:
            tensors[one.theirs] = one.value()
    return tensors


def listed(names: Sequence[str], most: int = 4) -> str:
    """Join names for a message, truncated to the first few."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _advice(missing: Sequence[str], shapes: Mapping[str, torch.Size]) -> str:
    """Return the likely reason why parameters are missing, and what to do."""
    modules = list(dict.fromkeys(ours.rpartition(".")[0] for ours in missing))
    if {one.rpartition(".")[2] for one in modules} == {"pooler"}:
        return (
            f"the model was saved without its pooler. new={modules} initializes one randomly; "
            "hidden states do not depend on it"
        )
    tied = [name for name, shape in shapes.items() if name.endswith("embedding.weight")]
    if missing == ["head.weight"] and any(shapes[one] == shapes["head.weight"] for one in tied):
        return (
            "the output layer of this language model is probably tied to its embedding: does "
            "config.json lack tie_word_embeddings = true?"
        )
    if any(one.split(".")[0] in BODY or ".blocks." in one for one in missing):
        return (
            "does config.json belong to these weights (such as its number of layers), and is the "
            "file complete?"
        )
    return f"pass the modules that are still to be trained: new={modules[:4]}"


def _renamed(one: Row, old: str, new: str) -> Row:
    ours = tuple(name.replace(old, new) for name in one.ours)
    return dataclasses.replace(one, theirs=one.theirs.replace(old, new), ours=ours)


def _names_of(ours: str, table: Mapping[str, Row]) -> list[str]:
    return [name for name, one in table.items() if ours in one.ours]


def _load(one: Row, tensor: Tensor, where: str) -> Tensors:
    try:
        return one.load(tensor)
    except (RuntimeError, IndexError) as error:
        raise DataError(
            f"{where} has shape {tuple(tensor.shape)}, which cannot become {listed(one.ours)}: "
            f"{error}"
        ) from error


def _check_part(where: str, tensor: Tensor, part: Tensor, shape: torch.Size) -> None:
    if tensor.dtype not in COMPUTED:
        raise DataError(
            f"{where} has dtype {tensor.dtype}; expected floating point numbers of 16 to 64 bits"
        )
    if part.shape != shape:
        raise DataError(
            f"{where} has shape {tuple(tensor.shape)}, which gives {tuple(part.shape)}; expected "
            f"{tuple(shape)}: config.json describes another model than the stored one"
        )


def _check_constant(name: str, tensor: Tensor, make: Callable[[], Tensor]) -> None:
    with torch.device("meta"):  # allocate nothing yet, as a size in config.json may be wrong
        shape = make().shape
    rounding = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    if tensor.shape != shape or not torch.allclose(
        tensor.double(), make().double(), rtol=rounding, atol=rounding
    ):
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)} and differs from the constant for "
            f"config.json, of shape {tuple(shape)}; other values are not supported"
        )


def _permute_rows(tensor: Tensor, rows: Sequence[int], axes: Sequence[int]) -> Tensor:
    if tensor.shape[0] != prod(rows):
        raise RuntimeError(f"{tensor.shape[0]} rows are not {' x '.join(map(str, rows))}")
    rest = range(len(axes), len(axes) + tensor.ndim - 1)
    return tensor.unflatten(0, tuple(rows)).permute(*axes, *rest).flatten(0, len(axes) - 1)
