import pytest
import torch

from qkv.attention.variants import chunks


@pytest.fixture(autouse=True)
def one_thread():
    """On tensors this small a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of two queries: the short texts of these tests have several."""
    monkeypatch.setattr(chunks, "SMALLEST_CHUNK", 2)
