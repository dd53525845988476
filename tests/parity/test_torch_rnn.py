"""The padded encoder against torch's GRU and LSTM, each row alone and unpadded."""

import pytest
import torch
from tests.helpers import right_mask, to_left
from tests.parity.reference import agree
from torch import nn

from qkv.models.rnn import RNNConfig, RNNEncoder

B, S, E, H = 3, 7, 5, 22
LENGTHS = [4, 7, 1]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("padding", ["right", "left", "both"])
def test_encoder_padding_equals_unpadded_runs(cell, padding):
    config = RNNConfig(
        source_vocab_size=17, target_vocab_size=19, d_embedding=E, d_hidden=H, cell=cell
    )
    ours = RNNEncoder(config)
    theirs = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](E, H // 2, batch_first=True, bidirectional=True)
    theirs.load_state_dict(ours.recurrent.state_dict())
    mask = right_mask(LENGTHS, S)
    if padding == "left":
        _, mask = to_left(mask, mask)
    elif padding == "both":
        mask = mask.roll(1, 1)
        mask[1] = True

    def numbers(ours, theirs, dtype):
        x = torch.randn(B, S, E).to(dtype).requires_grad_()
        memory, last = ours(x, mask)
        annotations, finals = [], []
        for row in range(B):
            annotation, final = theirs(x[row : row + 1, mask[row]])
            annotations.append(annotation[0])
            parts = (final,) if cell == "gru" else final
            finals.append([torch.cat((part[0], part[1]), -1) for part in parts])
        reference = torch.cat(annotations)
        states = [torch.cat(parts) for parts in zip(*finals, strict=True)]
        pairs = {"memory": (memory[mask], reference)}
        for i, pair in enumerate(zip(last, states, strict=True)):
            pairs[f"last {i}"] = pair
        upstreams = [torch.randn(other.shape).to(dtype) for _, other in pairs.values()]
        losses = [
            sum((pair[side] * up).sum() for pair, up in zip(pairs.values(), upstreams, strict=True))
            for side in (0, 1)
        ]
        gradients = torch.autograd.grad(losses[0], [x, *ours.recurrent.parameters()])
        references = torch.autograd.grad(losses[1], [x, *theirs.parameters()])
        for i, pair in enumerate(zip(gradients, references, strict=True)):
            pairs[f"gradient {i}"] = pair
        return pairs

    agree(numbers, ours, theirs)
