"""The decoding state of a Transformer: its blocks' caches and the mask of real tokens."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.masks import (
    attention_mask,
    check_token_mask,
    check_tokens,
    positions_from_mask,
)
from qkv.blocks.block import LayerCache
from qkv.errors import LengthError


class DecodingState:
    """The state of a batch during decoding, owned by the decoding loop.

    Args:
        n_layers: number of decoder blocks.
        memory: output of the encoder; None for a model without one.
        memory_mask: True = a real token of the source; None if all are.
    """

    def __init__(
        self,
        n_layers: int,
        memory: Float[Tensor, "batch keys D"] | None = None,
        memory_mask: Bool[Tensor, "batch keys"] | None = None,
    ):
        self._taken = self._read = 0
        self._n_rows = None if memory is None else memory.shape[0]
        self.memory = memory
        self.caches = [LayerCache() for _ in range(n_layers)]
        self.memory_mask = attention_mask(memory_mask)
        self._token_mask: Bool[Tensor, "batch length"] | None = None

    @property
    def length(self) -> int:
        """Number of positions so far, without the prompt."""
        return self._taken - self._read

    @property
    def n_real(self) -> Int[Tensor, "*batch"]:
        """Number of real tokens so far, per row if they differ, including the prompt."""
        if self._token_mask is None:
            return torch.tensor(self._taken)
        return self._token_mask.sum(1)

    def begin(self) -> None:
        """Begin decoding: all tokens so far are the prompt, which no rewind removes."""
        self._read = self._taken

    def advance(
        self, tokens: Int[Tensor, "batch n"], token_mask: Bool[Tensor, "batch n"] | None = None
    ) -> tuple[Bool[Tensor, "batch 1 1 keys"] | None, Int[Tensor, "*batch n"]]:
        """Add n tokens; return the mask of all keys so far and the positions of the new tokens.

        Args:
            tokens: the new tokens.
            token_mask: True = a real token; None if all are. Left padding does not shift positions.

        Raises:
            ShapeError: if the tokens are not ids of shape (batch, n) with the rows of earlier
                calls.
        """
        check_tokens(tokens, self._n_rows)
        self._n_rows = tokens.shape[0]
        past, self._taken = self._taken, self._taken + tokens.shape[1]
        if token_mask is None and self._token_mask is None:
            return None, torch.arange(past, self._taken, device=tokens.device)
        new = torch.ones_like(tokens, dtype=torch.bool) if token_mask is None else token_mask
        check_token_mask(new, tokens)
        old = self._token_mask
        if old is None:
            old = new.new_ones(len(tokens), past)
        self._token_mask = torch.cat((old, new), 1)
        return attention_mask(self._token_mask), positions_from_mask(self._token_mask)[:, past:]

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may repeat or be missing."""
        for cache in self.caches:
            cache.reorder(rows)
        self._n_rows = rows.shape[0]
        if self.memory is not None:
            self.memory = self.memory[rows]
        if self.memory_mask is not None:
            self.memory_mask = self.memory_mask[rows]
        if self._token_mask is not None:
            self._token_mask = self._token_mask[rows]

    def rewind(self, length: int) -> None:
        """Discard every position from `length` on."""
        if not 0 <= length <= self.length:
            raise LengthError(f"cannot rewind to length {length}: the state holds {self.length}")
        self._taken = self._read + length
        for cache in self.caches:
            cache.rewind(self._taken)
        if self._token_mask is not None:
            self._token_mask = self._token_mask[:, : self._taken]
