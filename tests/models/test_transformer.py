"""What the whole Transformer promises beside the laws of tests/laws."""

import math

import pytest
import torch
from tests.helpers import (
    SOURCE_VOCAB,
    TARGET_VOCAB,
    B,
    S,
    T,
    assert_close,
    problem,
    transformer,
    unchecked,
)

from qkv.blocks.norms import LayerNorm, RMSNorm
from qkv.blocks.positions import sinusoids
from qkv.errors import ConfigError, ShapeError, VocabularyError
from qkv.models.transformer import Transformer, TransformerConfig


def config(**options):
    sizes = {"d_model": 22, "n_heads": 11, "d_ff": 13}
    vocabularies = {"source_vocab_size": SOURCE_VOCAB, "target_vocab_size": TARGET_VOCAB}
    return TransformerConfig(**{**vocabularies, **sizes, **options})


def test_shapes_and_the_head():
    model, (source, target, mask) = transformer(), problem()
    hidden = model.hidden(source, target, source_mask=mask)
    assert hidden.shape == (B, T, 22)
    logits = model(source, target, source_mask=mask)
    assert logits.shape == (B, T, TARGET_VOCAB)
    assert torch.equal(logits, model.head(hidden))
    assert model.encode(source, mask).shape == (B, S, 22)


def test_it_is_embedding_encoder_decoder_head():
    model = transformer(sinusoid_layout="halves", sinusoid_divisor=10.0, first_position=1)
    source, target, _ = problem()

    def embed(table, tokens):
        waves = sinusoids(
            torch.arange(1, tokens.shape[1] + 1),
            22,
            layout="halves",
            divisor=10.0,
            dtype=torch.float64,
        )
        return math.sqrt(22) * table.weight[tokens] + waves

    memory = model.encoder(embed(model.source_embedding, source))
    hidden = model.decoder(embed(model.target_embedding, target), memory)
    assert_close(model.hidden(source, target), hidden)


def test_tied_and_shared_tables():
    untied = Transformer(config(tied_output=False))
    assert untied.head.weight is not untied.target_embedding.weight
    assert untied.source_embedding is not untied.target_embedding
    tied = Transformer(config())
    assert tied.head.weight is tied.target_embedding.weight
    shared = Transformer(config(target_vocab_size=SOURCE_VOCAB, shared_embeddings=True))
    assert shared.source_embedding is shared.target_embedding
    n_parameters = [sum(p.numel() for p in m.parameters()) for m in (untied, tied, shared)]
    assert n_parameters[0] - n_parameters[1] == 22 * TARGET_VOCAB
    assert n_parameters[1] - n_parameters[2] == 22 * TARGET_VOCAB


def test_it_starts_with_logits_of_unit_order():
    source, target, _ = problem()
    for options in ({}, {"tied_output": False}, {"norm_first": True}):
        logits = Transformer(config(**options)).eval()(source, target)
        assert 0.2 < logits.std().item() < 3


def test_the_defaults_are_the_base_model_of_the_paper():
    base = TransformerConfig(source_vocab_size=5, target_vocab_size=5)
    sizes = (base.d_model, base.n_heads, base.d_ff, base.n_encoder_layers, base.n_decoder_layers)
    assert sizes == (512, 8, 2048, 6, 6)
    assert (base.norm_first, base.feed_forward, base.dropout) == (False, "relu", 0.1)


@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_every_norm_is_as_the_config_says(norm):
    model = Transformer(config(norm=norm, norm_eps=0.1, norm_first=True))
    norms = [m for name, m in model.named_modules() if name.endswith("norm")]
    assert len(norms) == 6 * 2 + 6 * 3 + 2
    assert {type(m) for m in norms} == {{"layer": LayerNorm, "rms": RMSNorm}[norm]}
    assert {m.eps for m in norms} == {0.1}


def test_shared_embeddings_need_one_vocabulary():
    message = (
        f"source_vocab_size = {SOURCE_VOCAB} and target_vocab_size = {TARGET_VOCAB}; train one"
    )
    with pytest.raises(ConfigError, match=message):
        config(shared_embeddings=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_heads": 3}, "d_model = 22 is not divisible by n_heads = 3"),
        ({"feed_forward": "mish"}, "feed_forward = 'mish' is unknown"),
        ({"norm": "batch"}, "norm = 'batch' is unknown"),
        ({"dropout": 1.5}, "dropout = 1.5"),
    ],
)
def test_impossible_configs_are_refused(options, message):
    with unchecked(), pytest.raises(ConfigError, match=message):
        Transformer(config(**options))


@pytest.mark.parametrize("side", ["source", "target"])
def test_ids_outside_the_vocabulary_are_refused(side):
    model, (source, target, _) = transformer(), problem()
    (source if side == "source" else target)[0, 0] = 23
    size = SOURCE_VOCAB if side == "source" else TARGET_VOCAB
    with pytest.raises(VocabularyError, match=rf"to 23, but the vocabulary has {size}"):
        model(source, target)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_mask_of_numbers_is_refused(side):
    model, (source, target, _) = transformer(), problem()
    mask = torch.ones_like(source if side == "source" else target)
    with unchecked(), pytest.raises(ShapeError, match=r"dtype torch.int64 .* expected a boolean"):
        model(source, target, **{f"{side}_mask": mask})


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_mask_of_another_length_is_refused(side):
    model, (source, target, _) = transformer(), problem()
    with unchecked(), pytest.raises(ShapeError, match=r"\(3, 13\)"):
        model(source, target, **{f"{side}_mask": torch.ones(B, 13, dtype=torch.bool)})
