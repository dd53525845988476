"""Every variant, small, in float64, with random parameters; and what it is compared with.

B 2, L 11, heads 3 of width 4 (rotary turns pairs), windows of 2.
"""

import torch
from tests.helpers import assert_close, randomized

from qkv.attention.cache import KeyValueCache
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.variants.differential import DifferentialAttention
from qkv.attention.variants.differential_v2 import DifferentialV2Attention
from qkv.attention.variants.dilated_window import DilatedWindowAttention
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.gated_delta import DeltaState, GatedDeltaAttention
from qkv.attention.variants.global_tokens import GlobalTokensAttention
from qkv.attention.variants.latent import LatentAttention
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.linear_state import LinearState
from qkv.attention.variants.qk_norm import QKNormAttention
from qkv.attention.variants.relative import RelativeAttention
from qkv.attention.variants.sigmoid import SigmoidAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.softcap import SoftcapAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.attention.variants.streaming_cache import StreamingCache
from qkv.attention.variants.top_k import TopKAttention
from qkv.blocks.positions import Rotary

B, L, D_MODEL, H, D = 2, 11, 12, 3, 4
SIZES = (D_MODEL, H)

MECHANISMS = {
    "sliding": lambda causal: SlidingWindowAttention(
        *SIZES, window=2, n_kv_heads=1, causal=causal, rotary=Rotary(D)
    ),
    "dilated": lambda causal: DilatedWindowAttention(*SIZES, window=2, dilation=3, causal=causal),
    "global": lambda causal: GlobalTokensAttention(
        *SIZES, n_global=3, window=2, causal=causal, rotary=Rotary(D)
    ),
    "streaming": lambda causal: StreamingAttention(*SIZES, n_sinks=3, window=2, rotary=Rotary(D)),
    "linear": lambda causal: LinearAttention(*SIZES, causal=causal),
    "relative": lambda causal: RelativeAttention(*SIZES, max_distance=3, causal=causal),
    "sigmoid": lambda causal: SigmoidAttention(*SIZES, causal=causal),
    "sink": lambda causal: SinkAttention(*SIZES, n_kv_heads=1, causal=causal, rotary=Rotary(D)),
    "softcap": lambda causal: SoftcapAttention(
        *SIZES, cap=0.7, n_kv_heads=1, causal=causal, rotary=Rotary(D)
    ),
    "differential": lambda causal: DifferentialAttention(
        *SIZES, lambda_init=0.4, causal=causal, rotary=Rotary(D // 2)
    ),
    "differential-v2": lambda causal: DifferentialV2Attention(
        *SIZES, n_kv_heads=1, causal=causal, rotary=Rotary(D)
    ),
    "gated": lambda causal: GatedAttention(*SIZES, n_kv_heads=1, causal=causal, rotary=Rotary(D)),
    "gated-delta": lambda causal: GatedDeltaAttention(*SIZES, causal=causal),
    "qk-norm": lambda causal: QKNormAttention(
        *SIZES, n_kv_heads=1, causal=causal, rotary=Rotary(D)
    ),
    "top-k": lambda causal: TopKAttention(
        *SIZES, k=3, n_index_heads=2, n_kv_heads=1, causal=causal, rotary=Rotary(D)
    ),
    "latent": lambda causal: LatentAttention(
        *SIZES, d_latent=7, d_rotary=2, rotary=Rotary(2), causal=causal
    ),
}
RECURRENT = {"linear": LinearState, "gated-delta": DeltaState}  # keys are summed in a state
MAPS = {"differential-v2": 2}  # that a recorder gets of each head
BOTH_WAYS = [name for name in MECHANISMS if name not in ("streaming", "gated-delta")]
CASES = [(name, True) for name in MECHANISMS] + [(name, False) for name in BOTH_WAYS]


def build(name, causal=True):
    return randomized(MECHANISMS[name](causal))


def make_cache(name):
    if name in RECURRENT:
        return RECURRENT[name]()
    return StreamingCache(n_sinks=3, window=2) if name == "streaming" else KeyValueCache()


def by_the_output(module):
    """Parameters that have a gradient by the output; an indexer has another loss."""
    return [p for name, p in module.named_parameters() if "index_" not in name]


def tokens(length=L):
    return torch.randn(B, length, D_MODEL, dtype=torch.float64)


def standard(variant, **options):
    """Multi-head attention with the variant's projections."""
    attention = MultiHeadAttention(
        *SIZES, causal=variant.causal, rotary=variant.rotary, **options
    ).double()
    missing = attention.load_state_dict(variant.state_dict(), strict=False).missing_keys
    assert missing == []
    return attention


def assert_same_function(ours, theirs, x, bound=1e-12):
    """Equal outputs and equal gradients of the input."""
    x = x.requires_grad_()
    upstream = torch.randn_like(x)
    outputs = ours(x), theirs(x)
    assert_close(*outputs, bound)
    assert_close(*(torch.autograd.grad((y * upstream).sum(), x)[0] for y in outputs), bound)
