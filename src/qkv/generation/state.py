"""The protocols between decoding strategies and models."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class State(Protocol):
    """The state of a model between steps, owned by the decoding loop, never by the model."""

    @property
    def length(self) -> int:
        """Number of positions so far."""
        ...

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may be dropped or repeated."""
        ...

    def rewind(self, length: int) -> None:
        """Discard every position from `length` on."""
        ...

    def join(self, other: Any) -> None:
        """Add the rows of another state of the same model, also of another length, below these."""
        ...


@runtime_checkable
class Decodable(Protocol):
    """A model that can generate its output step by step."""

    def start(
        self,
        source: Int[Tensor, "batch source"],
        token_mask: Bool[Tensor, "batch source"] | None = None,
    ) -> State:
        """Process the source (mask: True = a real token) and return the state."""
        ...

    def step(
        self,
        tokens: Int[Tensor, "batch n"],
        state: Any,  # what `start` returned
        token_mask: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch n vocab"]:
        """Return the logits of the token after each of n new tokens, and add these to the state.

        The mask (True = a real token) is passed only if rows begin with different lengths, padded
        on the left.
        """
        ...
