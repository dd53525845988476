"""Averages of weights: a moving one beside the training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from qkv.errors import ConfigError


class MovingAverage:
    """An exponential moving average of a model's parameters (Polyak and Juditsky 1992).

    average <- decay * average + (1 - decay) * weights, after each step. In the first steps the
    decay is lower, (1 + step) / (10 + step), or the random start would stay in the average.

    Args:
        model: whose parameters are averaged; its buffers are not.
        decay: between 0 and 1, such as 0.999: the average spans about 1 / (1 - decay) steps.

    Raises:
        ConfigError: a decay that averages nothing.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ConfigError(f"ema is {decay}; expected a decay between 0 and 1, such as 0.999")
        self.decay = decay
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after an update, the step counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.weights.values())
        parameters: list[Tensor] = [*self.parameters.values()]
        # One kernel for all on an accelerator; torch's own optimizers use it, under no other name.
        torch._foreach_lerp_(averages, parameters, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Put an average back."""
        for name, average in self.weights.items():
            average.copy_(weights[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Let the model hold the average for good."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.weights[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model hold the average for a while."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])
