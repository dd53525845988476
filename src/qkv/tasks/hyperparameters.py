"""Training settings: the `training` section of every recipe."""

from dataclasses import dataclass
from typing import Any, Literal

from qkv.data.batches import Batches
from qkv.errors import ConfigError
from qkv.training.loop import Precision
from qkv.training.optim import Schedule, constant_rate, cosine_decay, linear_decay, noam

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
    """Training settings.

    Args:
        steps: number of optimizer steps; give either these or the epochs.
        epochs: passes over the training examples.
        batch_size: examples per batch; give either these or max_tokens.
        max_tokens: tokens per batch, padding included.
        accumulate: batches per optimizer step.
        learning_rate: peak learning rate; a factor for "noam".
        schedule: how the rate decays after the warm-up; "noam" is that of Vaswani et al. 2017.
        warmup: warm-up steps, or a fraction of all steps if below 1.
        weight_decay: applied to matrices only.
        betas: AdamW's coefficients.
        clip: maximum gradient norm.
        smoothing: label smoothing.
        precision: of the activations; 16 bits pay off on accelerators only.
        ema: decay of an exponential moving average of the weights, which is evaluated and kept.
        average_last: number of last checkpoints to average at the end, instead of keeping the best
            weights.
        evaluate_every: steps between evaluations on the validation split; default one epoch.
        patience: stop after this many evaluations without improvement; default never.
        save_every: steps between checkpoints.
        recompute: recompute activations in the backward pass: slower, less memory.
        compile: use torch.compile.
        tensorboard: write TensorBoard logs.
        seed: random seed for weights, dropout and data order.

    Raises:
        ConfigError: a number out of its range, or two that contradict each other.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int | None = None
    max_tokens: int | None = None
    accumulate: int = 1
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
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all before hours of training are spent."""
        for one, other in (("steps", "epochs"), ("batch_size", "max_tokens")):
            values = getattr(self, one), getattr(self, other)
            if (values[0] is None) == (values[1] is None):
                raise ConfigError(
                    f"training.{one} = {values[0]} and training.{other} = {values[1]}; expected "
                    f"one of the two (null takes the other away, as in --training.{other} null)"
                )
        for name in COUNTS:
            self._check(name, "at least 1", lambda value: value >= 1)
        for name in ("epochs", "learning_rate", "clip"):
            self._check(name, "above 0", lambda value: value > 0)
        for name in ("warmup", "weight_decay"):
            self._check(name, "0 or more", lambda value: value >= 0)
        self._check("smoothing", "0 or more, below 1", lambda value: 0 <= value < 1)
        self._check("betas", "0 or more, below 1", lambda pair: all(0 <= x < 1 for x in pair))
        self._check("ema", "between 0 and 1, such as 0.999", lambda value: 0 < value < 1)
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

    def n_steps(self, batches: Batches[Any]) -> int:
        """Updates of the weights.

        Raises:
            ConfigError: they do not suffice for as many checkpoints as are to be averaged.
        """
        steps = self.steps
        if steps is None:
            steps = max(1, round(self.epochs * batches.n_batches / self.accumulate))
        n_saved = -(-steps // self.save_every)  # the last step is saved in any case
        if n_saved < self.average_last:
            raise ConfigError(
                f"training.average_last = {self.average_last}, but {steps} steps with save_every = "
                f"{self.save_every} leave {n_saved} checkpoints; save more often"
            )
        return steps

    def steps_of_epoch(self, batches: Batches[Any]) -> int:
        """Updates until each example was seen once, about."""
        return max(1, round(batches.n_batches / self.accumulate))

    def make_schedule(self, steps: int, d_model: int) -> Schedule:
        """Step to factor of the rate."""
        warmup = round(self.warmup)
        if self.warmup < 1:
            warmup = min(round(self.warmup * steps), steps - 1)
        match self.schedule:
            case "cosine":
                return cosine_decay(warmup, steps)
            case "linear":
                return linear_decay(warmup, steps)
            case "noam":
                return noam(d_model, max(1, warmup))
        return constant_rate(warmup)
