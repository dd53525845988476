"""Every option of multi-head attention means the same in a variant, or is refused."""

import inspect

import pytest
import torch
from tests.attention.variants.mechanisms import B, D, H, L, assert_same_function
from tests.helpers import assert_close, randomized, right_mask

from qkv.attention.masks import attention_mask
from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants import chunks
from qkv.attention.variants.differential import DifferentialAttention
from qkv.attention.variants.differential_v2 import DifferentialV2Attention
from qkv.attention.variants.dilated_window import DilatedWindowAttention
from qkv.attention.variants.gated import GatedAttention
from qkv.attention.variants.global_tokens import GlobalTokensAttention
from qkv.attention.variants.latent import LatentAttention
from qkv.attention.variants.linear import LinearAttention
from qkv.attention.variants.qk_norm import QKNormAttention
from qkv.attention.variants.relative import RelativeAttention
from qkv.attention.variants.sigmoid import SigmoidAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.attention.variants.sliding_window import SlidingWindowAttention
from qkv.attention.variants.softcap import SoftcapAttention
from qkv.attention.variants.streaming import StreamingAttention
from qkv.attention.variants.top_k import TopKAttention
from qkv.blocks.positions import ALiBi, Rotary
from qkv.errors import ConfigError

D_MODEL, HEADS = 14, 6  # 14 is no multiple of 6: d_head has to be honored
TAKES_ALL = {
    "multi-head": (MultiHeadAttention, {}),
    "sliding": (SlidingWindowAttention, {"window": 3}),
    "dilated": (DilatedWindowAttention, {"window": 2, "dilation": 3}),
    "global": (GlobalTokensAttention, {"window": 2, "n_global": 3}),
    "streaming": (StreamingAttention, {"window": 2, "n_sinks": 3}),
    "relative": (RelativeAttention, {"max_distance": 3}),
    "softcap": (SoftcapAttention, {"cap": 0.7}),
    "sigmoid": (SigmoidAttention, {}),
    "sink": (SinkAttention, {}),
    "differential": (DifferentialAttention, {}),
    "differential-v2": (DifferentialV2Attention, {}),
    "gated": (GatedAttention, {}),
    "top-k": (TopKAttention, {"k": L}),
    "qk-norm": (QKNormAttention, {}),
}
every_variant = pytest.mark.parametrize("name", list(TAKES_ALL))
OPTIONS = list(AttentionOptions.__annotations__)


def build(name, **options):
    torch.manual_seed(5)
    kind, own = TAKES_ALL[name]
    return randomized(kind(D_MODEL, HEADS, d_head=D, **own, **options)).eval()


def words(length=L):
    return torch.randn(B, length, D_MODEL, dtype=torch.float64)


def test_the_options_are_those_of_multi_head_attention():
    parameters = inspect.signature(MultiHeadAttention).parameters.values()
    assert [p.name for p in parameters if p.kind is p.KEYWORD_ONLY] == OPTIONS


