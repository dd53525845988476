"""explicit == fused, forward and backward; weights sum to 1 or 0; nothing to see gives zeros."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import assert_close, unchecked

from qkv.attention.additive import AdditiveAttention
from qkv.attention.core import attention, attention_weights, explicit_attention, masked_softmax
from qkv.attention.local import LocalAttention
from qkv.attention.masks import attention_mask
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.multiplicative import DotAttention
from qkv.attention.variants.sink import SinkAttention
from qkv.errors import ShapeError

BATCH, D, DV = 2, 7, 5
MASKS = ("none", "token", "random", "per head", "nothing for some")


def make_mask(kind, n_heads, n_queries, n_keys):
    if kind == "none":
        return None
    if kind == "token":
        return attention_mask(torch.rand(BATCH, n_keys) < 0.6)
    shape = (BATCH, n_heads if kind == "per head" else 1, n_queries, n_keys)
    mask = torch.rand(shape) < 0.6
    if kind == "nothing for some":
        mask[0] = False
        mask[1, :, 0] = False
    return mask


@st.composite
def problems(draw):
    torch.manual_seed(draw(st.integers(0, 99)))
    groups, n_kv_heads = draw(st.sampled_from([(1, 3), (3, 1), (2, 3), (1, 1)]))
    n_heads = groups * n_kv_heads
    n_queries, n_keys = draw(st.sampled_from([(1, 11), (3, 11), (11, 11), (11, 3), (1, 1)]))

    def leaf(*shape):
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    bias = draw(st.sampled_from([None, (n_queries, n_keys), (n_heads, n_queries, n_keys)]))
    options = {
        "mask": make_mask(draw(st.sampled_from(MASKS)), n_heads, n_queries, n_keys),
        "bias": None if bias is None else leaf(*bias),
        "causal": draw(st.booleans()),
        "scale": draw(st.sampled_from([None, 0.3])),
    }
    queries = leaf(BATCH, n_heads, n_queries, D)
    return queries, leaf(BATCH, n_kv_heads, n_keys, D), leaf(BATCH, n_kv_heads, n_keys, DV), options


def gradients(outputs, inputs, upstream):
    return torch.autograd.grad((outputs * upstream).sum(), inputs)


@settings(max_examples=120)
@given(problems())
def test_explicit_equals_fused_forward_and_backward(problem):
    *inputs, options = problem
    explicit, fused = explicit_attention(*inputs, **options), attention(*inputs, **options)
    torch.testing.assert_close(fused, explicit, rtol=1e-12, atol=1e-13)
    if options["bias"] is not None:
        inputs.append(options["bias"])
    upstream = torch.randn_like(explicit)
    for ours, reference in zip(
        gradients(fused, inputs, upstream), gradients(explicit, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, reference, rtol=1e-12, atol=1e-12)


@settings(max_examples=60)
@given(problems())
def test_weights_sum_to_one_or_to_zero(problem):
    queries, keys, _, options = problem
    weights = attention_weights(queries, keys, **options)
    n_queries, n_keys = weights.shape[-2:]
    allowed = torch.ones(n_queries, n_keys, dtype=torch.bool)
    if options["causal"]:  # written out: the last query is level with the last key
        places = torch.arange(n_keys) - torch.arange(n_queries)[:, None]
        allowed = places <= n_keys - n_queries
    if options["mask"] is not None:
        allowed = allowed & options["mask"]
    allowed = allowed.expand(weights.shape)
    assert (weights[~allowed] == 0).all()
    assert (weights[allowed] > 0).all()
    sums = allowed.any(-1).double()
    torch.testing.assert_close(weights.sum(-1), sums, rtol=1e-12, atol=0)


@st.composite
def any_shapes(draw):
    """Shapes of queries, keys, values, mask and bias, of which most do not fit each other."""
    batch, heads, groups, n_queries, n_keys, width = 2, 6, 3, 5, 7, 11
    shapes = [
        [batch, heads, n_queries, width],
        [batch, groups, n_keys, width],
        [batch, groups, n_keys, 13],
        [batch, heads, n_queries, n_keys],
        [batch, heads, n_queries, n_keys],
    ]
    for _ in range(draw(st.integers(0, 2))):
        shape = draw(st.sampled_from(shapes))
        axis = draw(st.integers(0, len(shape) - 1))
        change = draw(st.sampled_from(["size", "size", "drop", "add"]))
        if change == "size":
            shape[axis] = draw(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 8, 11]))
        elif change == "drop" and len(shape) > 1:
            del shape[axis]
        else:
            shape.insert(axis, draw(st.integers(1, 3)))
    dtypes = [torch.float64] * 4
    if draw(st.integers(0, 9)) == 0:
        dtypes[draw(st.integers(0, 3))] = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    return shapes, dtypes


@settings(max_examples=400)
@given(any_shapes())
def test_both_paths_refuse_the_same_shapes_and_agree_on_the_others(problem):
    (queries, keys, values, mask, bias), dtypes = problem
    inputs = [
        torch.randn(shape, dtype=dtype)
        for shape, dtype in zip((queries, keys, values, bias), dtypes, strict=True)
    ]
    options = {"mask": torch.rand(mask) < 0.6, "bias": inputs.pop()}
    outcomes = []
    with unchecked():
        for function in (explicit_attention, attention):
            try:
                outcomes.append(function(*inputs, **options))
            except ShapeError as error:
                outcomes.append(str(error))
    explicit, fused = outcomes
    if isinstance(fused, str):
        assert explicit == fused
    else:
        torch.testing.assert_close(fused, explicit, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("function", [explicit_attention, attention])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1, 2, 3, 4), (1, 2, 5, 8), (1, 2, 5, 8)), r"keys \(1, 2, 5, 8\) .* as wide as queries"),
        (((2, 3, 4), (2, 5, 4), (2, 5, 4)), r"shapes \(2, 3, 4\), .* expected four axes each"),
        (((1, 3, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4)), "3 query heads and 2 key heads: .* divide"),
        (((1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 7, 4)), r"values \(1, 2, 7, 4\); .* as many values"),
        (((2, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)), r"queries have shape \(2, .* one batch"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(function, shapes, message):
    with unchecked(), pytest.raises(ShapeError, match=message):
        function(*map(torch.ones, shapes))


@pytest.mark.parametrize("function", [explicit_attention, attention])
def test_a_bias_or_dtype_that_does_not_fit_is_refused(function):
    x = torch.ones(1, 2, 3, 4)
    with (
        unchecked(),
        pytest.raises(ShapeError, match=r"bias has shape \(5, 3\), which does not"),
    ):
        function(x, x, x, bias=torch.ones(5, 3))
    with pytest.raises(ShapeError, match=r"dtypes torch.float32, torch.float64, .* expected one"):
        function(x, x.double(), x)
    with torch.autocast("cpu"):
        assert function(x, x.bfloat16(), x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_the_truth_explicitly_as_fused(dtype):
    """Scores of hundreds, as real checkpoints have: 16 bits of them tell no two apart."""
    queries, keys, values = (
        (torch.randn(2, heads, n, 64, dtype=torch.float64) * scale).to(dtype)
        for heads, n, scale in ((6, 13, 8), (3, 29, 8), (3, 29, 1))
    )
    mask = torch.rand(2, 1, 13, 29) < 0.8
    truth = explicit_attention(*(x.double() for x in (queries, keys, values)), mask=mask)
    ours, fused = (f(queries, keys, values, mask=mask) for f in (explicit_attention, attention))
    assert ours.dtype == fused.dtype == dtype
    error, allowed = ((x.double() - truth).abs().max() for x in (ours, fused))
    assert error <= allowed + torch.finfo(dtype).eps * truth.abs().max()
    weights = attention_weights(queries, keys, mask=mask)
    assert weights.dtype == torch.float32
    exact = attention_weights(queries.double(), keys.double(), mask=mask)
    assert (weights.double() - exact).abs().max() < 1e-4


def test_weights_of_fp16_do_not_overflow():
    """A score of 45 * 45 * 64 is beyond fp16's 65,504 before it is divided by sqrt(64)."""
    x = torch.full((1, 2, 3, 64), 45.0, dtype=torch.float16)
    assert_close(attention_weights(x, x), torch.full((1, 2, 3, 3), 1 / 3), 1e-6)
    assert torch.equal(explicit_attention(x, x, x), x)
    attend = SinkAttention(128, 2).half()
    assert attend.weights(x, x, None).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("function", [explicit_attention, attention])
