"""Whole models and mechanisms against Hugging Face's transformers, in float64 and float32."""

from contextlib import nullcontext

import pytest
import torch
from tests.helpers import right_mask
from tests.parity.reference import agree, both_gradients, widened
from tests.parity.weights import randomize
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
from qkv.blocks.positions import ALiBi, relative_buckets, rotate
from qkv.models.transformer import Transformer, TransformerConfig

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


def layers(ours, theirs):
    """Our modules beside theirs."""
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    sublayers = {"self_attention": "self_attn", "cross_attention": "encoder_attn"}
    for our_name, their_name in sublayers.items():
        if hasattr(theirs, their_name):
            mine, other = getattr(ours, our_name), getattr(theirs, their_name)
            yield from ((getattr(mine, a), getattr(other, b)) for a, b in names.items())
            norm = getattr(theirs, f"{their_name}_layer_norm")
            yield getattr(ours, f"{our_name}_residual").norm, norm
    yield ours.feed_forward.up, theirs.fc1
    yield ours.feed_forward.down, theirs.fc2
    yield ours.feed_forward_residual.norm, theirs.final_layer_norm


def modules(ours, theirs):
    """All our modules beside theirs."""
    yield ours.target_embedding, theirs.model.shared
    for side in ("encoder", "decoder"):
        blocks = getattr(ours, side).blocks, getattr(theirs.model, side).layers
        for pair in zip(*blocks, strict=True):
            yield from layers(*pair)


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
    found = list(modules(ours, theirs))
    for mine, reference in found:
        mine.load_state_dict(reference.state_dict())
    copied = {id(parameter) for mine, _ in found for parameter in mine.parameters()}
    assert copied == {id(parameter) for parameter in ours.parameters()}
    return ours


def test_marian():
    theirs = marian()
    assert not theirs.final_logits_bias.any()
    source, target = (torch.randint(1, VOCAB, (B, n)) for n in (S, T))
    source_mask, target_mask = right_mask([S, 4, 7], S), right_mask([5, T, 2], T)
    source, target = source * source_mask, target * target_mask

    def numbers(ours, theirs, dtype):
        reference = theirs(
            input_ids=source,
            attention_mask=source_mask.long(),
            decoder_input_ids=target,
            decoder_attention_mask=target_mask.long(),
        )
        memory = ours.encode(source, source_mask)[source_mask]
        logits = ours(source, target, source_mask=source_mask, target_mask=target_mask)
        pairs = {
            "memory": (memory, reference.encoder_last_hidden_state[source_mask]),
            "logits": (logits[target_mask], reference.logits[target_mask]),
        }
        both_gradients([pairs["logits"]])
        for i, (mine, other) in enumerate(modules(ours, theirs)):
            pairs[f"gradient {i}"] = mine.weight.grad, other.weight.grad
        return pairs

    agree(numbers, transformer_like(theirs), theirs)


def test_marian_step_by_step():
    theirs = marian()
    source, target = torch.randint(1, VOCAB, (B, S)), torch.randint(1, VOCAB, (B, T))
    mask = right_mask([S, 4, 7], S)

    def numbers(ours, theirs, dtype):
        with torch.no_grad():
            reference = theirs(source, mask.long(), decoder_input_ids=target).logits
            state = ours.start(source, mask)
            steps = torch.cat([ours.step(tokens, state) for tokens in target.split(1, 1)], 1)
        return {"logits": (steps, reference)}

    agree(numbers, transformer_like(theirs), theirs)


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
    places = torch.arange(5)

    def numbers(_, __, dtype):
        # Bloom writes slope * key place, which differs from -slope * distance by a number a query.
        with widened() if dtype == torch.float64 else nullcontext():
            ours = ALiBi(n_heads)
            bias = build_alibi_tensor(torch.ones(1, 5), n_heads, dtype).view(n_heads, 5)
        queries, keys = torch.randn(2, 1, n_heads, 5, 7).to(dtype)
        weights = [
            attention_weights(queries, keys, bias=bias, causal=True)
            for bias in (ours(places, places), bias[:, None].expand(-1, 5, -1))
        ]
        return {"slopes": (ours.slopes, bias[:, 1]), "weights": weights}

    agree(numbers, torch.nn.Identity(), torch.nn.Identity())


@pytest.mark.parametrize("base", [1e4, 5e5])
def test_llama_rotary(base):
    config = LlamaConfig(
        hidden_size=66,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": base},
    )
    positions = torch.arange(7) + torch.tensor([[0], [101]])

    def numbers(_, theirs, dtype):
        queries, keys = torch.randn(2, 2, 3, 7, 22).to(dtype)
        theirs = apply_rotary_pos_emb(queries, keys, *theirs(queries, positions))
        pairs = zip((queries, keys), theirs, strict=True)
        return {
            f"{i}": (rotate(x, positions, base=base), turned) for i, (x, turned) in enumerate(pairs)
        }

    agree(numbers, torch.nn.Identity(), LlamaRotaryEmbedding(config))


def test_llama_rms_norm():
    ours, theirs = RMSNorm(23, eps=1e-3), LlamaRMSNorm(23, eps=1e-3)
    theirs.weight.data.normal_()
    ours.load_state_dict(theirs.state_dict())

    def numbers(ours, theirs, dtype):
        x = torch.randn(3, 5, 23).to(dtype)
        return {"output": (ours(x), theirs(x))}

    agree(numbers, ours, theirs)
