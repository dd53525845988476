"""What every test starts from: the same random numbers, and threads for a small machine."""

import os

import pytest
import torch
from hypothesis import settings

# Tensors of a few numbers: two threads only wait for each other.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# One machine's pause is not a bug, and a failure must come back on the next run.
settings.register_profile("qkv", deadline=None, derandomize=True)
settings.load_profile("qkv")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pytest_terminal_summary(terminalreporter, config):
    """Say in one line how many tests were skipped without the data sets, and what to set."""
    where = str(config.rootpath / "tests")
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple) and "QKV_DATA" in report.longrepr[2]:
            reason = "these need the data sets; set QKV_DATA to their folder (CONTRIBUTING.md)"
            report.longrepr = where, None, reason
