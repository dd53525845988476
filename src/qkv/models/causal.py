"""The base class of causal language models.

Shapes: B batch, L tokens, D d_model, V vocabulary.
"""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.masks import attention_mask, check_tokens, token_positions
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState, shared_prefix, split_prefix
from qkv.models.initialization import initialize

LEAST_SHARED = 8  # tokens; fewer are computed for each row again


class CausalLM(nn.Module):
    """Token embedding, causal stack, output layer: each token predicts the next.

    A family overrides `embed` if its input is more than the token embedding.

    Args:
        vocab_size: vocabulary size V.
        d_model: width D.
        stack: a stack of causal blocks.
        tied_output: whether the output layer's weight is the embedding.
    """

    def __init__(self, vocab_size: int, d_model: int, stack: Stack, *, tied_output: bool):
        super().__init__()
        self.embedding = TokenEmbedding(vocab_size, d_model)
        self.stack = stack
        self.head: nn.Module = nn.Linear(d_model, vocab_size, bias=False)
        self.apply(initialize)
        # Residual projections start smaller, by depth (Radford et al. 2019, section 2.3).
        for name, module in self.named_modules():
            if name.endswith(("self_attention.output", "feed_forward.down")):
                initialize(module, std=0.02 / math.sqrt(2 * len(stack.blocks)))
        if tied_output:
            self.head.weight = self.embedding.weight

    def without_head(self) -> "CausalLM":
        """Remove the output layer, to add another head; `forward` then equals `hidden`."""
        self.head = nn.Identity()
        return self

    def extra_repr(self) -> str:
        """Show the options that no submodule shows."""
        return "without head" if isinstance(self.head, nn.Identity) else ""

    def embed(
        self, tokens: Int[Tensor, "B L"], positions: Int[Tensor, "*B L"]
    ) -> Float[Tensor, "B L D"]:
        """Embed tokens as the input of the stack."""
        return self.embedding(tokens)

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Float[Tensor, "B L V"]:
        """Return the logits of each next token.

        Args:
            tokens: ids.
            token_mask: True = a real token; not needed for right padding, which no real token sees.
            positions: (L,) or (B, L); None counts the real tokens from 0.

        Raises:
            VocabularyError: if an id is outside the vocabulary.
        """
        return self.head(self.hidden(tokens, token_mask=token_mask, positions=positions))

    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
        texts: Int[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Return the hidden states: `forward` is `head(hidden(...))`.

        Args:
            tokens: ids.
            token_mask: True = a real token.
            positions: (L,) or (B, L); None counts the real tokens from 0.
            texts: number of each token's text, if a row holds several: a token sees its own alone.
        """
        counted = token_positions(tokens, token_mask)
        positions = counted if positions is None else positions
        mask = attention_mask(token_mask)
        if texts is not None:
            same = (texts[:, :, None] == texts[:, None, :])[:, None]  # (B, 1, L, L)
            mask = same if mask is None else mask & same
        return self.stack(self.embed(tokens, positions), mask=mask, positions=positions)

    def start(
        self, source: Int[Tensor, "B n"], token_mask: Bool[Tensor, "B n"] | None = None
    ) -> DecodingState:
        """Process the prompt without its last token, which is the first token of `step`.

        What all rows begin with, such as the instructions of a chat, is computed once.

        Args:
            source: ids; n may be 0.
            token_mask: True = a real token; padding may be on either side.
        """
        check_tokens(source)
        n_rows = len(source)
        state = DecodingState(self.stack.new_caches(), n_rows=n_rows)
        shared = shared_prefix(source, token_mask)
        if shared >= LEAST_SHARED:
            prefix, source, token_mask = split_prefix(source, token_mask, shared)
            state = DecodingState(self.stack.new_caches(), n_rows=1)
            self._advance(prefix, state, None)
            state.reorder(source.new_zeros(n_rows))
        if source.shape[1]:
            self._advance(source, state, token_mask)
        state.begin()
        return state

    def step(
        self,
        tokens: Int[Tensor, "B n"],
        state: DecodingState,
        token_mask: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"]:
        """Return the logits of the token after each of the n new ones, which the state stores.

        Args:
            tokens: ids that follow those of `start` and of earlier steps.
            state: state from `start`; modified in place.
            token_mask: True = a real token, for left-padded prefixes; None if all are.
        """
        return self.head(self._advance(tokens, state, token_mask))

    def _advance(
        self,
        tokens: Int[Tensor, "B n"],
        state: DecodingState,
        token_mask: Bool[Tensor, "B n"] | None,
    ) -> Float[Tensor, "B n D"]:
        mask, positions = state.advance(tokens, token_mask)
        x = self.embed(tokens, positions)
        return self.stack(x, mask=mask, positions=positions, caches=state.caches)
