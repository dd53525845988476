"""The cache of causal linear attention, owned by the decoding loop."""

from qkv.attention.variants.feature_sums import Features, Values, causal_linear_attention
from qkv.attention.variants.recurrent import RecurrentState


class LinearState(RecurrentState):
    """The decoding state of linear attention: sums whose size does not depend on the length."""

    def update(self, queries: Features, keys: Features, values: Values) -> Values:
        """Attend to the past and to each other, and add the new keys to the sums."""
        mixed, self.sums = causal_linear_attention(queries, keys, values, self.sums)
        self.length += queries.shape[2]
        return mixed
