"""What every test starts from: the same random numbers, and threads for a small machine."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

# One machine's pause is not a bug, and a failure must come back on the next run.
settings.register_profile("qkv", deadline=None, derandomize=True)
settings.load_profile("qkv")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
