"""The cache of causal linear attention. The decoding loop owns it, as it does every cache."""

from jaxtyping import Int
from torch import Tensor

from qkv.attention.variants.feature_sums import Features, Values, causal_linear_attention
from qkv.errors import LengthError


class LinearState:
    """What linear attention remembers while decoding: sums of one size, however long the text."""

    def __init__(self) -> None:
        self.length = 0
        self.sums: Tensor | None = None

    def update(self, queries: Features, keys: Features, values: Values) -> Values:
        """Let the next queries read the past and each other, and add their keys to the sums."""
        mixed, self.sums = causal_linear_attention(queries, keys, values, self.sums)
        self.length += queries.shape[2]
        return mixed

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        if self.sums is not None:
            self.sums = self.sums[rows]

    def rewind(self, length: int) -> None:
        """Refuse to go back: a sum does not know its terms."""
        if length != self.length:
            raise LengthError(
                f"cannot rewind to length {length}: a LinearState holds the sum over "
                f"{self.length} tokens, not each of them"
            )
