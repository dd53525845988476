"""Splits of data sets that have none, by hashes of keys."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from qkv.errors import ConfigError, DataError

Example = TypeVar("Example")

USUAL_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_by_hash(keys: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """The part of each key, by its checksum, so that rows which come or go move no other.

    Args:
        keys: one a row; rows of one key, such as the translations of one sentence, stay together.
        shares: of the parts, with the sum 1.
    """
    parts, ends = list(shares), np.cumsum(list(shares.values()))
    places = np.searchsorted(ends, _places(keys), side="right")
    return [parts[min(place, len(parts) - 1)] for place in places]


def hold_out_groups(
    examples: Sequence[Example], keys: Sequence[str], share: float
) -> tuple[list[Example], list[Example]]:
    """Hold out a share of the keys with all their examples: what stays, and what is held out.

    Both are in order. Which keys are held out depends on the keys alone.

    Args:
        examples: of any kind.
        keys: one an example; examples of one key, such as the questions on one article, stay
            together, as one would help to answer the other.
        share: of the different keys; at least one is held out, and one stays.

    Raises:
        ConfigError: a share that is not between 0 and 1.
        DataError: not as many keys as examples, or fewer than two different ones.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share = {share} to hold out; expected between 0 and 1, such as 0.1")
    unordered = list(set(keys))
    different = [key for _, key in sorted(zip(_places(unordered), unordered, strict=True))]
    if len(keys) != len(examples) or len(different) < 2:
        raise DataError(
            f"{len(examples)} examples and {len(keys)} keys, {len(different)} different; expected "
            "a key for each, and two different keys or more, to hold one out"
        )
    n_held = min(max(1, round(share * len(different))), len(different) - 1)
    held = set(different[:n_held])
    stays, held_out = list[Example](), list[Example]()
    for example, key in zip(examples, keys, strict=True):
        (held_out if key in held else stays).append(example)
    return stays, held_out


def _places(keys: Sequence[str]) -> list[float]:
    """A number from 0 to 1 for each key, the same on every machine."""
    sums = (hashlib.blake2b(key.encode(), digest_size=6).digest() for key in keys)
    return [int.from_bytes(checksum, "big") / 2**48 for checksum in sums]
