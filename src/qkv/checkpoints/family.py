"""What a family is to a checkpoint: its config's fields, its architectures and their tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from qkv.checkpoints.harmless import PADDED, TOKENS, is_harmless, kinds_of
from qkv.checkpoints.table import Row, listed
from qkv.errors import ConfigError, DataError
from qkv.json_fields import FLAG, NULL, NUMBER, TEXT, Kind, check_kinds, shown, whole

REQUIRED = object()

SIZE = whole(1, 2**28)
OF_TYPE: dict[type, Kind] = {bool: FLAG, int: SIZE, float: NUMBER, str: TEXT}

# Refused in every family, unless they say that nothing is special.
ONLY: dict[str, Any] = {"pruned_heads": {}}


@dataclass(frozen=True)
class Field:
    """A field of config.json and the field of our config that it becomes.

    Args:
        theirs: its name in config.json.
        ours: its name in our config.
        default: what its absence means; without one the file must say it.
        values: theirs to ours where the spelling differs; others are refused.
        decode: theirs to ours where that is a computation.
        encode: the way back.
        kind: what it may be; by its default where None: whole numbers are sizes, of at least 1.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    values: Mapping[Any, Any] | None = None
    decode: Callable[[Any], Any] = lambda value: value
    encode: Callable[[Any], Any] = lambda value: value
    kind: Kind | None = None

    def expected(self) -> Kind | None:
        """Return what the field may be; None where only `values` or `decode` know."""
        if self.kind is not None or self.values is not None:
            return self.kind
        return next((kind for type_, kind in OF_TYPE.items() if type(self.default) is type_), None)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One model of a family: what config.json calls it, how it is built, and its table.

    Args:
        name: in the `architectures` of config.json.
        model: the class that `build` returns.
        build: makes it of our config and a number of classes, which most have no use for.
        rows: its table; names of the base model begin with the family's prefix.
        changes: to the config, where config.json does not say them (a model without its pooler).
        base: whether this is the base model, whose own files have no prefix.
        prefix: before the names of the base model, where it is another than the family's.
    """

    name: str
    model: type[nn.Module]
    build: Callable[[Any, int], nn.Module]
    rows: Callable[[Any], Sequence[Row]]
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: bool = False
    prefix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """All that loading and saving ask about a `model_type`.

    Args:
        model_type: in config.json.
        config: our config's class.
        fields: of config.json.
        only: fields of which one value is implemented; others are refused by name.
        harmless: further fields on which no number depends.
        architectures: the first is built where config.json names none.
        prefix: before the names of the base model in the file of a model with a head.
        spellings: old pieces of tensor names and the table's.
        normalize: brings an older or newer config.json into the form of `fields`.
    """

    model_type: str
    config: type
    fields: Sequence[Field]
    only: Mapping[str, Any] = field(default_factory=dict)
    harmless: frozenset[str] = frozenset()
    architectures: Sequence[Architecture]
    prefix: str = ""
    spellings: Sequence[tuple[str, str]] = ()
    normalize: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def architecture(self, name: str | None) -> Architecture:
        """Return the architecture of this name; the first where None is given.

        Raises:
            ConfigError: if the family has none of this name.
        """
        if name is None:
            return self.architectures[0]
        for one in self.architectures:
            if one.name == name:
                return one
        raise ConfigError(
            f"architecture {shown(name)} of {self.model_type} is not implemented; expected one of "
            f"{', '.join(one.name for one in self.architectures)}"
        )

    def read_config(self, raw: Mapping[str, Any], architecture: Architecture) -> Any:
        """Turn config.json into our config.

        Raises:
            ConfigError: on a field or a value that is not implemented.
            DataError: if a field is missing that has no default.
        """
        self._check_kinds(raw)
        raw = self.normalize(dict(raw))
        only = {**ONLY, **self.only}
        for name, value in only.items():
            if raw.get(name, value) != value:
                raise ConfigError(
                    f"{name} = {shown(raw[name])} is not implemented for {self.model_type}; "
                    f"expected {value!r}"
                )
        known = self.harmless | only.keys() | {one.theirs for one in self.fields}
        unknown = sorted(
            name for name in raw.keys() - known if not is_harmless(name, raw[name], self.model_type)
        )
        if unknown:
            said = [f"{name} = {shown(raw[name], 60)}" for name in unknown]
            raise ConfigError(
                f"{listed(said)}: not known for {self.model_type}, so the numbers could differ "
                f"from those of the model's authors; load(..., ignore={unknown[:4]}) passes over "
                "what you know to be harmless"
            )
        ours = {one.ours: self._decode(one, raw) for one in self.fields}
        return self.config(**{**ours, **architecture.changes})

    def write_config(self, config: Any) -> dict[str, Any]:
        """Turn our config into the fields of config.json.

        Raises:
            ConfigError: on a value that has no name there.
        """
        raw = {"model_type": self.model_type, **self.only}
        for one in self.fields:
            value = getattr(config, one.ours)
            if one.values is not None:
                names = [theirs for theirs, ours in one.values.items() if ours == value]
                if not names:
                    raise ConfigError(
                        f"{one.ours} = {shown(value)} has no name in config.json of "
                        f"{self.model_type}"
                    )
                value = names[0]
            raw[one.theirs] = one.encode(value)
        return raw

    def _check_kinds(self, raw: Mapping[str, Any]) -> None:
        """Check what is there before anything computes with it; null is what is left out."""
        kinds = {one.theirs: kind for one in self.fields if (kind := one.expected()) is not None}
        check_kinds(raw, {name: kind | NULL for name, kind in kinds.items()})
        for one in self.fields:
            if one.values is not None and one.theirs in raw:
                self._check_name(one, raw[one.theirs])
        check_kinds(raw, {name: kind for name, kind in kinds_of(raw).items() if name not in kinds})
        used = {"pad_token_id"} if self.model_type in PADDED else set()
        used |= {one.theirs for one in self.fields if one.theirs.endswith(TOKENS)}
        for name in used & raw.keys() if type(rows := raw.get("vocab_size")) is int else ():
            if type(raw[name]) is int and raw[name] >= rows:
                raise ConfigError(
                    f"{name} = {raw[name]}, but vocab_size = {rows}; expected one of its ids: was "
                    "a token added, but no row of the embedding?"
                )

    def _decode(self, one: Field, raw: Mapping[str, Any]) -> Any:
        value, kind = raw.get(one.theirs, one.default), one.expected()
        if value is REQUIRED:
            raise DataError(f"{one.theirs} is missing; {self.model_type} has no default for it")
        if one.values is None:
            if kind is not None and value is not one.default and not kind.fits(value):
                raise ConfigError(f"{one.theirs} = {shown(value)}; expected {kind.what}")
            return one.decode(float(value) if isinstance(one.default, float) else value)
        self._check_name(one, value)
        return one.values[value]

    def _check_name(self, one: Field, value: Any) -> None:
        """Check that a value has a name of ours: any value, also what no name can be."""
        if not isinstance(value, str | int) or value not in (one.values or ()):
            raise ConfigError(
                f"{one.theirs} = {shown(value)} is not implemented for {self.model_type}; expected "
                f"one of {', '.join(map(repr, one.values or ()))}"
            )
