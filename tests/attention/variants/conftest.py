import pytest

from qkv.attention.variants import chunks


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of two queries: the short texts of these tests have several."""
    monkeypatch.setattr(chunks, "SMALLEST_CHUNK", 2)
