"""Attention to the k keys that a small indexer scores highest.

DeepSeek-AI 2025, "DeepSeek-V3.2-Exp: boosting long-context efficiency with DeepSeek sparse
attention". Shapes: B batch, H query heads, G key heads, Q queries, K keys, D head width, J heads of
the indexer.
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.cache import KeysValues, KeyValueCache, MemoryCache
from qkv.attention.core import at_least_float32, attention, attention_weights, masked_softmax
from qkv.attention.masks import causal_mask, whole_mask
from qkv.attention.multi_head import AttentionOptions, MultiHeadAttention
from qkv.attention.variants.self_attention import refuse_memory
from qkv.errors import ConfigError


def index_scores(
    queries: Float[Tensor, "B J Q D"],
    keys: Float[Tensor, "B 1 K D"],
    weights: Float[Tensor, "B Q J"],
) -> Float[Tensor, "B 1 Q K"]:
    """I_ts = sum_j w_tj ReLU(q_tj . k_s) (eq. 1), in float32 at least."""
    queries, keys, weights = map(at_least_float32, (queries, keys, weights))
    scores = (queries @ keys.transpose(-2, -1)).relu()  # (B, J, Q, K)
    return torch.einsum("bqj,bjqk->bqk", weights, scores).unsqueeze(1)


def select_top_k(
    scores: Float[Tensor, "B 1 Q K"], allowed: Bool[Tensor, "b h Q K"], k: int
) -> Bool[Tensor, "B h Q K"]:
    """Return which allowed keys have the k highest scores of a query; of equals, the earlier."""
    lowest = torch.finfo(scores.dtype).min
    order = torch.where(allowed, scores, lowest).argsort(dim=-1, descending=True, stable=True)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter(-1, order[..., :k], True)
    return chosen & allowed


class TopKAttention(MultiHeadAttention):
    """u_t = Attn(h_t, {c_s | I_ts in Top-k(I_t,:)}) (eq. 2), in all heads over the same keys.

    The indexer has one key per token, which the cache stores as one more key head. Selecting has no
    gradient: it is trained by `alignment_loss` alone, which is to be added to a model's loss. All
    scores are computed and then masked; a kernel that gathers the keys would compute k of them. The
    paper's indexer has its own width and rotates a part of it; here it has a head's width.

    Args:
        d_model: width of input and output.
        n_heads: query heads.
        k: number of keys that each query attends to, among those that masks allow.
        n_index_heads: heads J of the indexer.
        options: see `MultiHeadAttention`.

    Raises:
        ConfigError: if k or n_index_heads is below 1, or, in `forward`, if there is a memory.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        k: int,
        n_index_heads: int = 4,
        **options: Unpack[AttentionOptions],
    ):
        for name, value in (("k", k), ("n_index_heads", n_index_heads)):
            if value < 1:
                raise ConfigError(f"{name} = {value}; expected at least 1")
        super().__init__(d_model, n_heads, **options)
        self.k, self.n_index_heads = k, n_index_heads
        self.index_query = nn.Linear(d_model, n_index_heads * self.d_head, bias=False)
        self.index_key = nn.Linear(d_model, self.d_head, bias=False)
        self.index_key_norm = nn.LayerNorm(self.d_head, eps=1e-6)
        self.index_weight = nn.Linear(d_model, n_index_heads, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B Q D_model"],
        memory: Float[Tensor, "B K D_model"] | None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        cache: KeyValueCache | MemoryCache | None = None,
    ) -> Float[Tensor, "B Q D_model"]:
        """Select keys, and attend to them; see `MultiHeadAttention.forward`."""
        refuse_memory(self, memory)
        past = cache.length if isinstance(cache, KeyValueCache) else 0
        if positions is None:
            positions = torch.arange(past, past + x.shape[1], device=x.device)

        def project() -> KeysValues:
            keys, values = self.keys_values(x, positions)
            with torch.no_grad():
                index_keys = self._index_keys(x, positions)
            return torch.cat((keys, index_keys.to(keys.dtype)), 1), values

        queries = self.queries(x, positions)
        keys, values = project() if cache is None else cache.update(project)
        keys, index_keys = keys[:, :-1], keys[:, -1:]
        with torch.no_grad():
            scores = self._index_scores(x, index_keys, positions)
        chosen = select_top_k(scores, self._allowed(queries, keys, mask), self.k)
        bias = self.score_bias(queries, keys, mask)  # by the positions of all keys
        if self.recorder is not None:
            self.recorder(attention_weights(queries, keys, mask=chosen, bias=bias))
        heads = attention(
            queries, keys, values, mask=chosen, bias=bias, dropout=self.active_dropout
        )
        return self.join(heads, x)

    def alignment_loss(
        self,
        x: Float[Tensor, "B Q D_model"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        dense: bool = False,
    ) -> Float[Tensor, ""]:
        """Sum over queries of KL(p || softmax(I)), p the weights of attention, averaged over heads.

        Its gradients are those of the indexer alone: x and p are detached.

        Args:
            x: the tokens that attend.
            mask: True = may attend, broadcastable to (B, H, Q, K).
            positions: positions of x, (Q,) or (B, Q).
            dense: over all keys, to warm up the indexer, instead of over the selected ones.
        """
        x = x.detach()
        positions = torch.arange(x.shape[1], device=x.device) if positions is None else positions
        scores = self._index_scores(x, self._index_keys(x, positions), positions)
        with torch.no_grad():
            queries, (keys, _) = self.queries(x, positions), self.keys_values(x, positions)
            chosen = self._allowed(queries, keys, mask)
            chosen = chosen if dense else select_top_k(scores, chosen, self.k)
            bias = self.score_bias(queries, keys, mask)
            target = attention_weights(queries, keys, mask=chosen, bias=bias).mean(1, keepdim=True)
        ours = masked_softmax(scores, chosen.any(1, keepdim=True))
        logs = ours.clamp(min=torch.finfo(ours.dtype).tiny).log()
        return (torch.special.xlogy(target, target) - target * logs).sum()

    def _index_keys(self, x: Tensor, positions: Tensor) -> Float[Tensor, "B 1 K D"]:
        return self._rotate(self.index_key_norm(self.index_key(x)).unsqueeze(1), positions)

    def _index_scores(
        self, x: Tensor, index_keys: Tensor, positions: Tensor
    ) -> Float[Tensor, "B 1 Q K"]:
        queries = self._rotate(self._split(self.index_query(x)), positions) / self.d_head**0.5
        return index_scores(queries, index_keys, self.index_weight(x) / self.n_index_heads**0.5)

    def _allowed(
        self, queries: Tensor, keys: Tensor, mask: Tensor | None
    ) -> Bool[Tensor, "b h Q K"]:
        """Combine the mask with the causal mask."""
        allowed = whole_mask(mask, queries, keys)
        if self.causal:
            allowed = allowed & causal_mask(queries.shape[2], keys.shape[2], queries.device)
        return allowed
