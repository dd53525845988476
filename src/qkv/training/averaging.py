"""A moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qkv.errors import ConfigError
from qkv.training.sharding import local


class MovingAverage:
    """An exponential moving average of a model's parameters (Polyak and Juditsky 1992).

    average <- decay * average + (1 - decay) * weights, after each step. In the first steps the
    decay is lower, (1 + step) / (10 + step), so that the random initialization is forgotten.

    Args:
        model: its parameters that train are averaged, its buffers are not.
        decay: between 0 and 1, such as 0.999: the average spans about 1 / (1 - decay) steps.

    Raises:
        ConfigError: the decay is not between 0 and 1.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ConfigError(f"ema is {decay}; expected a decay between 0 and 1, such as 0.999")
        self.decay = decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the current weights; `step` counts from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = [local(average) for average in self.weights.values()]
        parameters = [local(parameter) for parameter in self.parameters.values()]
        # One kernel for all parameters on an accelerator, as in torch's own optimizers.
        torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Restore a saved average."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Copy the average into the model."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average into the model inside a `with` block."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])
