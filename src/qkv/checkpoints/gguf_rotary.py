"""Scaled rotary positions in GGUF: metadata, or a tensor of factors for Llama 3.1.

The tensor has a factor for each pair, by which its frequency is divided; the numbers that determine
the factors are not in the file. Shapes: P pairs.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.blocks.rotary_scaling import RotaryScaling, TurnsScaling
from qkv.checkpoints.gguf_names import FACTORS, SCALING, Contents
from qkv.checkpoints.tables.rotary import ORIGINAL_LENGTH, write_scaling
from qkv.errors import ConfigError, DataError
from qkv.json_fields import POSITIVE, shown, whole

NEAR = 1e-5  # relative: llama.cpp computes factors in float32
MANY_TURNS = 4.0  # in all published models
LENGTHS = tuple(2**i for i in range(5, 25))
THETA, BASE = "rope_theta", 10_000.0  # llama.cpp has the same default

Factors = Float[Tensor, " P"]


def read_rotary(
    file: Contents, own: dict[str, Any], raw: dict[str, Any], ignore: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Take the scaling of rotary positions out of the metadata, as a field of config.json.

    Args:
        file: the file.
        own: metadata of the architecture; that of the scaling is removed.
        raw: fields of config.json so far.
        ignore: names to ignore, such as that of the tensor of factors.

    Raises:
        ConfigError: if it is not implemented.
        DataError: if there are too few or too many factors.
    """
    names = [name for name in own if name.startswith(SCALING)]
    scaling = {name.removeprefix(SCALING): own.pop(name) for name in names}
    kind = scaling.pop("type", "none")
    if FACTORS in file.entries and FACTORS not in ignore:
        if kind != "none":
            raise ConfigError(
                f"{file.path}: rotary scaling {shown(kind)} beside the tensor {FACTORS} is not "
                "implemented; expected one of them"
            )
        return _read_factors(file, raw)
    if kind == "none":
        return {}
    fields = {"rope_type": kind, "factor": scaling.pop("factor", None)}
    if "original_context_length" in scaling:
        fields[ORIGINAL_LENGTH] = scaling.pop("original_context_length")
    if kind not in ("linear", "yarn") or any(scaling.values()):
        raise ConfigError(
            f"{file.path}: rotary scaling {shown(kind)} with {shown(scaling)} is not implemented "
            "for GGUF; expected linear or yarn, with a factor"
        )
    if kind == "linear":
        fields.pop(ORIGINAL_LENGTH, None)
    return {"rope_scaling": fields}


def _read_factors(file: Contents, raw: dict[str, Any]) -> dict[str, Any]:
    factors, base = file[FACTORS], raw.get(THETA, BASE)
    _check_number(file, raw)
    scaling = None
    if factors.ndim == 1 and factors.is_floating_point() and POSITIVE.fits(base):
        if (factors == 1).all():
            return {}
        scaling = find_turns(factors, base)
    if scaling is None:
        raise ConfigError(
            f"{file.path}: {FACTORS} has {shown(factors.flatten()[:6].tolist())} ... for the base "
            f"{shown(base)}, which no rotary scaling of type llama3 gives; other factors are not "
            "implemented"
        )
    return {"rope_scaling": write_scaling(scaling)}


def _check_number(file: Contents, raw: dict[str, Any]) -> None:
    """Check that there is one factor for each pair of a head's coordinates."""
    width, heads = raw.get("hidden_size", 0), raw.get("num_attention_heads", 0)
    if not all(whole(1).fits(one) for one in (width, heads)):
        return  # reported where the config is read
    size: int = raw.get("head_dim") or width // heads
    if file.entries[FACTORS].shape != (size // 2,):
        raise DataError(
            f"{file.path}: {FACTORS} has shape {tuple(file.entries[FACTORS].shape)}; expected "
            f"{size // 2} factors, one for each pair of the {size} coordinates of a head"
        )


def write_rotary(
    scaling: RotaryScaling | None, base: float, n_pairs: int
) -> tuple[dict[str, Any], Factors | None]:
    """Return the metadata, and the factors, of a scaling of rotary positions.

    Args:
        scaling: the scaling.
        base: base of the frequencies.
        n_pairs: number of pairs P.

    Raises:
        ConfigError: if GGUF cannot express it.
    """
    if isinstance(scaling, TurnsScaling):
        return {}, factors_of(scaling, base, n_pairs)
    fields = write_scaling(scaling)
    if fields is None:
        return {}, None
    kind = fields["rope_type"]
    if kind not in ("linear", "yarn"):
        raise ConfigError(
            f"rotary positions of type {kind} cannot be written as GGUF; expected linear, yarn or "
            "llama3"
        )
    metadata = {f"{SCALING}type": kind, f"{SCALING}factor": float(fields["factor"])}
    if kind == "yarn":
        metadata[f"{SCALING}original_context_length"] = fields[ORIGINAL_LENGTH]
    return metadata, None


def factors_of(scaling: TurnsScaling, base: float, n_pairs: int) -> Factors:
    """Return the number by which each pair's frequency is divided, in float32."""
    frequencies = _frequencies(base, n_pairs)
    return (frequencies / scaling(frequencies, base)[0]).float()


def find_turns(factors: Factors, base: float) -> TurnsScaling | None:
    """Return a scaling with these factors; None if there is none.

    Several scalings have the same factors, since length and turns can be multiplied by the same
    number; that of the published models (1 turn, 4 turns) is preferred.
    """
    factors = factors.double()
    if not torch.isfinite(factors).all() or factors.min() < 1:
        return None
    factor = factors.max().item()
    for few, many, length in _candidates(factors, base):
        if length < 1 or length > LENGTHS[-1] or not 0 < few < many:
            continue
        one = TurnsScaling(factor=factor, original_length=length, few_turns=few, many_turns=many)
        found = factors_of(one, base, len(factors)).double()
        if torch.allclose(found, factors, rtol=NEAR, atol=0):
            return one
    return None


def _candidates(factors: Factors, base: float) -> Iterator[tuple[float, float, int]]:
    """Yield few turns, many turns, and lengths that could have these factors.

    For a pair with a share s of its frequency kept, s = (turns - few) / (many - few).
    """
    factor = factors.max()
    middle = (factors > 1) & (factors < factor)
    kept = (1 / factors[middle] - 1 / factor) / (1 - 1 / factor)
    turns = _frequencies(base, len(factors))[middle] / (2 * math.pi)  # per token
    lengths = ((MANY_TURNS - 1) * kept + 1) / turns
    for length in (*lengths.tolist(), *LENGTHS):
        yield 1.0, MANY_TURNS, round(length)
    if len(kept) > 1:  # length * turns - (many - 1) * kept = 1
        system = torch.stack((turns, -kept), dim=1)
        length, more = torch.linalg.lstsq(system, torch.ones(len(kept), 1).double())[0][
            :, 0
        ].tolist()
        if math.isfinite(length) and length > 0.5:
            few = round(length) / length
            yield 1.0, round(more + 1, 3), round(length)
            yield few, few * (more + 1), round(length)


def _frequencies(base: float, n_pairs: int) -> Factors:
    return float(base) ** -(torch.arange(n_pairs, dtype=torch.float64) / n_pairs)
