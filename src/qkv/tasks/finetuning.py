"""What of a pretrained model trains, as recipes say it."""

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import nn

from qkv.errors import ConfigError
from qkv.models.lora import LoRAConfig, add_lora
from qkv.training.finetune import GradualUnfreezing, everything, head_only, top_layers
from qkv.training.run import Callback

HEAD = "classifier"
LORA = LoRAConfig(train=(HEAD,))


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """What of the pretrained model trains.

    Args:
        train: "head", "top" (and n_layers below it), "gradual" (one more layer from the top every
            so many steps), "all", "lora", or "scratch" (all, from random weights).
        n_layers: of "top"; 2 if not given.
        unfreeze_every: steps, of "gradual"; a seventh of all if not given.
        layer_decay: a layer's learning rate over that of the layer above it.
        lora: of "lora"; the head always trains besides.

    Raises:
        ConfigError: an option that what trains does not have.
    """

    train: Literal["head", "top", "gradual", "all", "lora", "scratch"] = "all"
    n_layers: int | None = None
    unfreeze_every: int | None = None
    layer_decay: float = 1.0
    lora: LoRAConfig = field(default_factory=lambda: LORA)

    def __post_init__(self) -> None:
        """Refuse what would be ignored."""
        for name, owner, given in (
            ("n_layers", "top", self.n_layers is not None),
            ("unfreeze_every", "gradual", self.unfreeze_every is not None),
            ("lora", "lora", self._lora() != LORA),
        ):
            if given and self.train != owner:
                raise ConfigError(
                    f"finetuning.{name} was given with finetuning.train = {self.train}; it is read "
                    f"only with finetuning.train = {owner}"
                )
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ConfigError(
                f"finetuning.unfreeze_every = {self.unfreeze_every}; expected at least 1 step"
            )

    def prepare(self, model: nn.Module, steps: int) -> list[Callback]:
        """Freeze what does not train; what else has to happen during training."""
        match self.train:
            case "head":
                head_only(model)
            case "top":
                top_layers(model, 2 if self.n_layers is None else self.n_layers)
            case "lora":
                add_lora(model, self._lora())
            case _:
                everything(model)
        if self.train == "gradual":
            return [GradualUnfreezing(self.unfreeze_every or max(1, steps // 7))]
        return []

    def _lora(self) -> LoRAConfig:
        """With the head, which starts at random."""
        names = self.lora.train
        return self.lora if HEAD in names else replace(self.lora, train=(*names, HEAD))
