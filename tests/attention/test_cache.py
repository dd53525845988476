import pytest
import torch

from qkv.attention.cache import KeyValueCache, MemoryCache
from qkv.errors import LengthError

B, G, D = 3, 2, 5


def entries(n, start=0):
    keys = torch.arange(start, start + n).double()[None, None, :, None].expand(B, G, n, D)
    return keys, keys + 0.5


def rows():
    return torch.arange(B)[:, None, None, None].expand(B, G, 1, D).double()


def test_grows_beyond_what_it_allocated_and_keeps_the_past():
    cache = KeyValueCache(capacity=4)
    for start in range(0, 21, 3):
        keys, values = cache.update(lambda start=start: entries(3, start))
        assert cache.length == start + 3
        assert torch.equal(keys, entries(start + 3)[0])
        assert torch.equal(values, entries(start + 3)[1])


def test_does_not_copy_the_past_at_each_step():
    cache = KeyValueCache(capacity=8)
    addresses = set()
    for start in range(64):
        keys, _ = cache.update(lambda start=start: entries(1, start))
        addresses.add(keys.data_ptr())
    assert len(addresses) <= 4  # 8, 16, 32, 64 places


def test_rewinds_and_overwrites():
    cache = KeyValueCache()
    cache.update(lambda: entries(7))
    cache.rewind(2)
    keys, _ = cache.update(lambda: entries(3, start=40))
    assert keys[0, 0, :, 0].tolist() == [0, 1, 40, 41, 42]


@pytest.mark.parametrize("length", [-1, 8])
def test_rewinds_within_what_it_holds_only(length):
    cache = KeyValueCache()
    cache.update(lambda: entries(7))
    with pytest.raises(LengthError, match=f"cannot rewind to length {length}: the cache holds 7"):
        cache.rewind(length)


@pytest.mark.parametrize("cache", [KeyValueCache(), MemoryCache()])
def test_reorders_rows(cache):
    cache.reorder(torch.tensor([0]))  # nothing is held yet
    cache.update(lambda: (rows(), rows() + 10))
    cache.reorder(torch.tensor([2, 2, 0, 1]))
    cache.rewind(getattr(cache, "length", 0))
    if isinstance(cache, KeyValueCache):
        new = torch.full((4, G, 1, D), 7.0).double()
        keys, values = cache.update(lambda: (new, new))
        assert keys[:, 0, 1, 0].tolist() == [7] * 4
    else:
        keys, values = cache.update(lambda: pytest.fail("computed the memory twice"))
    assert keys[:, 0, 0, 0].tolist() == [2, 2, 0, 1]
    assert values[:, 0, 0, 0].tolist() == [12, 12, 10, 11]
