"""Descriptions of model families: config fields, architectures and their name tables."""

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

# Rejected in every family unless set to their neutral value.
ONLY: dict[str, Any] = {"pruned_heads": {}}


@dataclass(frozen=True)
class Field:
    """A field of config.json and the corresponding field of our config.

    Args:
        theirs: name in config.json.
        ours: name in our config.
        default: value if it is absent; without a default, the field is required.
        values: our value by theirs, if the spelling differs; other values are rejected.
        decode: function from their value to ours.
        encode: inverse of decode.
        kind: accepted values; None infers it from the default, with integers as sizes >= 1.
    """

    theirs: str
    ours: str
    default: Any = REQUIRED
    values: Mapping[Any, Any] | None = None
    decode: Callable[[Any], Any] = lambda value: value
    encode: Callable[[Any], Any] = lambda value: value
    kind: Kind | None = None

    def expected(self) -> Kind | None:
        """Return the accepted values; None if `values` or `decode` determine them."""
        if self.kind is not None or self.values is not None:
            return self.kind
        return next((kind for type_, kind in OF_TYPE.items() if type(self.default) is type_), None)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model class of a family, with its name in config.json and its name table.

    Args:
        name: name in the `architectures` of config.json.
        model: class that `build` returns.
        build: builds it from our config and a number of classes, which most ignore.
        rows: name table; names of the base model begin with the family's prefix.
        changes: config changes that config.json does not contain (a model without its pooler).
        base: whether this is the base model, whose files have no prefix.
        prefix: prefix of base-model names, if it differs from the family's.
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
    """The description of a `model_type` for loading and saving.

    Args:
        model_type: name in config.json.
        config: class of our config.
        fields: supported fields of config.json.
        only: fields with a single supported value; other values are rejected by name.
        harmless: further fields without effect on outputs.
        architectures: the first is built if config.json names none.
        prefix: prefix of base-model names in the file of a model with a head.
        spellings: old parts of tensor names and their replacements.
        normalize: converts an older or newer config.json to the form of `fields`.
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
        """Return the architecture with this name; None means the first.

        Raises:
            ConfigError: if the family has none with this name.
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
        """Convert config.json to our config.

        Raises:
            ConfigError: if a field or a value is not supported.
            DataError: if a required field is missing.
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
            described = [f"{name} = {shown(raw[name], 60)}" for name in unknown]
            raise ConfigError(
                f"{listed(described)}: unknown for {self.model_type}, so outputs could differ "
                f"from the original model's; load(..., ignore={unknown[:4]}) ignores "
                "fields that you know to be harmless"
            )
        ours = {one.ours: self._decode(one, raw) for one in self.fields}
        return self.config(**{**ours, **architecture.changes})

    def write_config(self, config: Any) -> dict[str, Any]:
        """Convert our config to the fields of config.json.

        Raises:
            ConfigError: if a value cannot be expressed there.
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
        """Check the present fields before they are used; null means absent."""
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
                    f"{name} = {raw[name]}, but vocab_size = {rows}; expected an id below it (was "
                    "a token added without a row of the embedding?)"
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
        """Check that a value of any type is one of the supported names."""
        if not isinstance(value, str | int) or value not in (one.values or ()):
            raise ConfigError(
                f"{one.theirs} = {shown(value)} is not implemented for {self.model_type}; expected "
                f"one of {', '.join(map(repr, one.values or ()))}"
            )
