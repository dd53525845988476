"""Sequence to sequence: what encoder-decoders share, recurrent or not.

Shapes: B batch, S source tokens, T target tokens, n new tokens, D width of the decoder, V target
vocabulary.
"""

from typing import Generic, TypeVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

State = TypeVar("State")  # what a model remembers while it decodes


class Seq2Seq(nn.Module, Generic[State]):
    """A model that reads a source and predicts each next target token.

    A model defines `hidden`, `start` and `advance`, and the output layer `head`.
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
        """Predict each next target token: logits, or logarithms of probabilities.

        Args:
            source: token ids.
            target: token ids, shifted right: they begin with the start token.
            source_mask: True = a real token; None where all are.
            target_mask: likewise; not needed for right padding, which no earlier token can see.

        Raises:
            ShapeError: if source or target are not ids of shape (batch, length), or not one batch.
            VocabularyError: on an id outside the vocabulary.
            LengthError: on a source row without a real token, in recurrent models.
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
        """Compute what the output layer reads: `forward` is `head(hidden(...))`."""
        raise NotImplementedError(f"{type(self).__name__} does not define hidden")

    def start(
        self, source: Int[Tensor, "B S"], token_mask: Bool[Tensor, "B S"] | None = None
    ) -> State:
        """Encode the source; the state that this returns is continued by `step`."""
        raise NotImplementedError(f"{type(self).__name__} does not define start")

    def step(
        self,
        tokens: Int[Tensor, "B n"],
        state: State,
        token_mask: Bool[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n V"]:
        """Predict the token after each of the n new ones; the state remembers them.

        Args:
            tokens: what follows the tokens of earlier steps; first the start token.
            state: of `start`; changed in place.
            token_mask: True = a real token, for prefixes padded on the left; None where all are.
        """
        return self.head(self.advance(tokens, state, token_mask))

    def advance(
        self, tokens: Int[Tensor, "B n"], state: State, token_mask: Bool[Tensor, "B n"] | None
    ) -> Float[Tensor, "B n D"]:
        """Compute what the output layer reads in `step`, whose arguments these are."""
        raise NotImplementedError(f"{type(self).__name__} does not define advance")