def test_nothing_to_attend_to_gives_zeros_forward_and_backward(function, with_bias, dtype):
    queries, keys, values = (
        torch.randn(2, 3, n, 5, dtype=dtype, requires_grad=True) for n in (7, 11, 11)
    )
    bias = torch.randn(3, 7, 11, dtype=dtype, requires_grad=True) if with_bias else None
    mask = torch.rand(2, 1, 7, 11) < 0.5
    mask[0], mask[1, :, 2] = False, False
    heads = function(queries, keys, values, mask=mask, bias=bias)
    assert (heads[0] == 0).all()
    assert (heads[1, :, 2] == 0).all()
    assert heads.isfinite().all()
    inputs = [x for x in (queries, keys, values, bias) if x is not None]
    grads = torch.autograd.grad(heads.square().sum(), inputs)
    assert all(grad.isfinite().all() for grad in grads)
    assert all((grad[0] == 0).all() for grad in grads[:3])
    assert (grads[0][1, :, 2] == 0).all()
    assert grads[0].any()


def test_masked_softmax_of_nothing_has_no_gradient():
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 5, [False] * 5, [True, False, True, False, False]])
    with torch.autograd.set_detect_anomaly(True):  # not even a NaN that is thrown away later
        weights = masked_softmax(scores, mask)
        (gradient,) = torch.autograd.grad(weights.square().sum(), scores)
    assert (weights[1] == 0).all()
    assert (gradient[1] == 0).all()
    assert gradient[0].all()
    assert (gradient[2] != 0).tolist() == [True, False, True, False, False]


