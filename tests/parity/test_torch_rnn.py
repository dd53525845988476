"""The padded encoder against torch's GRU and LSTM, each row alone and unpadded."""

import pytest
import torch
from tests.helpers import right_mask, to_left
from tests.parity.weights import BOUNDS, measure
from torch import nn

from qkv.models.rnn import RNNConfig, RNNEncoder

B, S, E, H = 3, 7, 5, 22
LENGTHS = [4, 7, 1]


@pytest.mark.parametrize("dtype", list(BOUNDS), ids=str)
@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("padding", ["right", "left", "both"])
def test_encoder_padding_equals_unpadded_runs(cell, padding, dtype):
    config = RNNConfig(
        source_vocab_size=17, target_vocab_size=19, d_embedding=E, d_hidden=H, cell=cell
    )
    ours = RNNEncoder(config).to(dtype)
    theirs = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](
        E, H // 2, batch_first=True, bidirectional=True, dtype=dtype
    )
    theirs.load_state_dict(ours.recurrent.state_dict())
    mask = right_mask(LENGTHS, S)
    if padding == "left":
        _, mask = to_left(mask, mask)
    elif padding == "both":
        mask = mask.roll(1, 1)
        mask[1] = True
    x = torch.randn(B, S, E, dtype=dtype, requires_grad=True)
    memory, last = ours(x, mask)
    annotations, finals = [], []
    for row in range(B):
        annotation, final = theirs(x[row : row + 1, mask[row]])
        annotations.append(annotation[0])
        parts = (final,) if cell == "gru" else final
        finals.append([torch.cat((part[0], part[1]), -1) for part in parts])
    reference = torch.cat(annotations)
    states = [torch.cat(parts) for parts in zip(*finals, strict=True)]
    assert measure(memory[mask], reference) <= BOUNDS[dtype]
    assert len(last) == len(states)
    for ours_last, state in zip(last, states, strict=True):
        assert measure(ours_last, state) <= BOUNDS[dtype]
    upstream, final_upstream = torch.randn_like(reference), torch.randn_like(states[0])
    our_loss = (memory[mask] * upstream).sum() + (sum(last) * final_upstream).sum()
    loss = (reference * upstream).sum() + (sum(states) * final_upstream).sum()
    gradients = torch.autograd.grad(our_loss, [x, *ours.recurrent.parameters()])
    references = torch.autograd.grad(loss, [x, *theirs.parameters()])
    for gradient, expected in zip(gradients, references, strict=True):
        assert measure(gradient, expected) <= BOUNDS[dtype]
