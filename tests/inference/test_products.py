"""Products of many rows, and attention of single queries, against float64."""

import copy
import shutil
import signal
import subprocess

import pytest
import torch
import torch.nn.functional as F

from qkv.attention.core import attention
from qkv.attention.multi_head import MultiHeadAttention
from qkv.blocks.feed_forward import ACTIVATIONS
from qkv.inference import build, products
from qkv.inference.build import kernel
from qkv.inference.modules import FastAttention, PackedLinear
from qkv.inference.optimize import fastest, optimize
from qkv.inference.packed import PACKINGS, pack
from qkv.inference.products import (
    FINE,
    FloatMatrix,
    Int8Matrix,
    fast_bfloat16,
    fast_int8,
    large_columns,
    round_rest,
    round_rows,
)
from qkv.models.bert import Bert, BertConfig

NONE = torch.zeros(0, dtype=torch.int64)  # no columns
needs_int8 = pytest.mark.skipif(not fast_int8(), reason="no fast products of 8-bit integers here")
needs_kernel = pytest.mark.skipif(not kernel(), reason="there is no C++ compiler")


def exact(x, layer):
    return F.linear(x.double(), layer.weight.double(), layer.bias.double())


@pytest.fixture(params=["kernel", "torch"])
def either(request, monkeypatch):
    """Rounding by the kernel and by PyTorch."""
    if request.param == "torch":
        monkeypatch.setattr(products, "kernel", lambda: False)
    elif not kernel():
        pytest.skip("there is no C++ compiler")


def test_rows_are_rounded_to_half_a_step(either):
    x = torch.randn(23, 67)
    integers, steps = round_rows(x, NONE)
    assert integers.dtype == torch.uint8
    back = (integers.float() - 128) * steps
    assert ((back - x).abs() <= 0.5001 * steps).all()
    torch.testing.assert_close(steps[:, 0], x.abs().amax(1) / 127)


def test_rows_that_8_bits_do_not_hold_are_marked(either):
    x = torch.randn(7, 900)
    x[1, 7], x[2, 7], x[3, 7], x[4], x[5, 7], x[6, 7] = 1e6, float("nan"), float("inf"), 0, 40, -60
    _, steps = round_rows(x, NONE)
    assert steps[1:4].isnan().all()
    assert steps[4] == 0
    assert steps[0] > 0
    assert [-127 * float(step) for step in steps[5:]] == pytest.approx([40, 60])


@pytest.mark.parametrize("size", [1e-18, 1e-30, 1e-40, 1e-45])
def test_tiny_rows_are_marked(either, size):
    x = torch.randn(5, 67)
    x[1:3] = x[1:3].sign() * size
    _, steps = round_rows(x, NONE)
    assert steps[1:3].isnan().all()
    assert (steps[[0, 3, 4]] > 0).all()


@pytest.mark.parametrize("rows", [1, 3, 16, 23])
@pytest.mark.parametrize("size", [1e-25, 1e-37, 1e-40, 1e-44])
def test_rows_of_denormals_are_as_exact_as_denormals_are(either, size, rows, monkeypatch):
    monkeypatch.setattr("qkv.inference.modules.fast_int8", lambda: True)
    layer = PackedLinear(pack(torch.randn(37, 67), "int8"))
    x = torch.randn(rows, 67)
    x[0] = x[0] * size
    reference = F.linear(x.double(), layer.weight.double())
    error = (layer(x)[0] - reference[0]).abs()
    least = torch.finfo(torch.float32).smallest_normal * torch.finfo(torch.float32).eps
    assert (error <= 1e-5 * reference[0].abs().max() + 67 * least).all()


def test_what_rounding_leaves_is_rounded_again(either):
    x = torch.randn(23, 900)
    x[3, 5], x[5], x[7, 2] = 50, 0, 30
    columns = torch.tensor([2])
    integers, steps = round_rows(x, columns)
    rest = round_rest(x, columns, steps)
    assert steps[3] < 0
    assert steps[5] == 0
    assert (steps[[0, 7]] > 0).all()
    back = (integers.float() - 128 + (rest.float() - 128) / FINE) * steps.abs()
    left_out = x.index_fill(1, columns, 0)
    assert ((back - left_out).abs() <= 0.51 / FINE * steps.abs()).all()


