"""Fine-tuning a pretrained encoder: what of it trains, and the run, which all tasks share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from qkv.checkpoints.adapters import save_adapter
from qkv.data.batches import Batches
from qkv.errors import ConfigError
from qkv.models.lora import LoRAConfig, add_lora, lora_layers, merge_lora
from qkv.tasks.console import show_table
from qkv.tasks.pretrained import Loaded, locate
from qkv.tasks.recipe import Place, Training, run_training
from qkv.training.finetune import (
    GradualUnfreezing,
    everything,
    head_only,
    top_layers,
)
from qkv.training.history import History
from qkv.training.loop import recompute_activations
from qkv.training.report import describe_training
from qkv.training.run import Callback
from qkv.zoo.catalog import ZOO

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


def check_base(base: str, output: Path) -> None:
    """Refuse to write a model over the one that it is made of.

    Raises:
        ConfigError: the output is the base.
    """
    if Path(base).resolve() == output.resolve():
        raise ConfigError(
            f"output and base are both {base}; expected another folder, for the base is read again "
            "wherever the run goes on"
        )


def fine_tune(
    model: nn.Module,
    batches: Batches[Any],
    loss: Callable[[nn.Module, Any], Float[Tensor, ""]],
    finetuning: FineTuning,
    training: Training,
    place: Place,
    *,
    lengths: Sequence[int],
    evaluate: Callable[[nn.Module], Mapping[str, float]],
    metric: str,
    unit: str,
    device: str,
) -> tuple[History, int]:
    """Say what trains and what it needs, and train: the history, and how many parameters trained.

    Args:
        model: a pretrained encoder with a new head.
        batches: without end.
        loss: the sum over a batch's targets.
        finetuning: what of the model trains.
        training: how long and how fast.
        place: where the run is kept.
        lengths: tokens of each row that is learned from, for the memory that is expected.
        evaluate: scores the model.
        metric: the score by which the best weights are kept.
        unit: what a row is called.
        device: of the training.
    """
    callbacks = finetuning.prepare(model, training.n_steps(batches))
    optimizer = training.optimizer(model, layer_decay=finetuning.layer_decay, eps=1e-8)
    if training.recompute:
        recompute_activations(model)
    length = -(-sum(lengths) // len(lengths))
    rows = training.batch_size or max(1, (training.max_tokens or 0) // length)
    # The loop's own copy of good weights, the moving average, and the best weights so far.
    copies = 1 + (training.ema is not None) + (training.average_last == 1)
    rows = min(rows, len(lengths))
    tables = describe_training(model, optimizer, rows=rows, length=length, copies=copies)
    for title, table in tables.items():
        show_table(title, table)
    place.console.print(
        f"{training.n_steps(batches):,} steps, about {training.steps_per_epoch(batches):,} an "
        f"epoch -> {place.output}"
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    history = run_training(
        model,
        batches,
        loss,
        training,
        place,
        evaluate=evaluate,
        metric=metric,
        optimizer=optimizer,
        device=device,
        unit=unit,
        callbacks=callbacks,
    )
    return history, trained


def keep_adapter(loaded: Loaded, base: str, place: Place) -> None:
    """Write what LoRA learned alone, if it did, and merge it into the weights."""
    if not lora_layers(loaded.model):
        return
    adapter = place.kept / "adapter"
    known = str(locate(base)) if base in ZOO else base  # others do not know our zoo
    family = loaded.config["model_type"]
    save_adapter(loaded.model, adapter, model_type=family, base_model=known)
    place.console.print(f"the update alone, as PEFT reads it: {adapter}")
    merge_lora(loaded.model)
