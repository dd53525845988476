"""The decoding state of a Transformer: its blocks' caches and the mask of real tokens."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention.cache import KeyValueCache, is_all
from qkv.attention.masks import (
    attention_mask,
    check_token_mask,
    check_tokens,
    positions_from_mask,
)
from qkv.blocks.block import LayerCache
from qkv.errors import LengthError, ShapeError


class DecodingState:
    """The state of a batch during decoding, owned by the decoding loop.

    Args:
        caches: empty caches of the decoder blocks (`Stack.new_caches`), or the number of blocks,
            if all have multi-head attention.
        memory: output of the encoder; None for a model without one.
        memory_mask: True = a real token of the source; None if all are.
        n_rows: number of rows; None: that of the memory, or of the first tokens.
    """

    def __init__(
        self,
        caches: int | list[LayerCache],
        memory: Float[Tensor, "batch keys D"] | None = None,
        memory_mask: Bool[Tensor, "batch keys"] | None = None,
        *,
        n_rows: int | None = None,
    ):
        self._taken = self._read = 0
        self._n_rows = n_rows if memory is None else memory.shape[0]
        self._device = None if memory is None else memory.device
        self.memory = memory
        if isinstance(caches, int):
            caches = [LayerCache() for _ in range(caches)]
        self.caches = caches
        self.memory_mask = attention_mask(memory_mask)
        self._token_mask: Bool[Tensor, "batch length"] | None = None
        self._sharing = 1  # number of rows of each memory

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
        self._n_rows, self._device = tokens.shape[0], tokens.device
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
        if len(rows) != self._n_rows:  # a row that left may have been the longest
            self._forget_padding(rows)
        memories, self._sharing = self._memories(rows)
        for cache in self.caches:
            cache.reorder(rows, memories, self._sharing)
        self._n_rows = rows.shape[0]
        if self.memory is not None and not is_all(memories, len(self.memory)):
            self.memory = self.memory[memories]
            self.memory_mask = None if self.memory_mask is None else self.memory_mask[memories]
        if self._token_mask is not None:
            self._token_mask = self._token_mask[rows]

    def _memories(self, rows: Int[Tensor, " rows"]) -> tuple[Int[Tensor, " memories"], int]:
        """Return which memories these rows attend to, and how many rows each has.

        The hypotheses of a source stand side by side in beam search, and share its memory.
        """
        sources = rows // self._sharing
        memories, counts = sources.unique_consecutive(return_counts=True)
        if self.memory is None or not len(rows) or bool((counts != counts[0]).any()):
            return sources, 1
        return memories, int(counts[0])

    def memory_of_rows(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the memory (batch, keys, D) and its mask, a copy for each row that shares one."""
        memory, mask = (
            x if x is None or self._sharing == 1 else x.repeat_interleave(self._sharing, 0)
            for x in (self.memory, self.memory_mask)
        )
        return memory, mask

    def _forget_padding(self, rows: Int[Tensor, " rows"]) -> None:
        """Drop what comes before the prompts of all these rows, before the caches are copied."""
        if self._token_mask is None or not self._token_mask[rows].numel():
            return
        real = self._token_mask[rows].any(0)
        n = min(int(real.int().argmax()), self._read)
        if n == 0:
            return
        self._taken, self._read = self._taken - n, self._read - n
        self._token_mask = self._token_mask[:, n:]
        for cache in self.caches:
            cache.forget(n)

    def rewind(self, length: int) -> None:
        """Discard every position from `length` on."""
        if not 0 <= length <= self.length:
            raise LengthError(f"cannot rewind to length {length}: the state holds {self.length}")
        # Those that may refuse come first: a state that was not rewound stays as it was.
        for cache in sorted(self.caches, key=lambda x: type(x.self_attention) is KeyValueCache):
            cache.rewind(self._read + length)
        self._taken = self._read + length
        if self._token_mask is not None:
            self._token_mask = self._token_mask[:, : self._taken]

    def join(self, other: "DecodingState") -> None:
        """Add the rows of another state of the same model below these.

        The shorter one is padded on the left, its memory on the right. The joined state can be
        rewound by as many positions as both can.

        Raises:
            ShapeError: if the number of rows of a state is not known yet.
        """
        if self._n_rows is None or other._n_rows is None:
            raise ShapeError(
                "the number of rows of a state is not known before its first tokens; expected "
                "n_rows, or at least one step of each state"
            )
        rows = self._n_rows, other._n_rows
        taken, length = max(self._taken, other._taken), min(self.length, other.length)
        for cache, more in zip(self.caches, other.caches, strict=True):
            cache.join(more, rows)
        token_mask = torch.cat((self._mask_of(taken), other._mask_of(taken)))
        self.memory, self.memory_mask = self._joined_memory(other)
        self._token_mask = None if bool(token_mask.all()) else token_mask
        self._sharing = 1
        self._n_rows, self._taken, self._read = sum(rows), taken, taken - length

    def _mask_of(self, taken: int) -> Bool[Tensor, "batch taken"]:
        """Return the mask of the tokens so far, padded on the left."""
        mask = self._token_mask
        if mask is None:
            mask = torch.ones(self._n_rows or 0, self._taken, dtype=torch.bool, device=self._device)
        return F.pad(mask, (taken - self._taken, 0), value=False)

    def _joined_memory(self, other: "DecodingState") -> tuple[Tensor | None, Tensor | None]:
        """Return the memories, padded on the right, and their mask."""
        if self.memory is None or other.memory is None:
            return None, None
        size = max(self.memory.shape[1], other.memory.shape[1])
        halves = [one._padded_memory(size) for one in (self, other)]
        memory, mask = (torch.cat(parts) for parts in zip(*halves, strict=True))
        return memory, None if bool(mask.all()) else mask

    def _padded_memory(self, size: int) -> tuple[Tensor, Tensor]:
        memory, mask = self.memory_of_rows()
        assert memory is not None
        if mask is None:
            mask = attention_mask(memory.new_ones(memory.shape[:2], dtype=torch.bool))
        assert mask is not None
        padding = (0, size - memory.shape[1])
        return F.pad(memory, (0, 0, *padding)), F.pad(mask, padding, value=False)


def shared_prefix(
    tokens: Int[Tensor, "batch length"], token_mask: Bool[Tensor, "batch length"] | None
) -> int:
    """Return how many tokens all rows begin with; 0 for one row, or padding not on the left."""
    batch, length = tokens.shape
    if batch < 2 or not length:
        return 0
    if token_mask is None:
        same = (tokens == tokens[:1]).all(0)
        return int(same.cummin(0).values.sum())
    if bool((token_mask[:, :-1] & ~token_mask[:, 1:]).any()):
        return 0
    # Aligned on the left, as far as the shortest row.
    shortest = int(token_mask.sum(1).min())
    first = length - token_mask.sum(1, keepdim=True)
    aligned = tokens.gather(1, first + torch.arange(shortest, device=tokens.device))
    return int((aligned == aligned[:1]).all(0).cummin(0).values.sum())


def split_prefix(
    tokens: Int[Tensor, "batch length"],
    token_mask: Bool[Tensor, "batch length"] | None,
    shared: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the prefix that all rows share, the other tokens, and the mask of these."""
    if token_mask is None:
        return tokens[:1, :shared], tokens[:, shared:], None
    n_real, length = token_mask.sum(1, keepdim=True), tokens.shape[1]
    longest = int(n_real.max())
    first = length - int(n_real[0])
    prefix = tokens[:1, first : first + shared]
    columns = torch.arange(length - longest + shared, length, device=tokens.device)
    return prefix, tokens[:, columns], columns >= length - n_real + shared
