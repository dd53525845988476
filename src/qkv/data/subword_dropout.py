"""BPE-dropout: in training, the same word is segmented differently each time it is seen.

After Provilkov et al. 2020, "BPE-Dropout: Simple and Effective Subword Regularization",
https://arxiv.org/abs/1910.13267. Here a token is divided along the merges that made it, so only the
token ids are needed. The paper's algorithm may apply a dropped merge later; here it stays dropped.
So a lower rate divides tokens as often: 0.03 here is about 0.1 there (lengths in docs/log.md).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError


@dataclass(frozen=True)
class SubwordDropout:
    """Divides tokens at random.

    Args:
        merged: the two ids that each merged token consists of.
        rate: probability that a merge does not happen.
        longest: maximum number of ids; a text that would get more keeps its tokens.

    Raises:
        ConfigError: the rate is not between 0 and 1.
    """

    merged: dict[int, tuple[int, int]]
    rate: float
    longest: int

    def __post_init__(self) -> None:
        """Check the rate."""
        if not 0 < self.rate < 1:
            raise ConfigError(
                f"a subword dropout of {self.rate}; expected between 0 and 1, such as 0.03"
            )

    @classmethod
    def of(cls, tokenizer: Tokenizer, rate: float, longest: int) -> "SubwordDropout":
        """Read the merges of a tokenizer.

        Raises:
            ConfigError: the tokenizer is not BPE.
        """
        model = json.loads(tokenizer.library_file or b"{}").get("model", {})
        if not model.get("merges"):
            raise ConfigError(
                f"a subword dropout of {rate}, but the tokenizer has no merges "
                f"({model.get('type', 'SentencePiece')}); expected BPE, or a dropout of 0"
            )
        ids, merged = model["vocab"], dict[int, tuple[int, int]]()
        for merge in model["merges"]:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            merged.setdefault(ids[left + right], (ids[left], ids[right]))
        return cls(merged, rate, longest)

    def __call__(self, ids: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Return ids of the same text, with some of the tokens divided.

        Args:
            ids: token ids; special tokens stay whole.
            rng: decides which merges do not happen.
        """
        whole = rng.random(len(ids)) < [self._whole.get(i, 1.0) for i in ids]
        divided = [
            part
            for i, one in zip(ids, whole.tolist(), strict=True)
            for part in ([i] if one else self._divided(i, rng))
        ]
        return divided if len(divided) <= self.longest else list(ids)

    @cached_property
    def _whole(self) -> dict[int, float]:
        """The probability that all merges of a token happen."""
        whole = dict[int, float]()
        for i, parts in self.merged.items():  # in the order of the merges: parts come first
            left, right = (whole.get(part, 1.0) for part in parts)
            whole[i] = left * right * (1 - self.rate)
        return whole

    def _divided(self, token: int, rng: np.random.Generator) -> list[int]:
        """Divide a token of which at least one merge does not happen."""
        while len(parts := self._parts(token, rng)) == 1:
            pass
        return parts

    def _parts(self, token: int, rng: np.random.Generator) -> list[int]:
        """Merge the parts of a token, bottom up; a merge needs both of its parts."""
        if token not in self.merged:
            return [token]
        left, right = self.merged[token]
        parts = self._parts(left, rng) + self._parts(right, rng)
        return [token] if len(parts) == 2 and rng.random() >= self.rate else parts
