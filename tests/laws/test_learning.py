"""A tiny batch can be overfitted: gradients reach what they must, in every model."""

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import MODELS, SCORES, TARGET_VOCAB, B, S, right_mask, rnn, unchecked

LENGTH = 4
models = {
    name: make for name, make in MODELS.items() if name not in ("rotary", "alibi", "marian")
} | {f"rnn-{score}": lambda score=score: rnn(score=score) for score in SCORES}


def restart(model):
    """As a user would get it: helpers give random values to what starts at 0 or 1."""
    if hasattr(model, "config"):
        return type(model)(model.config).train()
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model.float().train()


@pytest.mark.parametrize("name", list(models))
def test_a_tiny_batch_can_be_overfitted(name):
    model = restart(models[name]())
    source, target = torch.randint(17, (B, S)), torch.randint(TARGET_VOCAB, (B, LENGTH + 1))
    target[:, 0] = torch.arange(B)  # a decoder without a source must be able to tell them apart
    mask = right_mask([S, 2, 3], S)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with unchecked():  # the same shapes sixty times: checking them would take most of the time
        for _ in range(60):
            logits = model(source, target[:, :-1], source_mask=mask)
            loss = F.cross_entropy(logits.flatten(0, 1), target[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 0.05
    with torch.no_grad():
        assert (model(source, target[:, :-1], source_mask=mask).argmax(-1) == target[:, 1:]).all()


@pytest.mark.parametrize("name", list(models))
def test_every_parameter_has_a_gradient(name):
    model = models[name]()
    source, target = torch.randint(17, (B, S)), torch.randint(TARGET_VOCAB, (B, LENGTH))
    model(source, target, source_mask=right_mask([S, 2, 3], S)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
