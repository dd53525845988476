"""The compiled kernel's product against float64, and how it is built."""

import logging
import os
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from qkv.errors import ShapeError
from qkv.inference import build
from qkv.inference.modules import PackedLinear
from qkv.inference.packed import PACKINGS, Packed, pack

KINDS = [(packing, groups) for packing in PACKINGS for groups in (False, True)]
needs_kernel = pytest.mark.skipif(not build.kernel(), reason="there is no C++ compiler")


def product(x, matrix: Packed, bias=None):
    return PackedLinear(matrix, bias)(x)


def exact(x, matrix: Packed, bias=None):
    expanded = matrix.expand().double()
    return F.linear(x.double(), expanded, None if bias is None else bias.double())


def close(ours, reference, x, matrix):
    """Compare within what rounding in float32 may add up to: |x| |w| times some ulp."""
    size = F.linear(x.double().abs(), matrix.expand().double().abs())
    ulp = torch.finfo(torch.float32).eps
    assert ((ours - reference).abs() <= 16 * ulp * size + 1e-30).all()


@needs_kernel
@pytest.mark.parametrize(("packing", "groups"), KINDS)
@pytest.mark.parametrize("rows", range(1, 17))
def test_products_equal_those_of_the_expanded_weights(packing, groups, rows):
    for n, k in ((37, 32), (5, 131), (19, 160), (1, 7)):
        matrix, bias = pack(torch.randn(n, k), packing, groups=groups), torch.randn(n)
        x = torch.randn(rows, k)
        close(product(x, matrix, bias), exact(x, matrix, bias), x, matrix)
        close(product(x, matrix), exact(x, matrix), x, matrix)


@needs_kernel
@pytest.mark.parametrize("packing", ["int8", "int4"])
@pytest.mark.parametrize("rows", [17, 64, 67])
def test_more_rows_of_integers_in_groups_are_as_exact(packing, rows):
    matrix, x = pack(torch.randn(37, 160), packing, groups=True), torch.randn(rows, 160)
    close(product(x, matrix), exact(x, matrix), x, matrix)


@needs_kernel
@pytest.mark.parametrize(("packing", "groups"), [k for k in KINDS if k[0].startswith("int")])
@pytest.mark.parametrize(("n", "k"), [(37, 32), (5, 131), (19, 160), (1, 7)])
def test_integers_are_expanded_to_the_bit(packing, groups, n, k):
    matrix = pack(torch.randn(n, k), packing, groups=groups)
    assert torch.equal(torch.ops.qkv.expand(matrix.weight, matrix.scales), matrix.expand())
    assert torch.equal(PackedLinear(matrix).weight, matrix.expand())


@needs_kernel
@pytest.mark.parametrize(("packing", "groups"), KINDS)
def test_an_outlier_costs_no_more_than_in_float32(packing, groups):
    matrix, x = pack(torch.randn(37, 96), packing, groups=groups), torch.randn(3, 96)
    x[1, 17] = 1e6
    x[2] = 0
    close(product(x, matrix), exact(x, matrix), x, matrix)


@needs_kernel
@pytest.mark.parametrize(("packing", "groups"), KINDS)
def test_an_outlier_of_a_narrow_row_leaves_the_other_products_alone(packing, groups):
    weight, x = torch.randn(37, 5), torch.randn(3, 5)
    weight[3, 2], x[1, 2] = 0, 1e7
    matrix = pack(weight, packing, groups=groups)
    close(product(x, matrix), exact(x, matrix), x, matrix)


@needs_kernel
@pytest.mark.parametrize(("packing", "groups"), KINDS)
def test_rows_longer_than_a_chunk_of_integers(packing, groups):
    matrix, x = pack(torch.randn(3, 9_001), packing, groups=groups), torch.randn(2, 9_001)
    matrix = pack(torch.full((2, 9_001), 3.0), packing, groups=groups)
    x = torch.full((2, 9_001), -5.0)
    close(product(x, matrix), exact(x, matrix), x, matrix)


@needs_kernel
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("packing", PACKINGS)
def test_a_row_that_is_not_finite_gives_no_number(packing, value):
    x = torch.randn(3, 64)
    x[1, 5] = value
    y = product(x, pack(torch.randn(11, 64), packing))
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


@pytest.mark.parametrize("rows", [1, 17, 40])
@pytest.mark.parametrize(("packing", "groups"), KINDS)
def test_rows_of_another_width(packing, groups, rows, monkeypatch):
    monkeypatch.setattr("qkv.inference.modules.fast_int8", lambda: True)
    layer = PackedLinear(pack(torch.randn(13, 64), packing, groups=groups))
    message = rf"x has shape \({rows}, 63\), but the packed weight has 13 rows of 64 numbers"
    with pytest.raises(ShapeError, match=message):
        layer(torch.randn(rows, 63))
    assert layer(torch.randn(0, 64)).shape == (0, 13)


@needs_kernel
def test_tensors_that_lie_apart_in_memory_are_read_rightly():
    matrix = pack(torch.randn(13, 31), "int8")
    x = torch.randn(31, 6)[:, ::2].T
    close(product(x, matrix), exact(x, matrix), x, matrix)


