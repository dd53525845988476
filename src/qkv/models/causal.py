"""Causal language models: what every family of them shares.

Shapes: B batch, L tokens, D d_model, V vocabulary.
"""

import math

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.attention.linear import Linear
from qkv.attention.masks import attention_mask, check_tokens, token_positions
from qkv.blocks.embedding import TokenEmbedding
from qkv.blocks.stack import Stack
from qkv.blocks.state import DecodingState
from qkv.models.initialization import initialize


class CausalLM(nn.Module):
    """Token embedding, causal stack, output layer: each token predicts the next.

    A family overrides `embed` where more than the token enters the stack.

    Args:
        vocab_size: V.
        d_model: D.
        stack: of causal blocks.
        tied_output: whether the output layer's weight is the embedding.
    """

    def __init__(self, vocab_size: int, d_model: int, stack: Stack, *, tied_output: bool):
        super().__init__()
        self.embedding = TokenEmbedding(vocab_size, d_model)
        self.stack = stack
        self.head: nn.Module = Linear(d_model, vocab_size, bias=False)
        self.apply(initialize)
        # What is added to the stream starts smaller, by depth (Radford et al. 2019, section 2.3).
        for name, module in self.named_modules():
            if name.endswith(("self_attention.output", "feed_forward.down")):
                initialize(module, std=0.02 / math.sqrt(2 * len(stack.blocks)))
        if tied_output:
            self.head.weight = self.embedding.weight

    def without_head(self) -> "CausalLM":
        """Take the output layer off, for a head of another kind: `forward` is `hidden` then."""
        self.head = nn.Identity()
        return self

    def extra_repr(self) -> str:
        """Say what no parameter shows."""
        return "without head" if isinstance(self.head, nn.Identity) else ""

    def embed(
        self, tokens: Int[Tensor, "B L"], positions: Int[Tensor, "*B L"]
    ) -> Float[Tensor, "B L D"]:
        """Turn tokens into what enters the stack."""
        return self.embedding(tokens)

    def forward(
        self,
        tokens: Int[Tensor, "B L"],
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Float[Tensor, "B L V"]:
        """Predict each next token.

        Args:
            tokens: ids.
            token_mask: True = a real token; not needed for padding on the right, which no real
                token can see.
            positions: (L,) or (B, L); those of the real tokens, counted from 0, where None.

        Raises:
            VocabularyError: on an id outside the vocabulary.
        """
        return self.head(self.hidden(tokens, token_mask=token_mask, positions=positions))

    def hidden(
        self,
        tokens: Int[Tensor, "B L"],
        *,
        token_mask: Bool[Tensor, "B L"] | None = None,
        positions: Int[Tensor, "*B L"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Compute what the output layer reads: `forward` is `head(hidden(...))`."""
        counted = token_positions(tokens, token_mask)
        positions = counted if positions is None else positions
        return self.stack(
            self.embed(tokens, positions), mask=attention_mask(token_mask), positions=positions
        )

    def start(
        self, source: Int[Tensor, "B n"], token_mask: Bool[Tensor, "B n"] | None = None
    ) -> DecodingState:
        """Read what stands before the first token of `step`: a prompt without its last token.

        Args:
            source: ids; n may be 0.
            token_mask: True = a real token; padding may stand on either side.
        """
        check_tokens(source)
        state = DecodingState(len(self.stack.blocks))
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
        """Predict the token after each of the n new ones; the state remembers them.

        Args:
            tokens: what follows the tokens of `start` and of earlier steps.
            state: of `start`; changed in place.
            token_mask: True = a real token, for prefixes padded on the left; None where all are.
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
