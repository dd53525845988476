"""adapter_config.json of PEFT's LoRA: what is read, what is refused, what is written."""

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
# Fields of which these values are implemented. How A and B started matters only where the weights
# beside them were changed for it, as PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ do.
ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", "all", "lora_only"),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica"),
}
WAY_OUT = {
    "init_lora_weights": " (others change the base model's weights as well: PEFT's save_pretrained "
    "writes a plain LoRA if it is given path_initial_model_for_weight_conversion)"
}
# No number depends on these; whether a weight is stored as (in, out) is known without the file, and
# the rest says how an init that is named above was computed.
HARMLESS = frozenset(
    (
        *("base_model_name_or_path", "fan_in_fan_out", "inference_mode", "megatron_core"),
        *("corda_config", "eva_config", "loftq_config", "lora_ga_config"),
        *("peft_version", "qalora_group_size", "revision", "task_type"),
    )
)


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What adapter_config.json says of a LoRA, by the names of the modules in transformers.

    Args:
        rank: r, where no pattern says another.
        alpha: where no pattern says another.
        dropout: before A.
        rank_stabilized: whether alpha is divided by sqrt(r) and not by r.
        dora: whether the length of each row is stored as well.
        bias: which biases are stored: "none", "all", or "lora_only" for those of the layers.
        target_modules: ends of the names of the layers, or a regular expression for whole names.
        layers: the numbers of those that have A and B, where not all have; for ends of names.
        layers_pattern: what stands before that number, such as "layers"; anything where empty.
        exclude_modules: of those, which are none.
        modules_to_save: ends of the names of modules that are stored whole.
        rank_pattern: ranks by regular expressions for ends of names.
        alpha_pattern: alphas by the same.
        base: what the file says of the model below it.

    Raises:
        ConfigError: if a regular expression is none, or a number is out of its range.
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
        """Check what would fail later, at a name."""
        single = [one for one in (self.target_modules, self.exclude_modules) if type(one) is str]
        patterns = (*self.modules_to_save, *self.rank_pattern, *self.alpha_pattern)
        for pattern in (*single, *patterns, *self.layers_pattern):
            compile_pattern(pattern)
        if isinstance(self.target_modules, str) and self.layers:
            raise ConfigError(
                f"layers_to_transform = {list(self.layers)} beside target_modules = "
                f"{self.target_modules!r}; expected a list of names, as a regular expression says "
                "the layers itself"
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
        """Tell whether a layer has A and B."""
        return (
            _named(self.target_modules, module)
            and self._in_layers(module)
            and not _named(self.exclude_modules, module)
            and not any(_matches(rf"(^|.*\.){one}($|\..*)", module) for one in self.modules_to_save)
        )

    def _in_layers(self, module: str) -> bool:
        """Tell whether a layer has one of the numbers that are named; a whole name needs none."""
        if not self.layers or isinstance(self.target_modules, str) or module in self.target_modules:
            return True
        # As in PEFT: the first number of the name counts, and of several patterns the first match.
        patterns = [rf"(?:^|.*?\.){one}\.\d+\." for one in self.layers_pattern]
        parts = module.split(".")
        places = [i for i in range(len(parts) - 1) if parts[i].isdecimal()]
        found = (
            int(parts[i])
            for pattern in patterns or [r".*?\.[^.]*\.\d+\."]
            for i in places
            if _matches(pattern, ".".join(parts[: i + 1]) + ".")
        )
        return next(found, None) in self.layers

    def saves(self, parameter: str) -> bool:
        """Tell whether a parameter is stored, as one of a module that is stored whole."""
        module, _, part = parameter.rpartition(".")
        biases = {"none": False, "all": True, "lora_only": self.targets(module)}
        return saves(self.modules_to_save, parameter) or (part == "bias" and biases[self.bias])


def saves(modules: tuple[str, ...], parameter: str) -> bool:
    """Tell whether a parameter is in one of these modules; PEFT compares ends of names."""
    parts = parameter.split(".")
    around = (".".join(parts[:i]) for i in range(1, len(parts)))
    return any(one.endswith(modules) for one in around)


def read_adapter_config(path: Path) -> AdapterConfig:
    """Read adapter_config.json.

    Raises:
        DataError: if it cannot be read, or a field is missing.
        ConfigError: naming a field that has another type, or is switched on and not implemented.
    """
    raw = read_json(path)
    if raw.get("peft_type", "LORA") not in ("LORA", None):
        raise ConfigError(
            f"{path}: this adapter is not LoRA but {shown(raw['peft_type'])} (its peft_type), "
            "which is not implemented"
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


def write_adapter_config(config: AdapterConfig, **said: Any) -> dict[str, Any]:
    """Turn a config into the fields of the file; `said` are those on which no number depends."""
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
    return dict(sorted({**fields, **said}.items()))


def _check(what: str, name: str, value: Any) -> None:
    """Check one field; of those that PEFT may add, what is off changes no number."""
    if name in ONLY and value not in ONLY[name]:
        raise ConfigError(
            f"{what} is not implemented; expected {' or '.join(map(repr, ONLY[name]))}"
            f"{WAY_OUT.get(name, '')}"
        )
    if name not in KINDS and name not in ONLY and name not in HARMLESS and value:
        raise ConfigError(
            f"{what} is not implemented, and the numbers would differ from those of PEFT; "
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
    """Return a whole number as PEFT writes it, without its point."""
    return int(number) if float(number).is_integer() else number
