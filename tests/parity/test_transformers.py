"""Whole models and mechanisms against Hugging Face's transformers, in float32."""

import pytest
import torch
from tests.helpers import right_mask
from tests.parity.weights import measure, randomize
from transformers import LlamaConfig, MarianConfig, MarianMTModel
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)
from transformers.models.t5.modeling_t5 import T5Attention

from qkv.attention.core import attention_weights
from qkv.blocks.norms import RMSNorm
from qkv.blocks.positions import ALiBi, alibi_slopes, relative_buckets, rotate, sinusoids
from qkv.models.transformer import Transformer, TransformerConfig

BOUND = 1e-5
VOCAB, D, H, FF, PAD = 37, 22, 11, 29, 0
B, S, T = 3, 11, 7


def marian():
    config = MarianConfig(
        vocab_size=VOCAB,
        d_model=D,
        encoder_layers=2,
        decoder_layers=3,
        encoder_attention_heads=H,
        decoder_attention_heads=H,
        encoder_ffn_dim=FF,
        decoder_ffn_dim=FF,
        max_position_embeddings=41,
        activation_function="silu",
        scale_embedding=True,
        dropout=0.0,
        pad_token_id=PAD,
        eos_token_id=1,
        forced_eos_token_id=None,
        decoder_start_token_id=PAD,
    )
    model = MarianMTModel(config).eval()
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            randomize(parameter)
    return model


def our_layer(ours, theirs):
    found = {}
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    sublayers = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
    for our_name, their_name in sublayers.items():
        if hasattr(theirs, their_name):
            for mine, reference in names.items():
                attention = getattr(theirs, their_name)
                found[getattr(getattr(ours, our_name), mine)] = getattr(attention, reference)
            norm = getattr(theirs, f"{their_name}_layer_norm")
            found[getattr(ours, f"{our_name}_residual").norm] = norm
    found[ours.feed_forward.up], found[ours.feed_forward.down] = theirs.fc1, theirs.fc2
    found[ours.feed_forward_residual.norm] = theirs.final_layer_norm
    return found


def transformer_like(theirs):
    config = TransformerConfig(
        source_vocab_size=VOCAB,
        target_vocab_size=VOCAB,
        d_model=D,
        n_heads=H,
        d_ff=FF,
        n_encoder_layers=2,
        n_decoder_layers=3,
        feed_forward="silu",
        dropout=0.0,
        shared_embeddings=True,
        sinusoid_layout="halves",
    )
    ours = Transformer(config)
    found = {ours.target_embedding: theirs.model.shared}
    for mine, reference in (
        (ours.encoder, theirs.model.encoder),
        (ours.decoder, theirs.model.decoder),
    ):
        for layers in zip(mine.blocks, reference.layers, strict=True):
            found |= our_layer(*layers)
    for mine, reference in found.items():
        mine.load_state_dict(reference.state_dict())
    copied = {id(parameter) for mine in found for parameter in mine.parameters()}
    assert copied == {id(parameter) for parameter in ours.parameters()}
    return ours, found


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, BOUND), (torch.float64, 1e-12)])
def test_marian(dtype, bound):
    theirs = marian()
    ours, found = transformer_like(theirs)
    assert not theirs.final_logits_bias.any()
    if dtype == torch.float64:  # their table is computed in float32 whatever the model's dtype
        for stack in (theirs.model.encoder, theirs.model.decoder):
            table = stack.double().embed_positions.weight.data
            places = torch.arange(len(table))
            table.copy_(sinusoids(places, D, layout="halves", dtype=torch.float64))
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    source, target = (torch.randint(1, VOCAB, (B, n)) for n in (S, T))
    source_mask, target_mask = right_mask([S, 4, 7], S), right_mask([5, T, 2], T)
    source, target = source * source_mask, target * target_mask
    reference = theirs(
        input_ids=source,
        attention_mask=source_mask.long(),
        decoder_input_ids=target,
        decoder_attention_mask=target_mask.long(),
    )
    memory = ours.encode(source, source_mask)
    assert measure(memory[source_mask], reference.encoder_last_hidden_state[source_mask]) <= bound
    logits = ours(source, target, source_mask=source_mask, target_mask=target_mask)[target_mask]
    assert measure(logits, reference.logits[target_mask]) <= bound
    upstream = torch.randn_like(logits)
    (logits * upstream).sum().backward()
    (reference.logits[target_mask] * upstream).sum().backward()
    for mine, module in found.items():
        assert measure(mine.weight.grad, module.weight.grad) <= bound


def test_marian_step_by_step():
    theirs = marian()
    ours, _ = transformer_like(theirs)
    source, target = torch.randint(1, VOCAB, (B, S)), torch.randint(1, VOCAB, (B, T))
    mask = right_mask([S, 4, 7], S)
    with torch.no_grad():
        reference = theirs(source, mask.long(), decoder_input_ids=target).logits
        state = ours.start(source, mask)
        steps = torch.cat([ours.step(tokens, state) for tokens in target.split(1, 1)], 1)
    assert measure(steps, reference) <= BOUND


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("n_buckets", "max_distance"), [(32, 128), (32, 20), (8, 16), (10, 31)])
def test_t5_buckets(bidirectional, n_buckets, max_distance):
    distances = torch.arange(-300, 301)[None]
    theirs = T5Attention._relative_position_bucket(
        distances, bidirectional, num_buckets=n_buckets, max_distance=max_distance
    )
    ours = relative_buckets(
        distances, n_buckets=n_buckets, max_distance=max_distance, bidirectional=bidirectional
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 8, 11, 12, 16, 20])
def test_alibi(n_heads):
    # Bloom writes slope * key place, which differs from -slope * distance by a number a query.
    theirs = build_alibi_tensor(torch.ones(1, 5), n_heads, torch.float32).view(n_heads, 5)
    assert measure(alibi_slopes(n_heads), theirs[:, 1]) <= BOUND
    queries, keys = torch.randn(2, 1, n_heads, 5, 7)
    places = torch.arange(5)
    weights = [
        attention_weights(queries, keys, bias=bias, causal=True)
        for bias in (ALiBi(n_heads)(places, places), theirs[:, None].expand(-1, 5, -1))
    ]
    assert measure(*weights) <= BOUND


@pytest.mark.parametrize("base", [1e4, 5e5])
def test_llama_rotary(base):
    config = LlamaConfig(
        hidden_size=66,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    queries, keys = torch.randn(2, 2, 3, 7, 22)
    positions = torch.arange(7) + torch.tensor([[0], [101]])
    cos, sin = LlamaRotaryEmbedding(config)(queries, positions)
    theirs = apply_rotary_pos_emb(queries, keys, cos, sin)
    for x, turned in zip((queries, keys), theirs, strict=True):
        assert measure(rotate(x, positions, base=base), turned) <= BOUND


def test_llama_rms_norm():
    ours, theirs = RMSNorm(23, eps=1e-3), LlamaRMSNorm(23, eps=1e-3)
    theirs.weight.data.normal_()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5, 23)
    assert measure(ours(x), theirs(x)) <= BOUND