@every_variant
def test_key_heads_that_are_shared_equal_key_heads_that_are_repeated(name):
    grouped, whole = build(name, n_kv_heads=2), build(name)
    state = dict(grouped.state_dict())
    n_maps = 2 if name == "differential" else 1  # two maps share a head's values
    for kind in ("key", "value"):
        for part in ("weight", "bias"):
            heads = state[f"{kind}.{part}"].unflatten(0, (2, n_maps * D))
            state[f"{kind}.{part}"] = heads.repeat_interleave(HEADS // 2, 0).flatten(0, 1)
    whole.load_state_dict(state)
    assert_same_function(grouped, whole, words())


@every_variant
def test_projections_have_a_bias_where_options_say_so(name):
    def biases(**options):
        module = build(name, **options)
        return [getattr(module, part).bias is not None for part in ("query", "key", "output")]

    assert biases() == [True, True, True]
    assert biases(bias=False) == [False, False, False]
    assert biases(bias=False, qkv_bias=True) == [True, True, False]


@every_variant
def test_rotary_makes_the_order_of_tokens_count(name):
    plain, rotary = build(name), build(name, rotary=Rotary(D))
    rotary.load_state_dict(plain.state_dict())
    x = words()
    assert_close(plain(x, positions=torch.arange(L) * 5), plain(x))
    assert (rotary(x, positions=torch.arange(L) * 5) - rotary(x)).abs().max() > 1e-3


@every_variant
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("open_lengths", [False, True])
def test_a_bias_that_forbids_is_a_mask(name, padded, open_lengths, monkeypatch):
    """Scores of -1e30 beyond a distance of 1 hide what a mask hides, in every way to compute."""
    modules = [
        "qkv.attention.variants.sliding_window",
        "qkv.attention.variants.dilated_window",
        "qkv.attention.biased",
    ]
    for module in modules:
        monkeypatch.setattr(f"{module}.lengths_are_open", lambda: open_lengths)

    def far(queries, keys):
        distances = (keys[..., None, :] - queries[..., :, None]).abs()
        bias = torch.where(distances > 1, -1e30, 0.0).double()
        return bias[..., None, :, :].repeat_interleave(HEADS, -3)

    monkeypatch.setattr(chunks, "SMALLEST_CHUNK", 2)
    biased, masked = build(name, position_bias=far), build(name)
    # Keys at distances up to 1 alone; what a chunk hides stays hidden.
    places = torch.arange(L)
    near = (places[:, None] - places).abs() <= 1
    real = attention_mask(right_mask([L, 7], L)) if padded else None
    x, mask = words(), near if real is None else near & real
    if name == "sigmoid":  # whose weights depend on how many keys a mask allows
        n_near, n_all = mask.sum(-1, keepdim=True), torch.full((L, 1), L)
        n_all = n_all if real is None else real.sum(-1, keepdim=True)
        shift = (n_all.double() / n_near).log()
        monkeypatch.setattr(
            masked, "scores", lambda q, k, m: type(masked).scores(masked, q, k, m) - shift
        )
    outputs = biased(x, mask=real), masked(x, mask=mask)
    if padded:
        outputs = [out[right_mask([L, 7], L)] for out in outputs]
    assert_close(*outputs)


@every_variant
def test_a_bias_by_distance_changes_the_recorded_weights_and_the_output_alike(name):
    module = build(name, position_bias=randomized(ALiBi(HEADS)))
    x = words()
    plain = build(name)
    assert (module(x) - plain(x)).abs().max() > 1e-3
    queries = module.queries(x, torch.arange(L))
    keys, _ = module.keys_values(x, torch.arange(L))
    weights = module.weights(queries, keys, None)
    assert (weights - plain.weights(queries, keys, None)).abs().max() > 1e-3


@every_variant
def test_dropout_drops_in_training_alone(name, monkeypatch):
    monkeypatch.setattr(chunks, "SMALLEST_CHUNK", 2)
    module, plain = build(name, dropout=0.6), build(name)
    x = words()
    assert torch.equal(module(x), plain(x))
    module.train()
    dropped = module(x) != plain(x)
    assert dropped.any(-1).all()  # every query of both rows lost some weight


@every_variant
def test_dropout_drops_where_lengths_are_open(name, monkeypatch):
    monkeypatch.setattr("qkv.attention.variants.sliding_window.lengths_are_open", lambda: True)
    monkeypatch.setattr("qkv.attention.variants.dilated_window.lengths_are_open", lambda: True)
    module, plain = build(name, dropout=0.6), build(name)
    x = words()
    assert torch.equal(module(x), plain(x))
    assert (module.train()(x) != plain(x)).any(-1).all()


def test_a_stream_is_causal():
    assert StreamingAttention(12, H, window=2).causal
    assert StreamingAttention(12, H, window=2, causal=True).causal
    with pytest.raises(ConfigError, match=r"causal = False; .* GlobalTokensAttention"):
        StreamingAttention(12, H, window=2, causal=False)


@pytest.mark.parametrize(
    ("kind", "own", "taken"),
    [
        (LinearAttention, {}, {"causal"}),
        (
            LatentAttention,
            {"d_latent": 7, "d_rotary": 2, "rotary": Rotary(2)},
            {"causal", "rotary"},
        ),
    ],
)
def test_what_a_variant_cannot_honor_it_does_not_take(kind, own, taken):
    for option in set(OPTIONS) - taken:
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{option}'"):
            kind(12, H, **own, **{option: 1})


@every_variant
def test_an_unknown_option_is_refused(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'windw'"):
        build(name, windw=3)
