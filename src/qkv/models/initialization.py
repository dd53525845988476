"""How the published models of the BERT and GPT families start."""

from torch import nn


def initialize(module: nn.Module, std: float = 0.02) -> None:
    """Start matrices at N(0, 0.02^2) and biases at 0; for `model.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
