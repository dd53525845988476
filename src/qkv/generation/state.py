"""What decoding asks of a model and of its memory; no decoder ever asks which model it has."""

from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


@runtime_checkable
class State(Protocol):
    """Everything that a model remembers between steps: owned by the decoder, never by the model."""

    @property
    def length(self) -> int:
        """Positions stepped so far."""
        ...

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; rows may be dropped or repeated."""
        ...

    def rewind(self, length: int) -> None:
        """Forget every position from `length` on."""
        ...


@runtime_checkable
class Decodable(Protocol):
    """A model that can be stepped through its output."""

    def start(
        self,
        source: Int[Tensor, "batch source"],
        token_mask: Bool[Tensor, "batch source"] | None = None,
    ) -> State:
        """Read the source (mask: True = a real token) and remember it."""
        ...

    def step(
        self,
        tokens: Int[Tensor, "batch n"],
        state: State,
        token_mask: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch n vocab"]:
        """Logits of what follows each of the next n tokens, which the state then holds as well.

        The mask (True = a real token) is given only where rows begin with different lengths, padded
        on the left.
        """
        ...
