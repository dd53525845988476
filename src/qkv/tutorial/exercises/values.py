"""Convert results of answers to plain values, store them without pickle, and compare them."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# A plain value is a Tensor, a bool, an int, a float, a str, None, an Other, or a list or a dict
# with text keys of plain values.
Plain = Any

MAX_NUMBERS = 1_000_000


@dataclass(frozen=True)
class Other:
    """A result that cannot be compared, described in words."""

    what: str


def plain(value: Any) -> Plain:
    """Convert a result to plain values: tuples to lists, NumPy arrays to tensors."""
    if isinstance(value, np.ndarray | np.generic):
        try:
            value = torch.as_tensor(np.asarray(value))
        except TypeError:
            return Other(f"an array of {value.dtype}")
        return value.item() if value.ndim == 0 else value
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_complex() or value.is_quantized:
            return Other(f"a tensor with dtype {value.dtype} and layout {value.layout}")
        if value.numel() > MAX_NUMBERS:
            return Other(f"a tensor of shape {tuple(value.shape)}, far larger than expected")
        return value.detach().cpu().clone().contiguous()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: plain(item) for key, item in value.items()}
    article = "an" if type(value).__name__[0].lower() in "aeiou" else "a"
    return Other(f"{article} {type(value).__name__}")


def write_values(folder: Path, value: Plain) -> None:
    """Write plain values as JSON and safetensors."""
    tensors: dict[str, Tensor] = {}

    def encode(item: Plain) -> Any:
        if isinstance(item, Tensor):
            tensors[str(len(tensors))] = item
            return {"tensor": str(len(tensors) - 1)}
        if isinstance(item, Other):
            return {"other": item.what}
        if isinstance(item, list):
            return {"list": [encode(one) for one in item]}
        if isinstance(item, dict):
            return {"dict": {key: encode(one) for key, one in item.items()}}
        return {"value": item}

    tree = json.dumps(encode(value))
    save_file(tensors, folder / "tensors.safetensors")
    (folder / "values.json").write_text(tree, encoding="utf-8")


def read_values(folder: Path) -> Plain:
    """Read what `write_values` wrote."""
    tensors = load_file(folder / "tensors.safetensors")

    def decode(item: dict[str, Any]) -> Plain:
        ((kind, content),) = item.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "other":
            return Other(content)
        if kind == "list":
            return [decode(one) for one in content]
        if kind == "dict":
            return {key: decode(one) for key, one in content.items()}
        return content

    return decode(json.loads((folder / "values.json").read_text(encoding="utf-8")))


def difference(
    theirs: Plain, expected: Plain, close: float | None = None, path: str = "the result"
) -> str | None:
    """Say where a result first differs from the expected one; None if it does not.

    Types and shapes are compared before numbers, which mean nothing in the wrong place.

    Args:
        theirs: the learner's result.
        expected: the reference's result.
        close: absolute tolerance; None means that of `torch.testing` for float64.
        path: what the message calls the result.
    """
    for problem in _kinds(theirs, expected, path):
        return problem
    for problem in _numbers(theirs, expected, close, path):
        return problem
    return None


def _kinds(theirs: Plain, expected: Plain, path: str) -> Iterator[str]:
    """Yield wrong types, sizes and shapes."""
    if isinstance(expected, Tensor):
        got = _as_tensor(theirs)
        if got is None:
            yield f"{path} is {describe(theirs)}; expected {describe(expected)}"
        elif got.shape != expected.shape:
            yield f"{path} has shape {tuple(got.shape)}; expected {tuple(expected.shape)}"
        elif _family(got) != _family(expected):
            yield f"{path} has dtype {got.dtype}; expected {expected.dtype}"
    elif isinstance(expected, list):
        got = theirs.tolist() if isinstance(theirs, Tensor) and theirs.ndim else theirs
        if not isinstance(got, list):
            yield f"{path} is {describe(theirs)}; expected {describe(expected)}"
        elif len(got) != len(expected):
            yield f"{path} has {_count(got)}; expected {_count(expected)}"
        else:
            for i, (one, other) in enumerate(zip(got, expected, strict=True)):
                yield from _kinds(one, other, _inner(path, i))
    elif isinstance(expected, dict):
        if not isinstance(theirs, dict):
            yield f"{path} is {describe(theirs)}; expected {describe(expected)}"
            return
        for key in expected:
            if key not in theirs:
                yield f"{path} has no {key!r}; expected the keys {', '.join(map(repr, expected))}"
        for key in theirs:
            if key not in expected:
                yield f"{path} also has {key!r}, which is not expected"
        for key in expected:
            if key in theirs:
                yield from _kinds(theirs[key], expected[key], _inner(path, key))
    elif not _alike(_as_scalar(theirs), expected):
        yield f"{path} is {describe(theirs)}; expected {describe(expected)}"


def _numbers(theirs: Plain, expected: Plain, close: float | None, path: str) -> Iterator[str]:
    """Yield wrong numbers and texts of results of the same kind."""
    if isinstance(expected, Tensor):
        got = _as_tensor(theirs)
        assert got is not None
        if wrong := _first_wrong(got, expected, close):
            yield f"{path}{wrong}"
    elif isinstance(expected, list):
        got = theirs.tolist() if isinstance(theirs, Tensor) else theirs
        for i, (one, other) in enumerate(zip(got, expected, strict=True)):
            yield from _numbers(one, other, close, _inner(path, i))
    elif isinstance(expected, dict):
        for key in expected:
            yield from _numbers(theirs[key], expected[key], close, _inner(path, key))
    else:
        got = _as_scalar(theirs)
        if isinstance(expected, bool | str | Other | None) or isinstance(got, bool):
            same = got == expected
        else:
            same = _is_close(torch.tensor(float(got)), torch.tensor(float(expected)), close)
        if not same:
            shown, wanted = _shown(got, expected)
            yield f"{path} is {shown}; expected {wanted}"


def _is_close(theirs: Tensor, expected: Tensor, close: float | None) -> bool:
    theirs, expected = theirs.double(), expected.double()
    if close is not None:
        return torch.allclose(theirs, expected, rtol=0.0, atol=close, equal_nan=True)
    try:
        torch.testing.assert_close(theirs, expected, equal_nan=True)
    except AssertionError:
        return False
    return True


def _first_wrong(theirs: Tensor, expected: Tensor, close: float | None) -> str | None:
    if _is_close(theirs, expected, close):
        return None
    relative, absolute = (1e-7, 1e-7) if close is None else (0.0, close)
    wrong = ~torch.isclose(
        theirs.double(), expected.double(), rtol=relative, atol=absolute, equal_nan=True
    )
    place = wrong.nonzero()[0].tolist()
    shown, wanted = _shown(theirs[tuple(place)].item(), expected[tuple(place)].item())
    if not place:
        return f" is {shown}; expected {wanted}"
    count = f"{int(wrong.sum())} of {wrong.numel()} numbers differ"
    if theirs.is_floating_point() and theirs.dtype != torch.float64:
        count += f"; its dtype is {theirs.dtype}, expected torch.float64"
    return f" at {place} is {shown}; expected {wanted} ({count})"


def _shown(theirs: Any, expected: Any) -> tuple[str, str]:
    """Format two numbers with as many digits as it takes to tell them apart."""
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in (theirs, expected)):
        return repr(theirs), repr(expected)
    shown, wanted = "", ""
    for digits in (5, 8, 12, 17):
        shown, wanted = f"{theirs:.{digits}g}", f"{expected:.{digits}g}"
        if isinstance(theirs, int) and isinstance(expected, int):
            return str(theirs), str(expected)
        if shown != wanted:
            break
    return shown, wanted


def _as_tensor(value: Plain) -> Tensor | None:
    """Return a tensor, also for a number and for lists of numbers."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float | list):
        try:
            return torch.tensor(value)
        except (TypeError, ValueError, RuntimeError):
            return None
    return None


