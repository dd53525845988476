"""Name tables: rows that say how the tensors of a file map onto our parameters, and back.

One row a tensor, `{}` for the layer number, and a closed list of verbs:

    row(theirs, ours)                      the same tensor under two names
    row(theirs, ours, TRANSPOSE)           a matrix stored as (in, out)
    row(theirs, (q, k, v), split(8, 8, 8)) one tensor of theirs is several of ours
    row(theirs, ours, permute(...))        the same numbers in another order
    row(theirs, ours, ONE_ROW)             a vector stored as a matrix of one row
    alias(theirs, ours)                    a second name of a parameter (a tied head)
    own_or_same(theirs, ours, other)       a parameter that starts as another where a file lacks it
    constant(theirs, make)                 a buffer that the config determines
    ignore(theirs)                         a tensor that this model has no use for

Verbs compose from left to right on the way in: `row(theirs, (q, k, v), TRANSPOSE, split(8, 8, 8))`.
The last three are optional: a file may have them or not, and is written back as it was.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from qkv.errors import DataError

Tensors = Sequence[Tensor]
BODY = ("stack", "decoder", "embedding", "source_embedding", "target_embedding")
COMPUTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)  # not float8: no sums


@dataclass(frozen=True)
class Verb:
    """A step between a tensor of theirs and the tensors of ours, and the way back."""

    load: Callable[[Tensors], Tensors]
    save: Callable[[Tensors], Tensors]


TRANSPOSE = Verb(lambda parts: [part.T for part in parts], lambda parts: [part.T for part in parts])

ONE_ROW = Verb(
    lambda parts: [part.squeeze(0) for part in parts],
    lambda parts: [part.unsqueeze(0) for part in parts],
)


def split(*sizes: int) -> Verb:
    """Cut the first axis into parts of these sizes: one tensor of theirs is several of ours."""
    return Verb(lambda parts: parts[0].split(sizes), lambda parts: [torch.cat(list(parts))])


def permute(*axes: int, rows: Sequence[int] | None = None) -> Verb:
    """Reorder the axes; with `rows`, those into which the first axis is cut, joined again after.

    `permute(0, 2, 1, rows=(n_heads, d_head // 2, 2))` turns heads whose rotary pairs are
    interleaved into heads whose pairs are halves.
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
    """One tensor of the file and the parameters of ours that it fills."""

    theirs: str
    ours: tuple[str, ...] = ()
    verbs: tuple[Verb, ...] = ()
    optional: bool = False
    value: Callable[[], Tensor] | None = None  # what a constant must be
    same: str | None = None  # the parameter of ours that stands in for a tensor that is missing

    def load(self, tensor: Tensor) -> Tensors:
        """Turn the file's tensor into ours."""
        parts: Tensors = [tensor]
        for verb in self.verbs:
            parts = verb.load(parts)
        return parts

    def save(self, parts: Tensors) -> Tensor:
        """Turn our tensors into the file's."""
        for verb in reversed(self.verbs):
            parts = verb.save(parts)
        return parts[0]


def row(theirs: str, ours: str | tuple[str, ...], *verbs: Verb) -> Row:
    """A tensor that fills parameters."""
    return Row(theirs, (ours,) if isinstance(ours, str) else ours, verbs)


def affine(theirs: str, ours: str) -> list[Row]:
    """The weight and the bias of one module."""
    return [row(f"{theirs}.{part}", f"{ours}.{part}") for part in ("weight", "bias")]


def alias(theirs: str, ours: str, *verbs: Verb) -> Row:
    """A second name of a parameter, which must agree with the first where a file has both."""
    return dataclasses.replace(row(theirs, ours, *verbs), optional=True)


def own_or_same(theirs: str, ours: str, other: str) -> Row:
    """A tensor that a file leaves out where it is that of another parameter (mT5's output layer).

    Two parameters either way: training parts them. While they are equal, it is left out again.
    """
    return dataclasses.replace(row(theirs, ours), same=other)


