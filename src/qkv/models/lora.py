r"""LoRA: a small update beside a frozen linear layer (Hu et al. 2021, arXiv 2106.09685).

x ---- W0 ----- + -- h      W0 (D_out x D_in) stays as it is
 \-- A --- B --/            A (r x D_in) and B (D_out x r) are trained
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.attention.linear import linear
from qkv.blocks.dropout import dropout as drop
from qkv.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Which layers get an update, of which rank, and what trains besides.

    Args:
        pattern: a regular expression, searched in the names of linear layers; the default is what
            the paper adapts (section 4.2), in every attention of the model.
        rank: r.
        alpha: the update is scaled by alpha / r, so that another r needs no other learning rate.
        dropout: share of the update's input that is dropped in training.
        rank_stabilized: scale by alpha / sqrt(r) (Kalajdzievski 2023, arXiv 2312.03732).
        train: modules that train whole, such as "classifier"; their layers get no update.

    Raises:
        ConfigError: if a number is out of its range, or the pattern is no regular expression.
    """

    pattern: str = r"attention\.(query|value)$"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rank_stabilized: bool = False
    train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.rank < 1:
            raise ConfigError(f"rank = {self.rank} of LoRA; expected at least 1")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise ConfigError(f"alpha = {self.alpha} of LoRA; expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout} of LoRA; expected 0 <= dropout < 1")
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(
                f"pattern = {self.pattern!r} is no regular expression ({error}); expected one "
                "such as 'query|value', searched in names: no stars are needed around it"
            ) from error


class LoRALinear(nn.Module):
    """h = W0 x + b + (alpha / r) B A x, of which A and B are trained (Hu et al. 2021, eq. 3).

    A starts as in the paper's code, uniform within 1 / sqrt(D_in), and B at 0: before training the
    layer puts out what it did, to the bit.

    Args:
        base: the layer with W0 and b, which are frozen here.
        config: rank, alpha and dropout; its pattern was searched already.
    """

    def __init__(self, base: nn.Linear, config: LoRAConfig):
        super().__init__()
        self.rank, self.alpha, self.dropout = config.rank, config.alpha, config.dropout
        self.rank_stabilized = config.rank_stabilized
        self.scale = self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_empty(self.rank, base.in_features))
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, self.rank))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.train(base.training)

    def forward(self, x: Float[Tensor, "... D_in"]) -> Float[Tensor, "... D_out"]:
        """Project by W0, and by the update through its r numbers a place."""
        h = self.base(x)
        if self.training and self.dropout:
            x = drop(x, self.dropout)
        return h + linear(linear(x, self.A) * self.scale, self.B)

    @property
    def weight(self) -> Float[Tensor, "D_out D_in"]:
        """W0 + (alpha / r) B A, for code that reads the matrix of a layer and does not call it.

        Raises:
            ConfigError: in training with dropout, which no matrix does.
        """
        if self.training and self.dropout:
            raise ConfigError(
                f"a matrix was asked for whose update has dropout = {self.dropout}: only calling "
                "the layer can drop; expected dropout = 0 for this layer"
            )
        return self.base.weight + (self.scale * self.B) @ self.A

    @property
    def bias(self) -> Float[Tensor, " D_out"] | None:
        """The bias of the layer, which no update changes."""
        return self.base.bias

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Add the update to W0, in float32 at least, and return the layer without it."""
        weight, wide = self.base.weight, torch.promote_types(self.A.dtype, torch.float32)
        weight.copy_(weight.to(wide) + (self.scale * self.B.to(wide)) @ self.A.to(wide))
        return self.base

    def extra_repr(self) -> str:
        """Say what no parameter shows."""
        return f"rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}"


def add_lora(model: nn.Module, config: LoRAConfig) -> list[str]:
    """Put LoRA beside the linear layers that a pattern finds, and freeze the rest.

    Args:
        model: changed in place; what it puts out stays as it is.
        config: the pattern, the rank, and the modules that train besides.

    Returns:
        The names of the layers.

    Raises:
        ConfigError: if the pattern finds no linear layer, or for what `attach_lora` refuses.
    """
    layers = _linear_layers(model)
    whole = _parameters_of(model, config.train)
    names = [
        name
        for name, layer in {**layers, **lora_layers(model)}.items()
        if re.search(config.pattern, name) and whole.isdisjoint(map(id, layer.parameters()))
    ]
    if not names:
        kinds = dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in layers)
        raise ConfigError(
            f"no linear layer that is frozen has {config.pattern!r} in its name; this "
            f"{type(model).__name__} has: {', '.join(kinds) or 'none'}"
        )
    attach_lora(model, dict.fromkeys(names, config), config.train)
    return names


def attach_lora(
    model: nn.Module, configs: Mapping[str, LoRAConfig], train: Iterable[str] = ()
) -> None:
    """Put LoRA beside linear layers that are named one by one, and freeze the rest.

    Args:
        model: changed in place.
        configs: by the names of layers; their patterns and what they say of training is not read.
        train: names of modules or parameters that stay trainable; other LoRA of the model does too.

    Raises:
        ConfigError: if a name is no linear layer, has LoRA or shares its parameters, or if what is
            to train does not exist or is shared. The model is unchanged then.
    """
    trained = _parameters_of(model, train)
    _check_free(model, configs)
    layers = _linear_layers(model)
    for name, config in configs.items():
        _replace(model, name, LoRALinear(layers[name], config))
    trained |= {id(p) for layer in lora_layers(model).values() for p in (layer.A, layer.B)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def merge_lora(model: nn.Module) -> list[str]:
    """Add every update to its weight, in place; plain layers remain, frozen as they were.

    Returns:
        The names of the layers; none where the model has no LoRA.
    """
    layers = lora_layers(model)
    for name, layer in layers.items():
        _replace(model, name, layer.merge())
    return list(layers)


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Return the layers with LoRA by their names."""
    return {name: m for name, m in model.named_modules() if isinstance(m, LoRALinear)}


