"""The benchmark's nanoGPT is the same function as our GPT, in float64."""

import torch
from benchmarks._nanogpt import nanogpt_from
from tests.parity.weights import measure, randomize

from qkv.data.pretraining import collate_causal
from qkv.models.gpt import GPT, GPTConfig
from qkv.training.pretraining import causal_loss


def test_loss_and_gradients():
    config = GPTConfig(
        vocab_size=23,
        n_positions=13,
        d_model=22,
        n_heads=11,
        d_ff=88,
        n_layers=3,
        dropout=0.0,
        attention_dropout=0.0,
        embedding_dropout=0.0,
    )
    ours = GPT(config).double()
    for parameter in ours.parameters():
        randomize(parameter)
    theirs = nanogpt_from(ours)
    batch = collate_causal(torch.randint(23, (5, 14)).tolist(), pad=0)
    loss = causal_loss(ours, batch) / batch.n_targets
    expected = theirs(batch.tokens, batch.targets)
    assert measure(loss, expected) <= 1e-12
    loss.backward()
    expected.backward()
    block, other = ours.stack.blocks[0], theirs.blocks[0]
    projections = (getattr(block.self_attention, name) for name in ("query", "key", "value"))
    for mine, reference in (
        (ours.embedding.weight, theirs.tokens.weight),
        (ours.positions.table.weight, theirs.places.weight),
        (block.feed_forward.up.weight, other.up.weight),
        (block.self_attention_residual.norm.weight, other.norm_1.weight),
    ):
        assert measure(mine.grad, reference.grad) <= 1e-12
    joined = torch.cat([projection.weight.grad for projection in projections])
    assert measure(joined, other.attend.weight.grad) <= 1e-12
