"""Rotary positions as config.json says them, in older and in newer words."""

from collections.abc import Callable, Mapping
from typing import Any

from qkv.blocks.rotary_scaling import LinearScaling, RotaryScaling, TurnsScaling, YaRNScaling
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError
from qkv.json_fields import FLAG, POSITIVE, Kind, check_kinds, shown, whole

Raw = dict[str, Any]

ORIGINAL_LENGTH = "original_max_position_embeddings"

# What each kind of scaling says beside its name: our name for it, and how it is read.
SCALINGS: Mapping[str, tuple[Callable[..., RotaryScaling], Mapping[str, tuple[str, type]]]] = {
    "linear": (LinearScaling, {"factor": ("factor", float)}),
    "llama3": (
        TurnsScaling,
        {
            "factor": ("factor", float),
            ORIGINAL_LENGTH: ("original_length", int),
            "low_freq_factor": ("few_turns", float),
            "high_freq_factor": ("many_turns", float),
        },
    ),
    "yarn": (
        YaRNScaling,
        {
            "factor": ("factor", float),
            ORIGINAL_LENGTH: ("original_length", int),
            "beta_slow": ("few_turns", float),
            "beta_fast": ("many_turns", float),
            "truncate": ("whole_pairs", bool),
            "attention_factor": ("magnitude", float),
        },
    ),
}


KINDS: Mapping[type, Kind] = {float: POSITIVE, int: whole(1), bool: FLAG}


def read_scaling(said: Raw) -> RotaryScaling | None:
    """Turn a normalized `rope_scaling` into ours.

    Kinds whose angles change with the length of the input (dynamic, longrope) are not implemented:
    the keys of earlier steps, which a cache holds, would have been turned by other angles.

    Raises:
        ConfigError: on a kind, a name or a number that is not implemented.
    """
    kind, given = said["rope_type"], {**said}
    del given["rope_type"]
    make, known = SCALINGS.get(kind, (None, {})) if isinstance(kind, str) else (None, {})
    if make is None and kind != "default":
        raise ConfigError(
            f"rotary positions of type {shown(kind)} are not implemented; expected default, "
            f"{', '.join(SCALINGS)}"
        )
    if unknown := sorted(given.keys() - known.keys()):
        raise ConfigError(
            f"{listed(unknown)} of rotary positions of type {kind!r}: not implemented; expected "
            f"{listed(list(known)) or 'nothing'}"
        )
    if make is None:
        return None
    where = f"rotary positions of type {kind!r}"
    check_kinds(given, {name: KINDS[known[name][1]] for name in given}, where=where)
    numbers = {known[name][0]: known[name][1](value) for name, value in given.items()}
    try:
        return make(**numbers)
    except TypeError as error:  # one is missing
        raise ConfigError(f"{where} with {given}: {error}") from error


def write_scaling(scaling: RotaryScaling | None) -> Raw | None:
    """Turn ours into `rope_scaling`."""
    for kind, (make, known) in SCALINGS.items():
        if make is type(scaling):
            said = {theirs: getattr(scaling, ours) for theirs, (ours, _) in known.items()}
            return {"rope_type": kind} | {k: v for k, v in said.items() if v is not None}
    return None


def normalize_rotary(raw: Raw) -> Raw:
    """Say rotary positions in one way: old files have two fields for them, new ones one.

    Raises:
        ConfigError: if they are no object.
    """
    newer = raw.pop("rope_parameters", None)
    said = raw.get("rope_scaling") or newer or {}
    if not isinstance(said, dict):
        raise ConfigError(f"rope_scaling = {shown(said)}; expected an object with a rope_type")
    older_kind, base = said.get("type", "default"), raw.get("rope_theta", 10_000.0)
    raw["rope_theta"] = said.get("rope_theta", base)
    said = {
        name: value
        for name, value in said.items()
        if name not in ("type", "rope_theta") and value is not None
    }
    said.setdefault("rope_type", older_kind)
    kind = said["rope_type"]
    if isinstance(kind, str) and ORIGINAL_LENGTH in SCALINGS.get(kind, (None, {}))[1]:
        said.setdefault(ORIGINAL_LENGTH, raw.get("max_position_embeddings"))
    raw["rope_scaling"] = said
    return raw