class TestCheck:
    """The check of the processor, whose result is kept."""

    @pytest.fixture
    def runs(self, monkeypatch, tmp_path):
        """The statuses of the checks to come, which are used up from the left."""
        statuses = list[int]()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(
            products.subprocess,
            "run",
            lambda *args, **options: subprocess.CompletedProcess(args, statuses.pop(0)),
        )
        return statuses

    @pytest.mark.parametrize(("status", "found"), [(0, True), (-signal.SIGILL, False)])
    def test_it_is_tried_once(self, runs, tmp_path, status, found):
        runs.append(status)
        assert [products._runs("int8") for _ in range(3)] == [found] * 3
        assert [path.suffix for path in tmp_path.rglob("*.*")] == [".int8"]

    @pytest.mark.parametrize("status", [1, -signal.SIGKILL])
    def test_what_was_not_found_out_is_tried_again(self, runs, status):
        runs += [status, 0]
        assert [products._runs("int8") for _ in range(3)] == [False, True, True]

    def test_another_processor_torch_kind_or_limit_is_another_check(self, runs, monkeypatch):
        runs += [0, -signal.SIGILL, -signal.SIGILL, -signal.SIGILL, -signal.SIGILL]
        assert products._runs("int8")
        assert not products._runs("bfloat16")
        for target, name, value in (
            (build, "processor", lambda: "flags : another"),
            (torch, "__version__", "0.0"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(target, name, value)
                assert not products._runs("int8")
        with monkeypatch.context() as patch:
            patch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
            assert not products._runs("int8")
        assert products._runs("int8")
        assert not runs

    def test_a_broken_or_unwritable_file_is_no_obstacle(self, runs, tmp_path):
        runs += [0, 0]
        assert products._runs("int8")
        next(tmp_path.rglob("*.int8")).write_text("nonsense")
        assert products._runs("int8")
        runs += [0, 0]
        shutil.rmtree(tmp_path / "qkv")
        (tmp_path / "qkv").write_text("a file where a folder should be")
        assert [products._runs("int8") for _ in range(2)] == [True, True]


@needs_int8
def test_columns_with_large_numbers_do_not_coarsen_the_rest(either):
    layer = PackedLinear(pack(torch.randn(37, 900), "int8"), torch.randn(37))
    x = torch.randn(29, 900)
    x[:, 3], x[::2, 5] = 1000 * x[:, 3], -60
    size = F.linear(x.double().abs(), layer.weight.double().abs())
    rest = x.index_fill(1, torch.tensor([3, 5]), 0)
    bound = rest.abs().amax(-1, keepdim=True) / 127 / 2 * layer.weight.abs().sum(1)
    assert ((layer(x) - exact(x, layer)).abs() <= 1.0001 * bound + 1e-6 * size).all()


@needs_int8
def test_rows_whose_large_numbers_are_in_many_columns_are_multiplied_twice(either):
    layer = PackedLinear(pack(torch.randn(37, 900), "int8"), torch.randn(37))
    x = torch.randn(137, 900)
    large = torch.arange(0, 137, 2)
    theirs = 13 * large % 900
    x[large, theirs] = 60
    columns = large_columns(x)
    twice = ~torch.isin(theirs, columns)
    assert len(columns) == 28
    assert twice.sum() == len(large) - 28
    error = layer(x) - exact(x, layer)
    assert error[large[twice]].std() < error[1::2].std() / 10  # 15 bits of 60 beside 8 bits of 3


@needs_int8
def test_many_rows_differ_by_rounding_alone(either):
    layer = PackedLinear(pack(torch.randn(37, 67), "int8"), torch.randn(37))
    x = torch.randn(3, 11, 67)
    bound = x.abs().amax(-1, keepdim=True) / 127 / 2 * layer.weight.abs().sum(1)
    assert ((layer(x) - exact(x, layer)).abs() <= 1.0001 * bound).all()


@needs_int8
def test_rows_with_outliers_are_exact(either):
    layer = PackedLinear(pack(torch.randn(37, 900), "int8"), torch.randn(37))
    x = torch.randn(29, 900)
    x[5, 3], x[7, 3], x[8] = 1e6, float("nan"), 0
    y, reference = layer(x), exact(x, layer)
    size = F.linear(x[5].double().abs(), layer.weight.double().abs())
    assert ((y[5] - reference[5]).abs() <= 1e-5 * size).all()
    assert y[7].isnan().all()
    assert torch.equal(y[8], layer.bias)
    assert torch.cosine_similarity(y[:5], reference[:5].float()).min() > 0.9998


@needs_int8
def test_the_largest_integers_do_not_saturate():
    integers = torch.full((3, 4096), 127, dtype=torch.int8)
    y, _ = Int8Matrix(integers, torch.ones(3))(torch.ones(17, 4096), None)
    torch.testing.assert_close(y, torch.full((17, 3), 127.0 * 4096))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")
@pytest.mark.parametrize("shape", [(29, 67), (3, 11, 67)])
@pytest.mark.parametrize("biased", [True, False])
def test_many_rows_laid_out_in_float32(shape, biased, monkeypatch):
    monkeypatch.setattr("qkv.inference.modules.fast_float32", lambda: True)
    layer = PackedLinear(pack(torch.randn(37, 67), "float32"), torch.randn(37) if biased else None)
    x = torch.randn(*shape)
    bias = layer.bias.double() if biased else None
    reference = F.linear(x.double(), layer.weight.double(), bias)
    size = F.linear(x.double().abs(), layer.weight.double().abs())
    assert ((layer(x) - reference).abs() <= 8 * torch.finfo(torch.float32).eps * (size + 3)).all()
    assert isinstance(layer._laid_out, FloatMatrix)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.skipif(not fast_bfloat16(), reason="no fast products of bfloat16 here")
def test_many_rows_in_bfloat16():
    layer = PackedLinear(pack(torch.randn(37, 67), "bfloat16"), torch.randn(37))
    x = torch.randn(29, 67)
    size = F.linear(x.double().abs(), layer.weight.double().abs())
    assert ((layer(x) - exact(x, layer)).abs() <= 2**-7 * size).all()


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("rows", [1, 5, 29])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_product_with_its_activation(packing, rows, activation, either, monkeypatch):
    monkeypatch.setattr("qkv.inference.modules.fast_float32", lambda: True)
    monkeypatch.setattr("qkv.inference.modules.kernel", products.kernel)
    layer = PackedLinear(pack(torch.randn(37, 67), packing), torch.randn(37))
    x = torch.randn(rows, 67)
    torch.testing.assert_close(layer(x, activation), ACTIVATIONS[activation](layer(x)))
    weight = layer.weight.double()
    gradient = torch.autograd.functional.jacobian(lambda x: layer(x, activation)[0, 0], x)
    before = F.linear(x[0].double(), weight[0], layer.bias[0].double())
    slope = torch.autograd.functional.jacobian(ACTIVATIONS[activation], before)
    torch.testing.assert_close(gradient[0].double(), slope * weight[0], rtol=1e-4, atol=1e-5)


@needs_kernel
def test_gelu_of_the_kernel_is_that_of_float64():
    layer = PackedLinear(pack(torch.ones(1, 1), "float32"))
    x = torch.linspace(-14, 14, 10_007)
    y = torch.stack([layer(one.view(1, 1), "gelu").view(()) for one in x.split(1)])
    exact = F.gelu(x.double())
    assert ((y - exact).abs() <= 4e-7 * (1 + x.relu()) * x.abs().clamp(max=1)).all()
    tail = (x < 0) & (x > -6)
    assert ((y - exact)[tail].abs() <= 1e-5 * exact[tail].abs()).all()
    odd = torch.tensor([[torch.inf], [torch.nan]])
    assert layer(odd, "gelu").flatten().tolist()[0] == torch.inf
    assert layer(odd, "gelu")[1].isnan()


@needs_kernel
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_single_queries_attend_as_in_float64(groups):
    fast = FastAttention(MultiHeadAttention(66, 6, n_kv_heads=groups, causal=True))
    room = torch.randn(2, 5, groups, 16, 11)
    keys, values = room[:, :, :, :13]  # a part of the memory, as a cache returns it
    queries = torch.randn(5, 6, 1, 11)
    mask = torch.rand(5, 1, 1, 13) > 0.4
    mask[3] = False
    for seen in (None, mask):
        ours = fast.attend(queries, keys, values, seen)
        theirs = attention(queries.double(), keys.double(), values.double(), mask=seen)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[3], torch.zeros(6, 1, 11))


def test_what_is_fastest_is_measured_and_said(caplog):
    config = BertConfig(
        vocab_size=11, n_positions=16, n_layers=1, n_segments=2, d_model=32, n_heads=2, d_ff=64
    )
    model = Bert(config).eval()
    assert fastest(model) in ("float32", "bfloat16", "int8")
    assert "dtype auto: " in caplog.text
    assert "products of 64 rows: float32" in caplog.text
    tokens = torch.randint(11, (2, 5))
    torch.testing.assert_close(optimize(model, "auto")(tokens), model(tokens), rtol=0.1, atol=0.1)


@needs_kernel
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("width", [11, 37])
@pytest.mark.parametrize("n", [2, 4, 13, 23])
def test_many_queries_attend_as_in_float64(groups, width, n):
    fast = FastAttention(MultiHeadAttention(6 * width, 6, n_kv_heads=groups))
    queries, mask = torch.randn(5, 6, n, width), torch.rand(5, 1, 1, 19) > 0.4
    keys, values = torch.randn(2, 5, groups, 19, width)
    mask[3] = False
    queries[1, 2, 1] *= 100  # one key has all the weight
    for seen in (None, mask):
        ours = fast.attend(queries, keys, values, seen)
        theirs = attention(queries.double(), keys.double(), values.double(), mask=seen)
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(ours[3], torch.zeros(6, n, width))


@needs_kernel
def test_a_query_or_a_key_that_is_not_finite_gives_no_number():
    fast = FastAttention(MultiHeadAttention(66, 6))
    queries, keys, values = torch.randn(3, 2, 6, 7, 11)
    queries[0, 1, 2, 3] = float("nan")
    keys[1, 2, 3, 4] = float("nan")
    y = fast.attend(queries, keys, values, None)
    assert y[0, 1, 2].isnan().all()
    assert y[1, 2].isnan().all()
    assert y[0, 0].isfinite().all()
