"""The base class of all encoder-decoders, recurrent or not.

Shapes: B batch, S source tokens, T target tokens, n new tokens, D width of the decoder, V target
vocabulary.
"""

from typing import Generic, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

State = TypeVar("State")  # a model's decoding state


class Seq2Seq(nn.Module, Generic[State]):
    """A model that predicts each next target token from a source.

    A subclass defines `hidden`, `start`, `advance`, and the output layer `head`.
    """

    head: nn.Module

    def forward(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Return the logits or log-probabilities of each next target token.

        Args:
            source: token ids.
            target: token ids, shifted right: they begin with the start token.
            source_mask: True = a real token; None if all are.
            target_mask: True = a real token; not needed for right padding, which no token sees.

        Raises:
            ShapeError: if source or target are not ids of shape (batch, length) with the same batch
                size.
            VocabularyError: if an id is outside the vocabulary.
            LengthError: if a source row has no real token, in recurrent models.
        """
        return self.head(
            self.hidden(source, target, source_mask=source_mask, target_mask=target_mask)
        )

    def hidden(
        self,
        source: Int[Tensor, "B S"],
        target: Int[Tensor, "B T"],
        *,
        source_mask: Bool[Tensor, "B S"] | None = None,
        target_mask: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the hidden states: `forward` is `head(hidden(...))`."""
        raise NotImplementedError(f"{type(self).__name__} does not define hidden")

    def start(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> State:
        """Encode the source; return the state for `step`."""
        raise NotImplementedError(f"{type(self).__name__} does not define start")

    def step(
        self,
        tokens: Int[Tensor, "B n"],
        state: State,
        token_mask: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"]:
        """Return the logits of the token after each of the n new ones, which the state stores.

        Args:
            tokens: ids that follow those of earlier steps, beginning with the start token.
            state: state from `start`; modified in place.
            token_mask: True = a real token, for left-padded prefixes; None if all are.
        """
        return self.head(self.advance(tokens, state, token_mask))

    def advance(
        self, tokens: Int[Tensor, "B n"], state: State, token_mask: Bool[Tensor, "B n"] | None
    ) -> Float[Tensor, "B n D"]:
        """Return the hidden states for `step`, with the same arguments."""
        raise NotImplementedError(f"{type(self).__name__} does not define advance")
