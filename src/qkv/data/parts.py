"""Splits by hashes of keys, for data sets without published splits."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from qkv.errors import ConfigError, DataError

Example = TypeVar("Example")

USUAL_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_by_hash(keys: Sequence[str], shares: Mapping[str, float]) -> list[str]:
    """Assign each key to a split by its hash, so that adding or removing rows moves no other row.

    Args:
        keys: one per row; rows with the same key, such as translations of one sentence, share a
            split.
        shares: fraction of each split, with the sum 1.
    """
    names, ends = list(shares), np.cumsum(list(shares.values()))
    indices = np.searchsorted(ends, _hashes(keys), side="right")
    return [names[min(index, len(names) - 1)] for index in indices]


def hold_out_groups(
    examples: Sequence[Example], keys: Sequence[str], share: float
) -> tuple[list[Example], list[Example]]:
    """Hold out a fraction of the keys; return the remaining and the held-out examples, in order.

    The choice depends on the keys alone.

    Args:
        examples: examples of any type.
        keys: one per example; examples with the same key, such as the questions on one article,
            share a split.
        share: fraction of the distinct keys; at least one is held out, and one remains.

    Raises:
        ConfigError: a fraction that is not between 0 and 1.
        DataError: the numbers of keys and examples differ, or there are fewer than two distinct
            keys.
    """
    if not 0 < share < 1:
        raise ConfigError(f"share = {share} to hold out; expected between 0 and 1, such as 0.1")
    unordered = list(set(keys))
    different = [key for _, key in sorted(zip(_hashes(unordered), unordered, strict=True))]
    if len(keys) != len(examples):
        raise DataError(f"{len(examples)} examples and {len(keys)} keys; expected one key each")
    if len(different) < 2:
        raise DataError(
            f"there are {len(different)} different inputs in {len(examples)} examples; expected at "
            "least 2, one of them to validate with (or another source, data.validation)"
        )
    n_held = min(max(1, round(share * len(different))), len(different) - 1)
    held = set(different[:n_held])
    stays, held_out = list[Example](), list[Example]()
    for example, key in zip(examples, keys, strict=True):
        (held_out if key in held else stays).append(example)
    return stays, held_out


def _hashes(keys: Sequence[str]) -> list[float]:
    """Map each key to a number in [0, 1), the same on every machine."""
    sums = (hashlib.blake2b(key.encode(), digest_size=6).digest() for key in keys)
    return [int.from_bytes(checksum, "big") / 2**48 for checksum in sums]
