"""What every test starts from: the same random numbers, and threads for a small machine.

Types and shapes are checked at run time in the tests of the parts that all others are made of, and
in all tests where ``QKV_NIGHTLY=1``: elsewhere the checks would take a third of the time.
"""

import getpass
import os
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tests.checking import NIGHTLY, type_checks

CHECKED = {"attention", "blocks", "models", "laws"}

# Tensors of a few numbers: two threads only wait for each other. Commands that tests start inherit
# the number, as does every worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# torch keeps what it compiles, and would run code for AVX-512 where the environment says AVX2: it
# crashes. So each has a folder of its own.
capability = torch.backends.cpu.get_cpu_capability().replace(" ", "-")
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR",
    str(Path(tempfile.gettempdir(), f"qkv-compiled-{getpass.getuser()}-{capability}")),
)

# One machine's pause is not a bug, and a failure must come back on the next run: but at night, new
# examples are tried, and a failure prints the line that repeats it.
settings.register_profile("qkv", deadline=None, derandomize=not NIGHTLY, print_blob=NIGHTLY)
settings.load_profile("qkv")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Check types, or do not, from the fixtures on that a module shares."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    with type_checks(NIGHTLY or folder in CHECKED):
        return (yield)


def pytest_terminal_summary(terminalreporter, config):
    """Say in one line how many tests were skipped without the data sets, and what to set."""
    where = str(config.rootpath / "tests")
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple) and "QKV_DATA" in report.longrepr[2]:
            reason = "these need the data sets; set QKV_DATA to their folder (CONTRIBUTING.md)"
            report.longrepr = where, None, reason
