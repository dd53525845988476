"""Compile the kernel at first use, check it in a separate process, and load it.

The library is named by a hash of everything that it depends on. It gets this name only after a
separate process has compared its results with PyTorch's: if a processor claims instructions that it
cannot run, that process dies instead of this one.
"""

import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernel.cpp")
HEADERS = ("products.h", "words.h", "attention.h")
LOG = logging.getLogger(__name__)
SECONDS = 300  # timeout of the compiler or a check
# Sums may be reordered, as vectorization requires; NaN and infinity keep their meaning.
FLAGS = [
    *(
        "-std=c++20",
        "-O3",
        "-march=native",
        "-fPIC",
        "-shared",
        "-DTORCH_TARGET_VERSION=0x020a000000000000",
    ),
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno"),
]
MSVC_FLAGS = [
    "/nologo",
    "/std:c++20",
    "/O2",
    "/arch:AVX2",
    "/fp:precise",  # /fp:fast would take NaN for a number
    "/LD",
    "/EHsc",
    "/DTORCH_TARGET_VERSION=0x020a000000000000",
]


@cache
def kernel() -> bool:
    """Return whether `torch.ops.qkv` is available; the very first call compiles it (seconds).

    Without a compiler, with `QKV_KERNEL=off`, or if the compiled kernel's results are wrong,
    PyTorch is used instead. Failures are logged.
    """
    if os.environ.get("QKV_KERNEL") == "off":
        return False
    try:
        torch.ops.load_library(str(library()))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        LOG.warning("PyTorch computes instead of the compiled kernel: %s", error)
        return False
    return True


def library() -> Path:
    """Return the path of the compiled kernel; compile it if it does not exist.

    Raises:
        RuntimeError: if there is no compiler, it fails, or the kernel's results are wrong.
    """
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX", ""), "c++", "g++", "clang++", "cl"))),
        None,
    )
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (c++, g++, clang++, cl or $CXX)")
    command = _command(compiler)
    sources = [
        path.read_text(encoding="utf-8")
        for path in (SOURCE, *(SOURCE.with_name(name) for name in HEADERS))
    ]
    path = known_here(*sources, *command, suffix=".dll" if os.name == "nt" else ".so")
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    LOG.warning("compiling the kernel for this processor, once (some seconds) ...")
    # Two processes may compile at the same time: each in its own folder, and either result is good.
    with tempfile.TemporaryDirectory(dir=path.parent) as own:
        made = Path(own) / path.name
        _run([*command, *_output(compiler, made)], "the compiler failed")
        _run(
            [sys.executable, "-m", "qkv.inference.check", str(made)],
            "the compiled kernel fails its check",
        )
        os.replace(made, path)
    return path


def known_here(*parts: str, suffix: str) -> Path:
    """Return the path of a cache file for this processor and version of PyTorch.

    Args:
        parts: other values on which the content depends.
        suffix: end of the file's name.
    """
    key = "\n".join([*parts, torch.__version__, processor()])
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(key.encode()).hexdigest()[:16] + suffix
    return Path(cache_home) / "qkv" / "kernels" / name


def _command(compiler: str) -> list[str]:
    include = Path(torch.__file__).parent / "include"
    flags = MSVC_FLAGS if _is_msvc(compiler) else FLAGS
    return [compiler, *flags, f"-I{include}", str(SOURCE)]


def _output(compiler: str, path: Path) -> list[str]:
    libraries = Path(torch.__file__).parent / "lib"
    if _is_msvc(compiler):
        return [f"/Fe{path}", f"/Fo{path.with_suffix('.obj')}", str(libraries / "torch_cpu.lib")]
    return ["-o", str(path), f"-L{libraries}", "-ltorch_cpu"]


def _is_msvc(compiler: str) -> bool:
    return Path(compiler).stem.lower() == "cl"


def processor() -> str:
    """Return the model of this processor, and the features that it claims."""
    kinds = ("vendor_id", "model name", "flags", "Features")
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    kept = sorted({line for line in lines if line.startswith(kinds)})
    return "\n".join([platform.machine(), platform.processor(), *kept])


def _run(command: list[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        # "x.cpp:1:2: error: ..." of a compiler; the last line, "RuntimeError: ...", of Python.
        said = next((line for line in lines if re.search(r"error[: ]", line.lower())), lines[-1])
        raise RuntimeError(f"{failure} (exit status {done.returncode}): {said}")