def single_head_mechanisms(d=5):
    dot = DotAttention(d, d)
    return {
        "additive": AdditiveAttention(d, d, 3),
        "dot": dot,
        "local-m": LocalAttention(dot, d, window=2, kind="local-m"),
        "local-p": LocalAttention(dot, d, window=2, kind="local-p"),
        "multi-head": MultiHeadAttention(d, 5),
    }


@pytest.mark.parametrize("kind", list(single_head_mechanisms()))
def test_a_module_with_nothing_to_attend_to(kind):
    module = single_head_mechanisms()[kind].double()
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(2, 11, 5, dtype=torch.float64, requires_grad=True)
    tokens = torch.ones(2, 11, dtype=torch.bool)
    tokens[0] = False
    out = module(x, memory, mask=attention_mask(tokens))
    nothing = module.output.bias if kind == "multi-head" else torch.zeros(5, dtype=torch.float64)
    assert_close(out[0] + 1, nothing.expand(3, 5) + 1)
    gradients = torch.autograd.grad(
        out.square().sum(), [x, memory, *module.parameters()], allow_unused=True
    )
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)
    assert (gradients[1][0] == 0).all()
    assert gradients[1][1].any()


@pytest.mark.parametrize(
    ("kind", "sums_to_one"), [("additive", True), ("dot", True), ("local-m", True), ("local-p", 0)]
)
def test_single_head_weights_sum_to_one_and_predicted_windows_to_less(kind, sums_to_one):
    module = single_head_mechanisms()[kind].double()
    x, memory = torch.randn(2, 3, 5).double(), torch.randn(2, 11, 5).double()
    sums = module.weights(x, module.keys(memory), None, None).sum(-1)
    if sums_to_one:
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-12, atol=0)
    else:
        assert ((sums > 0) & (sums < 1)).all()
