"""The indexer of top-k attention selects the keys that DeepSeek-V3.2 selects in transformers."""

from types import SimpleNamespace

import pytest
import torch
from tests.helpers import randomized
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Indexer

from qkv.attention.masks import causal_mask
from qkv.attention.variants.top_k import TopKAttention, select_top_k
from qkv.blocks.positions import Rotary

B, L, D_MODEL, H, D, J = 2, 23, 12, 3, 4, 5


@pytest.mark.parametrize("k", [1, 7, 29])
def test_the_selected_keys_are_those_of_transformers(k):
    """Their queries are projected from a compressed token; here, from the token itself."""
    rotary = Rotary(D, layout="halves")
    ours = TopKAttention(D_MODEL, H, k=k, n_index_heads=J, causal=True, rotary=rotary)
    randomized(ours, torch.float32)
    theirs = DeepseekV32Indexer(
        SimpleNamespace(
            hidden_size=D_MODEL,
            q_lora_rank=D_MODEL,
            index_n_heads=J,
            index_head_dim=D,
            qk_rope_head_dim=D,
            index_topk=k,
        ),
        0,
    )
    names = {"wq_b": "index_query", "wk": "index_key", "weights_proj": "index_weight"}
    names["k_norm"] = "index_key_norm"
    for their_name, our_name in names.items():
        theirs.get_submodule(their_name).load_state_dict(ours.get_submodule(our_name).state_dict())
    x, places = torch.randn(B, L, D_MODEL), torch.arange(L)
    divisors = 10_000.0 ** (-torch.arange(0, D, 2) / D)
    angles = (places[:, None] * divisors).repeat(1, 2).expand(B, L, D)
    past = causal_mask(L, L)
    indices = theirs(x, x, (angles.cos(), angles.sin()), past.expand(B, L, L), places)
    expected = torch.zeros(B, L, L, dtype=torch.bool).scatter(-1, indices.long(), True) & past
    with torch.no_grad():
        scores = ours._index_scores(x, ours._index_keys(x, places), places)
    assert torch.equal(select_top_k(scores, past[None, None], k)[:, 0], expected)
