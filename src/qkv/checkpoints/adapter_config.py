"""Reading and writing adapter_config.json of PEFT's LoRA."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkv.checkpoints.patterns import compile_pattern
from qkv.checkpoints.table import listed
from qkv.errors import ConfigError, DataError
from qkv.json_fields import (
    FLAG,
    NULL,
    NUMBER,
    POSITIVE,
    TEXT,
    Kind,
    check_kinds,
    list_of,
    named,
    object_of,
    read_json,
    shown,
    whole,
)
from qkv.models.lora import LoRAConfig

REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")
RANK, LAYER, NAMES = whole(1, 2**20), whole(0, 2**20), list_of(TEXT)
KINDS: dict[str, Kind] = {
    "r": RANK,
    "lora_alpha": POSITIVE,
    "lora_dropout": NUMBER,
    "use_rslora": FLAG,
    "use_dora": FLAG,
    "rank_pattern": object_of(RANK) | NULL,
    "alpha_pattern": object_of(POSITIVE) | NULL,
    "target_modules": NAMES | TEXT,
    "exclude_modules": NAMES | TEXT | NULL,
    "modules_to_save": NAMES | NULL,
    "layers_to_transform": list_of(LAYER) | LAYER | NULL,
    "layers_pattern": NAMES | TEXT | NULL,
    "auto_mapping": object_of(TEXT | NULL) | NULL,
    "base_model_name_or_path": TEXT | NULL,
}
# Fields with the values that are implemented. The initialization of A and B matters only if it also
# changed the base weights, as in PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ.
ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
}
WAY_OUT = {
    "init_lora_weights": " (others change the base model's weights as well: PEFT's save_pretrained "
    "writes a plain LoRA with path_initial_model_for_weight_conversion)"
}
# These have no effect on outputs: whether a weight is stored as (in, out) is known without the
# file, and the others are options of the initializations above.
HARMLESS = frozenset(
    (
        *("base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
        *("peft_version", "qalora_group_size", "revision", "task_type"),
    )
)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The content of adapter_config.json, with the module names of transformers.

    Args:
        rank: r, unless a pattern sets another.
        alpha: alpha, unless a pattern sets another.
        dropout: dropout before A.
        rank_stabilized: whether alpha is divided by sqrt(r) instead of r.
        dora: whether row norms are stored as well.
        bias: which biases are stored: "none", "all", or "lora_only" for layers with LoRA.
        target_modules: suffixes of layer names, or a regular expression for full names.
        layers: indices of the layers with A and B, if not all; only with suffixes.
        layers_pattern: names before that index, such as "layers"; empty means any.
        exclude_modules: layers to exclude, as in target_modules.
        modules_to_save: suffixes of the names of fully stored modules.
        rank_pattern: rank by regular expression for suffixes of names.
        alpha_pattern: alpha by regular expression for suffixes of names.
        base: base model named by the file.

    Raises:
        ConfigError: if a regular expression is invalid, or a number is out of range.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    rank_stabilized: bool = False
    dora: bool = False
    bias: str = "none"
    target_modules: tuple[str, ...] | str
    layers: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    exclude_modules: tuple[str, ...] | str = ()
    modules_to_save: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    base: str = ""

    def __post_init__(self) -> None:
        """Check values that would fail only later."""
        single = [one for one in (self.target_modules, self.exclude_modules) if type(one) is str]
        patterns = (*self.modules_to_save, *self.rank_pattern, *self.alpha_pattern)
        for pattern in (*single, *patterns, *self.layers_pattern):
            compile_pattern(pattern)
        if isinstance(self.target_modules, str) and self.layers:
            raise ConfigError(
                f"layers_to_transform = {list(self.layers)} with target_modules = "
                f"{self.target_modules!r}; expected a list of names, as a regular expression "
                "already selects layers"
            )
        for rank in (self.rank, *self.rank_pattern.values()):
            for alpha in (self.alpha, *self.alpha_pattern.values()):
                LoRAConfig(rank=rank, alpha=alpha, dropout=self.dropout)

    def lora(self, module: str) -> LoRAConfig:
        """Return the configuration of one layer."""
        return LoRAConfig(
            rank=_by_pattern(self.rank_pattern, module, self.rank),
            alpha=_by_pattern(self.alpha_pattern, module, self.alpha),
            dropout=self.dropout,
            rank_stabilized=self.rank_stabilized,
            dora=self.dora,
        )

    def targets(self, module: str) -> bool:
        """Return whether a layer has A and B."""
        return (
            _named(self.target_modules, module)
            and self._in_layers(module)
            and not _named(self.exclude_modules, module)
            and not any(_matches(rf"(^|.*\.){one}($|\..*)", module) for one in self.modules_to_save)
        )

    def _in_layers(self, module: str) -> bool:
        """Return whether a layer has one of the selected indices; full names need none."""
        if not self.layers or isinstance(self.target_modules, str) or module in self.target_modules:
            return True
        # As in PEFT, the first index in the name counts, and the first pattern that matches.
        patterns = [rf"(?:^|.*?\.){one}\.\d+\." for one in self.layers_pattern]
        parts = module.split(".")
        places = [i for i in range(len(parts) - 1) if parts[i].isdecimal()]
        indices = (
            int(parts[i])
            for pattern in patterns or [r".*?\.[^.]*\.\d+\."]
            for i in places
            if _matches(pattern, ".".join(parts[: i + 1]) + ".")
        )
        return next(indices, None) in self.layers

    def saves(self, parameter: str) -> bool:
        """Return whether a parameter belongs to a fully stored module."""
        module, _, part = parameter.rpartition(".")
        biases = {"none": False, "all": True, "lora_only": self.targets(module)}
        return saves(self.modules_to_save, parameter) or (part == "bias" and biases[self.bias])


def saves(modules: tuple[str, ...], parameter: str) -> bool:
    """Return whether a parameter is in one of these modules; PEFT compares suffixes."""
    parts = parameter.split(".")
    around = (".".join(parts[:i]) for i in range(1, len(parts)))
    return any(one.endswith(modules) for one in around)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read adapter_config.json.

    Raises:
        DataError: if it cannot be read, or a field is missing.
        ConfigError: naming a field with a wrong type or an unsupported value.
    """
    raw = read_json(path)
    if raw.get("peft_type", "LORA") not in ("LORA", None):
        raise ConfigError(
            f"{path}: peft_type = {shown(raw['peft_type'])}; expected LORA, as no other type "
            "is implemented"
        )
    if missing := [name for name in REQUIRED if raw.get(name) is None]:
        raise DataError(f"{path} lacks {listed(missing)}; is it an adapter_config.json of PEFT?")
    check_kinds(raw, KINDS, where=str(path))
    for name, value in raw.items():
        _check(f"{path}: {named(name)} = {shown(value)}", name, value)
    mapping = raw.get("auto_mapping") or {}
    try:
        return AdapterConfig(
            rank=raw["r"],
            alpha=float(raw["lora_alpha"]),
            dropout=float(raw.get("lora_dropout", 0.0)),
            rank_stabilized=raw.get("use_rslora", False),
            dora=raw.get("use_dora", False),
            bias=raw.get("bias", "none"),
            layers=_numbers(raw.get("layers_to_transform")),
            layers_pattern=_several(raw.get("layers_pattern")),
            target_modules=_either(raw["target_modules"]),
            exclude_modules=_either(raw.get("exclude_modules")),
            modules_to_save=tuple(raw.get("modules_to_save") or ()),
            rank_pattern=raw.get("rank_pattern") or {},
            alpha_pattern={k: float(v) for k, v in (raw.get("alpha_pattern") or {}).items()},
            base=mapping.get("base_model_class") or raw.get("base_model_name_or_path") or "",
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def write_adapter_config(config: AdapterConfig, **extra: Any) -> dict[str, Any]:
    """Convert a config to the fields of the file; `extra` are fields without effect on outputs."""
    fields = {
        "alpha_pattern": {name: _short(alpha) for name, alpha in config.alpha_pattern.items()},
        "bias": config.bias,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _short(config.alpha),
        "lora_dropout": config.dropout,
        "modules_to_save": list(config.modules_to_save) or None,
        "peft_type": "LORA",
        "r": config.rank,
        "rank_pattern": dict(config.rank_pattern),
        "target_modules": list(config.target_modules),
        "task_type": None,
        "use_dora": config.dora,
        "use_rslora": config.rank_stabilized,
    }
    return dict(sorted({**fields, **extra}.items()))


def _check(what: str, name: str, value: Any) -> None:
    """Check one field; unknown fields that are off have no effect on outputs."""
    if name in ONLY and value not in ONLY[name]:
        raise ConfigError(
            f"{what} is not implemented; expected {' or '.join(map(repr, ONLY[name]))}"
            f"{WAY_OUT.get(name, '')}"
        )
    if name not in KINDS and name not in ONLY and name not in HARMLESS and value:
        raise ConfigError(
            f"{what} is not implemented, and outputs would differ from PEFT's; "
            "expected it to be off"
        )


def _named(spec: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(spec, str):
        return _matches(spec, module)
    return any(module == one or module.endswith(f".{one}") for one in spec)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    for pattern, value in patterns.items():
        if _matches(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _matches(pattern: str, module: str) -> bool:
    return compile_pattern(pattern).fullmatch(module)


def _either(value: list[str] | str | None) -> tuple[str, ...] | str:
    return value if isinstance(value, str) else tuple(value or ())


def _several(value: list[str] | str | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) and value else tuple(value or ())


def _numbers(value: list[int] | int | None) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value or ())


def _short(number: float) -> float | int:
    """Convert a whole number to an integer, as PEFT writes it."""
    return int(number) if float(number).is_integer() else number