def constant(theirs: str, value: Callable[[], Tensor]) -> Row:
    """A buffer that is known without the file: checked when read, within the file's rounding."""
    return Row(theirs, optional=True, value=value)


def ignore(theirs: str) -> Row:
    """A tensor that the model does without; it is kept to be written back."""
    return Row(theirs, optional=True)


def layers(rows: Iterable[Row], n: int) -> list[Row]:
    """Repeat rows for each layer: `{}` is its number."""
    rows = list(rows)
    return [_renamed(one, "{}", str(i)) for i in range(n) for one in rows]


def under(rows: Iterable[Row], *, theirs: str = "", ours: str = "") -> list[Row]:
    """Put the rows below a module: prefixes such as "bert." and "encoder."."""
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
) -> dict[str, Tensor]:
    """Fill our parameters, and check that nothing is unknown, missing or of another shape.

    Args:
        rows: the table.
        weights: the file's tensors by the table's names.
        shapes: of each of our parameters.
        where: how an error calls a tensor of theirs, such as with its file.

    Raises:
        DataError: naming the tensors that do not fit.
    """
    table = {one.theirs: one for one in rows}
    if unknown := [where(name) for name in weights if name not in table]:
        raise DataError(
            f"no parameter of this model is called {listed(unknown)}; is config.json that of "
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
                if ours in filled and not torch.equal(filled[ours], part):
                    raise DataError(
                        f"{where(name)} differs from {_names_of(ours, table)[0]}, but the model "
                        f"has one parameter for both ({ours}): config.json says that they are tied"
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
    """Turn our parameters into the file's tensors.

    Args:
        rows: the table.
        parameters: ours.
        had: the table's names that the file had from which the model came; what it had under an
            alias alone stays there.
        kept: tensors that the model does without.
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
    """Join names for a message, the first few of many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _advice(missing: Sequence[str], shapes: Mapping[str, torch.Size]) -> str:
    """Say what probably happened to parameters that are missing, and what to do."""
    modules = list(dict.fromkeys(ours.rpartition(".")[0] for ours in missing))
    if {one.rpartition(".")[2] for one in modules} == {"pooler"}:
        return (
            f"the model was saved without its pooler. new={modules} starts one at random, on which "
            "no token's hidden state depends"
        )
    tied = [name for name, shape in shapes.items() if name.endswith("embedding.weight")]
    if missing == ["head.weight"] and any(shapes[one] == shapes["head.weight"] for one in tied):
        return (
            "a language model without an output layer has one that is tied to its embedding: does "
            "config.json lack tie_word_embeddings = true?"
        )
    if any(one.split(".")[0] in BODY or ".blocks." in one for one in missing):
        return (
            "is config.json that of these weights (such as its number of layers), and is the file "
            "whole?"
        )
    return f"what is still to be trained is asked for by name: new={modules[:4]}"


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
            f"{tuple(shape)}: config.json describes another model than the one that is stored"
        )


def _check_constant(name: str, tensor: Tensor, make: Callable[[], Tensor]) -> None:
    with torch.device("meta"):  # a size in config.json may be wrong, and memory is asked for below
        shape = make().shape
    rounding = torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0
    if tensor.shape != shape or not torch.allclose(
        tensor.double(), make().double(), rtol=rounding, atol=rounding
    ):
        raise DataError(
            f"{name} has shape {tuple(tensor.shape)} and is not what config.json makes it "
            f"({tuple(shape)}); this model cannot use other values"
        )


def _permute_rows(tensor: Tensor, rows: Sequence[int], axes: Sequence[int]) -> Tensor:
    if tensor.shape[0] != prod(rows):
        raise RuntimeError(f"{tensor.shape[0]} rows are not {' x '.join(map(str, rows))}")
    rest = range(len(axes), len(axes) + tensor.ndim - 1)
    return tensor.unflatten(0, tuple(rows)).permute(*axes, *rest).flatten(0, len(axes) - 1)
