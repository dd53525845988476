"""What Marian is beside the Transformer of 2017."""

import math

import torch
from tests.helpers import assert_close, marian, problem

from qkv.blocks.positions import sinusoids
from qkv.models.marian import Marian, MarianConfig


def test_it_is_the_transformer_with_halves_silu_and_a_bias():
    model, (source, target, _) = marian(), problem()
    waves = sinusoids(torch.arange(target.shape[1]), 22, layout="halves", dtype=torch.float64)
    memory = model.encoder(
        math.sqrt(22) * model.source_embedding.weight[source] + waves[: source.shape[1]]
    )
    hidden = model.decoder(math.sqrt(22) * model.target_embedding.weight[target] + waves, memory)
    logits = hidden @ model.head.weight.T + model.head.bias
    assert_close(model(source, target), logits)
    assert {block.feed_forward.kind for block in model.decoder.blocks} == {"silu"}


def test_the_defaults_are_the_published_models():
    with torch.device("meta"):
        model = Marian(MarianConfig())
    tables = {id(t) for t in (model.source_embedding.weight, model.head.weight)}
    assert tables == {id(model.target_embedding.weight)}
    # Theirs does not train the bias.
    assert sum(p.numel() for p in model.parameters()) == 73_886_208 + 58_101


def test_the_bias_starts_at_zero():
    config = MarianConfig(
        source_vocab_size=17, target_vocab_size=17, d_model=22, n_heads=11, d_ff=13
    )
    model = Marian(config)
    assert not model.head.bias.any()
    source, target, _ = problem()
    assert 0.2 < model.eval()(source, target % 17).std().item() < 3
