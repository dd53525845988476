"""Rotary positions in config.json, in the older and newer formats."""

from collections.abc import Callable, Mapping
from typing import Any

from qkv.blocks.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    LongRopeScaling,
    RotaryScaling,
    TurnsScaling,
    YaRNScaling,
)
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError
from qkv.json_fields import FLAG, POSITIVE, Kind, check_kinds, list_of, shown, whole

Raw = dict[str, Any]
Read = Callable[..., Any]

ORIGINAL_LENGTH = "original_max_position_embeddings"


def _numbers(values: list[int | float]) -> tuple[float, ...]:
    return tuple(map(float, values))


# Fields of each kind of scaling: our name and the conversion.
SCALINGS: Mapping[
    str, tuple[Callable[..., RotaryScaling], Mapping[str, tuple[str, Callable[..., Any]]]]
] = {
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
            "mscale": ("mscale", float),
            "mscale_all_dim": ("mscale_all_dim", float),
        },
    ),
    "dynamic": (
        DynamicScaling,
        {"factor": ("factor", float), ORIGINAL_LENGTH: ("original_length", int)},
    ),
    "longrope": (
        LongRopeScaling,
        {
            "short_factor": ("short", _numbers),
            "long_factor": ("long", _numbers),
            ORIGINAL_LENGTH: ("original_length", int),
            "factor": ("factor", float),
            "attention_factor": ("magnitude", float),
        },
    ),
}
# Zero means unset in transformers.
UNSET_BY_ZERO = ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")


KINDS: Mapping[Read, Kind] = {
    float: POSITIVE,
    int: whole(1),
    bool: FLAG,
    _numbers: list_of(POSITIVE),
}


def read_scaling(fields: Raw) -> RotaryScaling | None:
    """Convert a normalized `rope_scaling` to ours.

    Raises:
        ConfigError: if a kind, a name or a number is not supported.
    """
    kind, options = fields["rope_type"], {**fields}
    del options["rope_type"]
    make, known = SCALINGS.get(kind, (None, {})) if isinstance(kind, str) else (None, {})
    if make is None and kind != "default":
        raise ConfigError(
            f"rotary positions of type {shown(kind)} are not implemented; expected default, "
            f"{', '.join(SCALINGS)}"
        )
    if unknown := sorted(options.keys() - known.keys()):
        raise ConfigError(
            f"{listed(unknown)} is not implemented for rotary positions of type {kind!r}; expected "
            f"{listed(list(known)) or 'nothing'}"
        )
    if make is None:
        return None
    where = f"rotary positions of type {kind!r}"
    check_kinds(options, {name: KINDS[known[name][1]] for name in options}, where=where)
    numbers = {known[name][0]: known[name][1](value) for name, value in options.items()}
    try:
        return make(**numbers)
    except TypeError as error:  # a field is missing
        raise ConfigError(f"{where} with {options}: {error}") from error


def write_scaling(scaling: RotaryScaling | None) -> Raw | None:
    """Convert ours to `rope_scaling`."""
    for kind, (make, known) in SCALINGS.items():
        if make is type(scaling):
            fields = {theirs: getattr(scaling, ours) for theirs, (ours, _) in known.items()}
            if kind == "dynamic":
                del fields[ORIGINAL_LENGTH]  # max_position_embeddings
            fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
            return {"rope_type": kind} | {k: v for k, v in fields.items() if v is not None}
    return None


def normalize_rotary(raw: Raw) -> Raw:
    """Normalize rotary positions: old files have several fields for them, new files one.

    Raises:
        ConfigError: if they are not an object.
    """
    newer = raw.pop("rope_parameters", None)
    fields = raw.get("rope_scaling") or newer or {}
    if not isinstance(fields, dict):
        raise ConfigError(f"rope_scaling = {shown(fields)}; expected an object with a rope_type")
    older_kind, base = fields.get("type", "default"), raw.get("rope_theta", 10_000.0)
    raw["rope_theta"] = fields.get("rope_theta", base)
    if fields.get("partial_rotary_factor") is not None:
        raw["partial_rotary_factor"] = fields["partial_rotary_factor"]
    fields = {
        name: value
        for name, value in fields.items()
        if name not in ("type", "rope_theta", "partial_rotary_factor")
        and value is not None
        and not (name in UNSET_BY_ZERO and value == 0)
    }
    fields.setdefault("rope_type", older_kind)
    _set_lengths(raw, fields)
    raw["rope_scaling"] = fields
    return raw


def _set_lengths(raw: Raw, fields: Raw) -> None:
    """Set the length of training, and the ratio of the longest text to it."""
    original, longest = raw.pop(ORIGINAL_LENGTH, None), raw.get("max_position_embeddings")
    kind = fields["rope_type"]
    if not isinstance(kind, str) or ORIGINAL_LENGTH not in SCALINGS.get(kind, (None, {}))[1]:
        return
    if kind == "dynamic":
        fields[ORIGINAL_LENGTH] = longest
    elif original is not None:
        fields[ORIGINAL_LENGTH] = original
    else:
        fields.setdefault(ORIGINAL_LENGTH, longest)
    original = fields[ORIGINAL_LENGTH]
    lengths = whole(1)
    if kind in ("yarn", "longrope") and lengths.fits(original) and lengths.fits(longest):
        fields.setdefault("factor", longest / original)
