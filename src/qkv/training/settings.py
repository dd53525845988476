"""Training settings: the `training` section of every recipe."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from qkv.data.batches import Batches, Batching
from qkv.errors import ConfigError
from qkv.training.finetune import layerwise_adamw
from qkv.training.muon import muon
from qkv.training.optim import Schedule, adamw, constant_rate, cosine_decay, linear_decay, noam

Precision = Literal["float32", "bfloat16", "float16"]
COUNTS = (
    "steps",
    "batch_size",
    "max_tokens",
    "accumulate",
    "average_last",
    "evaluate_every",
    "patience",
    "save_every",
)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training settings, of a recipe and of `train`.

    `train` uses the fields for steps and numerics. Its caller uses those for batches (`batching`),
    the loss (smoothing), and callbacks (save_every, average_last, patience, tensorboard).

    Args:
        steps: number of optimizer steps; give either these or the epochs.
        epochs: passes over the training examples.
        batch_size: examples per batch; give either this or max_tokens. `train` itself needs
            neither, because it receives batches.
        max_tokens: tokens per batch, padding included.
        accumulate: batches per optimizer step.
        optimizer: "muon" updates the matrices of the blocks by Muon (Jordan et al. 2024), and all
            else by AdamW with the same rate.
        learning_rate: peak learning rate; a factor for "noam".
        schedule: decay of the rate after the warm-up; "noam" is that of Vaswani et al. 2017.
        warmup: warm-up steps, or a fraction of all steps if below 1.
        weight_decay: applied to matrices only.
        betas: AdamW's coefficients.
        clip: maximum gradient norm.
        smoothing: label smoothing.
        precision: dtype of the activations; 16 bits pay off on accelerators only.
        ema: decay of an exponential moving average of the weights, which is evaluated and kept.
        average_last: number of last checkpoints to average at the end, instead of keeping the best
            weights.
        evaluate_every: steps between evaluations on the validation split; default one epoch, or the
            whole run if the length of an epoch is unknown. The last step is always evaluated.
        patience: stop after this many evaluations without improvement; default never.
        save_every: steps between checkpoints.
        recompute: recompute activations in the backward pass: slower, less memory.
        compile: use torch.compile.
        sharding: none (each process stores the whole model), or fsdp2 (each stores a shard of its
            parameters, gradients, optimizer states and averages); no effect on a single process.
        tensorboard: write TensorBoard logs.
        seed: random seed for weights, dropout and data order.

    Raises:
        ConfigError: a number is out of range, or two fields contradict each other.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    max_tokens: int | None = None
    accumulate: int = 1
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-3
    schedule: Literal["cosine", "linear", "constant", "noam"] = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    smoothing: float = 0.0
    precision: Precision = "float32"
    ema: float | None = None
    average_last: int = 1
    evaluate_every: int | None = None
    patience: int | None = None
    save_every: int = 100
    recompute: bool = False
    compile: bool = False
    sharding: Literal["none", "fsdp2"] = "none"
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field before hours of training are spent."""
        self._check_one_of("steps", "epochs")
        if self.batch_size is not None or self.max_tokens is not None:
            self.check_batching()
        for name in COUNTS:
            self._check(name, "at least 1", lambda value: value >= 1)
        for name in ("epochs", "learning_rate", "clip"):
            self._check(name, "above 0", lambda value: value > 0)
        for name in ("warmup", "weight_decay"):
            self._check(name, "0 or more", lambda value: value >= 0)
        self._check("smoothing", "0 or more, below 1", lambda value: 0 <= value < 1)
        self._check("betas", "0 or more, below 1", lambda pair: all(0 <= x < 1 for x in pair))
        self._check("ema", "between 0 and 1, such as 0.999", lambda value: 0 < value < 1)
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(
                f"training.optimizer = {self.optimizer!r} is unknown; expected adamw or muon"
            )
        if self.optimizer == "muon" and self.sharding != "none":
            raise ConfigError(
                f'training.optimizer = "muon" with sharding = {self.sharding}; expected adamw, or '
                "no sharding: Muon needs whole matrices"
            )
        if self.average_last > 1 and self.sharding != "none":
            raise ConfigError(
                f"training.average_last = {self.average_last} with sharding = {self.sharding}; "
                "expected training.ema for an average of the weights, or no sharding"
            )
        if self.average_last > 1 and (self.patience is not None or self.ema is not None):
            raise ConfigError(
                f"training.average_last = {self.average_last} with patience = {self.patience} and "
                f"ema = {self.ema}; expected null for both: the average takes the place of the "
                "best weights and of a moving average"
            )

    def _check(self, name: str, expected: str, fits: Any) -> None:
        value = getattr(self, name)
        if value is not None and not fits(value):
            raise ConfigError(f"training.{name} = {value}; expected {expected}")

    def _check_one_of(self, one: str, other: str) -> None:
        values = getattr(self, one), getattr(self, other)
        if (values[0] is None) == (values[1] is None):
            raise ConfigError(
                f"training.{one} = {values[0]} and training.{other} = {values[1]}; expected "
                f"one of the two (null takes the other away, as in --training.{other} null)"
            )

    def check_batching(self) -> None:
        """Check that the batch size is set; only `train` with ready-made batches needs none.

        Raises:
            ConfigError: neither or both of batch_size and max_tokens are set.
        """
        self._check_one_of("batch_size", "max_tokens")

    def rows(self, length: int) -> int:
        """Return the approximate number of examples of `length` tokens in a batch."""
        return self.batch_size or max(1, (self.max_tokens or 0) // length)

    def batching(self) -> Batching:
        """Return how training examples are batched, in endless epochs.

        Raises:
            ConfigError: neither or both of batch_size and max_tokens are set.
        """
        self.check_batching()
        return Batching(
            max_tokens=self.max_tokens, batch_size=self.batch_size, seed=self.seed, epochs=None
        )

    def make_optimizer(
        self, model: nn.Module, *, layer_decay: float | None = None, eps: float = 1e-9
    ) -> torch.optim.Optimizer:
        """AdamW or Muon with these settings, over the parameters that train.

        Args:
            model: its frozen parameters are left out.
            layer_decay: learning rate of a layer divided by that of the layer above it, see
                `layerwise_adamw`; None: the same rate in all layers.
            eps: added to the root of the second moment.

        Raises:
            ConfigError: Muon with a layer_decay, or for a model without matrices to train.
        """
        options: Any = {"betas": self.betas, "eps": eps, "weight_decay": self.weight_decay}
        if layer_decay is None:
            make = muon if self.optimizer == "muon" else adamw
            return make(model, learning_rate=self.learning_rate, **options)
        if self.optimizer == "muon":
            raise ConfigError(
                f'training.optimizer = "muon" with layer_decay = {layer_decay}; expected null for '
                "layer_decay, or adamw: Muon has one rate for all layers"
            )
        return layerwise_adamw(
            model, learning_rate=self.learning_rate, layer_decay=layer_decay, **options
        )

    def n_steps(self, batches: Iterable[Any]) -> int:
        """Return the number of optimizer steps.

        Raises:
            ConfigError: the settings count epochs, but the batches do not; or there are too few
                steps for the warm-up, or to save as many checkpoints as are averaged.
        """
        steps = self.steps
        if steps is None:
            steps = max(1, round((self.epochs or 0) * _epoch(batches) / self.accumulate))
        n_saved = -(-steps // self.save_every)  # the last step is always saved
        if n_saved < self.average_last:
            raise ConfigError(
                f"training.average_last = {self.average_last}, but {steps} steps with save_every = "
                f"{self.save_every} leave {n_saved} checkpoints; save more often"
            )
        self.schedule_for(steps, d_model=1)  # raises if the warm-up does not fit
        return steps

    def steps_per_epoch(self, batches: Iterable[Any]) -> int:
        """Return the number of optimizer steps in which each example is seen about once.

        Raises:
            ConfigError: the number of batches in an epoch is unknown.
        """
        return max(1, round(_epoch(batches) / self.accumulate))

    def evaluation_interval(self, batches: Iterable[Any], steps: int) -> int:
        """Return the number of steps between evaluations."""
        if self.evaluate_every is not None:
            return self.evaluate_every
        return self.steps_per_epoch(batches) if isinstance(batches, Batches) else steps

    def schedule_for(self, steps: int, d_model: int | None) -> Schedule:
        """Return the learning rate schedule: a function from the step to a factor of the rate.

        Args:
            steps: length of the run.
            d_model: width of the model, on which "noam" depends; None if unknown.

        Raises:
            ConfigError: the warm-up is not shorter than the run, or "noam" without a d_model.
        """
        warmup = round(self.warmup)
        if self.warmup < 1:
            warmup = min(round(self.warmup * steps), steps - 1)
        match self.schedule:
            case "cosine":
                return cosine_decay(warmup, steps)
            case "linear":
                return linear_decay(warmup, steps)
            case "noam":
                if d_model is None:
                    raise ConfigError(
                        'training.schedule = "noam" depends on d_model, but the config of this '
                        "model has none; expected another schedule"
                    )
                return noam(d_model, max(1, warmup))
        return constant_rate(warmup)


def _epoch(batches: Iterable[Any]) -> int:
    """Return the number of batches in an epoch."""
    if isinstance(batches, Batches):
        return batches.n_batches
    raise ConfigError(
        f"a {type(batches).__name__} of batches does not know how many make an epoch; set "
        "training.steps, or pass the Batches that qkv.data makes"
    )
