"""Initialization of the BERT and GPT families."""

from torch import nn


def initialize(module: nn.Module, std: float = 0.02) -> None:
    """Initialize matrices from N(0, std^2) and biases to 0; for `model.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