def _as_scalar(value: Plain) -> Plain:
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value


def _family(x: Tensor) -> str:
    if x.is_floating_point():
        return "float"
    return "bool" if x.dtype == torch.bool else "int"


def _alike(theirs: Plain, expected: Plain) -> bool:
    """Return whether two scalars can be compared: a bool is not a number, an int may be a float."""
    if isinstance(expected, bool) or isinstance(theirs, bool):
        return type(theirs) is type(expected)
    if isinstance(expected, int):
        return isinstance(theirs, int) or (
            isinstance(theirs, float) and math.isfinite(theirs) and theirs == int(theirs)
        )
    if isinstance(expected, float):
        return isinstance(theirs, int | float)
    return type(theirs) is type(expected)


def _inner(path: str, key: int | str) -> str:
    if path == "the result":
        return f"result[{key!r}]"
    return f"{path}[{key!r}]"


def _count(items: list[Plain]) -> str:
    return "1 element" if len(items) == 1 else f"{len(items)} elements"


def describe(value: Plain) -> str:
    """Describe the kind of a result in words."""
    if isinstance(value, Other):
        return value.what
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and dtype {value.dtype}"
    if isinstance(value, list):
        return f"a list or tuple of {_count(value)}"
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(repr, value)) or 'no keys'}"
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int | float):
        kind = "int" if isinstance(value, int) else "float"
        return f"{value:.6g} (a number of type {kind})"
    return f"the text {value!r}"