def _linear_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers by their names, without those below LoRA; one shared has two."""
    inside = {f"{name}.base" for name in lora_layers(model)}
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and name and name not in inside
    }


def _check_free(model: nn.Module, names: Iterable[str]) -> None:
    """Check that these are linear layers without LoRA, which share nothing."""
    layers, names_of = _linear_layers(model), _names_of_parameters(model)
    for name in names:
        if name not in layers:
            has = "has LoRA already" if name in lora_layers(model) else "is no linear layer"
            raise ConfigError(f"{name} {has}; expected a linear layer without LoRA")
        every = {other for p in layers[name].parameters() for other in names_of[id(p)]}
        if shared := sorted(every - {f"{name}.weight", f"{name}.bias"}):
            raise ConfigError(
                f"{name} shares its parameters with {', '.join(shared)} (a tied output layer, or a "
                "layer that is used twice): merging an update would change both; expected a "
                "pattern that leaves it out, such as 'attention|feed_forward'"
            )


def _names_of_parameters(model: nn.Module) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(id(parameter), set()).add(name)
    return found


def _parameters_of(model: nn.Module, modules: Iterable[str]) -> set[int]:
    """Return the ids of the parameters of modules that are named, which no other module holds."""
    names_of = _names_of_parameters(model)
    every = [name for names in names_of.values() for name in names]
    inside: set[str] = set()
    for module in modules:
        own = {name for name in every if f"{name}.".startswith(f"{module}.")}
        if not own:
            parts = dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters())
            raise ConfigError(
                f"train = {module!r} names no part of this {type(model).__name__}; expected one "
                f"such as {', '.join(parts)}"
            )
        inside |= own
    for names in names_of.values():
        if (outside := names - inside) and names & inside:
            raise ConfigError(
                f"{', '.join(sorted(names & inside))} is to train, but is one parameter with "
                f"{', '.join(sorted(outside))} (a tied output layer?); name both modules, or none"
            )
    return {key for key, names in names_of.items() if names & inside}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