@needs_kernel
def test_gradients_of_the_input_are_those_of_the_expanded_weights():
    matrix = pack(torch.randn(5, 32), "int4")
    x = torch.randn(3, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(product(x, matrix).sum(), x)
    torch.testing.assert_close(gradient, matrix.expand().sum(0).expand(3, -1))


def test_without_the_kernel_pytorch_computes(monkeypatch):
    monkeypatch.setattr("qkv.inference.modules.kernel", lambda: False)
    monkeypatch.setattr("qkv.inference.modules.fast_int8", lambda: False)
    monkeypatch.setattr("qkv.inference.modules.fast_bfloat16", lambda: False)
    for packing, groups in KINDS:
        matrix, x = pack(torch.randn(7, 64), packing, groups=groups), torch.randn(3, 64)
        close(product(x, matrix), exact(x, matrix), x, matrix)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, in which nothing was compiled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.kernel.cache_clear()
    yield tmp_path
    build.kernel.cache_clear()


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("QKV_KERNEL", "off")
    assert not build.kernel()
    assert not list(fresh.iterdir())


def fake_compiler(folder, script: str) -> str:
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.skipif(sys.platform == "win32", reason="the compilers are shell scripts")
class TestBuild:
    def test_no_compiler(self, fresh, monkeypatch, caplog):
        monkeypatch.setenv("PATH", str(fresh))
        monkeypatch.delenv("CXX", raising=False)
        assert not build.kernel()
        assert "PyTorch computes instead of the compiled kernel: no C++ compiler" in caplog.text

    def test_a_compiler_that_fails_is_quoted(self, fresh, monkeypatch, caplog):
        monkeypatch.setenv("CXX", fake_compiler(fresh, "echo 'x.h: fatal error: gone' >&2; exit 3"))
        assert not build.kernel()
        expected = "the compiler failed (exit status 3): x.h: fatal error: gone"
        assert expected in caplog.text
        assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 2

    def test_a_library_that_dies_or_computes_wrongly_is_not_kept(self, fresh, monkeypatch, caplog):
        script = 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"'
        monkeypatch.setenv("CXX", fake_compiler(fresh, script))
        assert not build.kernel()
        assert "the compiled kernel fails its check (exit status 1)" in caplog.text
        assert not list(fresh.rglob("*.so"))

    def test_a_cache_that_cannot_be_written(self, fresh, monkeypatch, caplog):
        (fresh / "qkv").write_text("a file where a folder should be")
        monkeypatch.setenv("CXX", fake_compiler(fresh, "exit 0"))
        assert not build.kernel()
        assert "PyTorch computes instead" in caplog.text


CLANG = """
import torch
from qkv.inference.build import kernel
from qkv.inference.optimize import optimize
from qkv.models.llama import Llama, LlamaConfig
assert kernel()
torch.manual_seed(0)
config = LlamaConfig(vocab_size=37, d_model=32, n_heads=4, n_kv_heads=2, d_ff=44, n_layers=2)
model = Llama(config).eval()
for dtype in ("float32", "bfloat16", "int8", "int4"):
    fast = optimize(model, dtype)
    state, tokens = fast.start(torch.randint(37, (3, 5))), torch.randint(37, (3, 2))
    steps = [fast.step(tokens, state) for _ in range(3)]
    state.rewind(0)
    fast.stack._may_decode = lambda *args: False
    for ours in steps:
        theirs = fast.step(tokens, state)
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max(), dtype
"""


@pytest.mark.skipif(shutil.which("clang++") is None, reason="there is no compiler clang++")
def test_clang_compiles_the_same_function(tmp_path):
    environment = {**os.environ, "CXX": "clang++", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", CLANG]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("*.so"))) == 1


def test_the_command_lines_of_the_compilers(tmp_path):
    gcc = [*build._command("g++"), *build._output("g++", tmp_path / "k.so")]
    assert gcc[0] == "g++"
    assert {"-O3", "-march=native", "-shared", "-ltorch_cpu", str(build.SOURCE)} <= set(gcc)
    assert "-ffast-math" not in gcc
    assert gcc[gcc.index("-o") + 1] == str(tmp_path / "k.so")
    for name in ("cl", "C:/VC/bin/CL.EXE"):
        cl = [*build._command(name), *build._output(name, tmp_path / "k.dll")]
        assert cl[0] == name
        assert {"/LD", "/O2", "/std:c++20", "/fp:precise", str(build.SOURCE)} <= set(cl)
        assert [one for one in cl if one.startswith("-I")]
        assert f"/Fe{tmp_path / 'k.dll'}" in cl
        assert f"/Fo{tmp_path / 'k.obj'}" in cl
        assert cl[-1].endswith("torch_cpu.lib")
        assert not {"-O3", "-o", "-shared"} & set(cl)


@needs_kernel
def test_two_processes_may_compile_at_the_same_time(tmp_path):
    code = "from qkv.inference.build import kernel; raise SystemExit(not kernel())"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert len(list(tmp_path.rglob("*.so"))) == 1
    assert not [folder for folder in (tmp_path / "qkv" / "kernels").iterdir() if folder.is_dir()]
