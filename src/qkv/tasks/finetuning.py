"""Fine-tuning a pretrained model: the parameters that train, and LoRA adapters."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from qkv.checkpoints.adapters import save_adapter
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.registry import family_of
from qkv.errors import ConfigError
from qkv.files import whole_folder
from qkv.models.heads import SequenceClassifier
from qkv.models.lora import LoRAConfig, add_lora, lora_layers, merge_lora
from qkv.tasks.pretrained import Loaded, load, locate, read_config
from qkv.training.finetune import GradualUnfreezing, everything, head_only, top_layers
from qkv.training.run import Callback
from qkv.zoo.catalog import ZOO

HEAD = "classifier"
LORA = LoRAConfig(train=(HEAD,))


@dataclass(frozen=True, kw_only=True)
class FineTuning:
    """Which parameters of a pretrained model train.

    Args:
        train: "head"; "top", the head and the n_layers below it; "gradual", one more layer from the
            top every unfreeze_every steps; "all"; "lora"; or "scratch", all, from random weights.
        n_layers: number of layers for "top"; default 2.
        unfreeze_every: steps between two layers for "gradual"; default a seventh of all steps.
        layer_decay: a layer's learning rate divided by that of the layer above it.
        lora: settings for "lora"; a new head trains, too.

    Raises:
        ConfigError: an option that does not belong to `train`.
    """

    train: Literal["head", "top", "gradual", "all", "lora", "scratch"] = "all"
    n_layers: int | None = None
    unfreeze_every: int | None = None
    layer_decay: float = 1.0
    lora: LoRAConfig = field(default_factory=lambda: LORA)

    def __post_init__(self) -> None:
        """Reject options that would be ignored."""
        for name, owner, is_set in (
            ("n_layers", "top", self.n_layers is not None),
            ("unfreeze_every", "gradual", self.unfreeze_every is not None),
            ("lora", "lora", self.lora != LORA),
        ):
            if is_set and self.train != owner:
                raise ConfigError(
                    f"finetuning.{name} is set, but finetuning.train = {self.train}; expected "
                    f"finetuning.train = {owner}, the only one that uses it"
                )
        if self.unfreeze_every is not None and self.unfreeze_every < 1:
            raise ConfigError(
                f"finetuning.unfreeze_every = {self.unfreeze_every}; expected at least 1 step"
            )

    def prepare(self, model: nn.Module, steps: int) -> list[Callback]:
        """Freeze the parameters that do not train; return the callbacks for training."""
        match self.train:
            case "head":
                head_only(model)
            case "top":
                top_layers(model, 2 if self.n_layers is None else self.n_layers)
            case "lora":
                add_lora(model, self._lora(model))
            case _:
                everything(model)
        if self.train == "gradual":
            return [GradualUnfreezing(self.unfreeze_every or max(1, steps // 7))]
        return []

    def _lora(self, model: nn.Module) -> LoRAConfig:
        """Also train the head, which starts from random weights, if the model has one."""
        names = tuple(name for name in self.lora.train if name != HEAD)
        return replace(self.lora, train=(*names, HEAD) if hasattr(model, HEAD) else names)


def load_with_head(
    base: str,
    head: type[nn.Module],
    *,
    pretrained: bool,
    labels: Any = None,
) -> Loaded:
    """Load a pretrained encoder with a new head, in float32.

    Args:
        base: a checkpoint's folder, the name of a shipped model, or an id of the Hub.
        head: the class of the model with its head, such as `SequenceClassifier`.
        pretrained: False starts the encoder from random weights as well.
        labels: names of the classes.

    Raises:
        ConfigError: the family has no model with such a head, or the base has no tokenizer.
    """
    family = family_of(read_config(base).get("model_type"))
    names = [one.name for one in family.architectures if one.model is head]
    if not names:
        raise ConfigError(
            f"{base} is of the family {family.model_type}, which has no {head.__name__} here; "
            f"qkv models --family {family.model_type} lists its models"
        )
    new = [HEAD, "encoder"]
    if pretrained:
        # Only BERT's classifier uses a pooler, which a base may lack.
        pooled = head is SequenceClassifier and family.model_type == "bert"
        folder = whole_folder(locate(base))
        lacks_one = pooled and not any("pooler" in name for name in open_weights(folder))
        new = [HEAD, "encoder.pooler"] if lacks_one else [HEAD]
    return load(base, architecture=names[0], new=new, labels=labels, dtype=torch.float32)


def check_base(base: str, output: Path) -> None:
    """Raise ConfigError if a model would replace its own base."""
    if Path(base).resolve() == output.resolve():
        raise ConfigError(
            f"output and base are both {base}; expected another folder, because the base is read "
            "again when the run is resumed"
        )


def keep_adapter(loaded: Loaded, base: str, folder: Path) -> bool:
    """Write LoRA weights as a PEFT adapter and merge them; return whether the model had any."""
    if not lora_layers(loaded.model):
        return False
    known = str(locate(base)) if base in ZOO else base  # PEFT does not know our shipped models
    save_adapter(loaded.model, folder, model_type=loaded.config["model_type"], base_model=known)
    merge_lora(loaded.model)
    return True
