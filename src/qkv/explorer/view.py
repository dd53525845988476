"""A view: one input of a model, with its predictions and the pass that computes them again.

Shapes: R rows (copies of the input), S steps (predictions), V candidates, L tokens, D d_model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from qkv.blocks.stack import Stack

NEW_TOKENS = 24
LONG = 512  # positions beyond which heads are sent as thumbnails, and one by one on request
LAST = 128  # steps of a long text: the last ones
Told = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One prediction.

    Args:
        name: what is predicted; "" if the position implies it.
        sequence: the sequence with the position.
        position: the token whose state makes the prediction.
        chosen: id of the candidate that was chosen.
    """

    name: str
    sequence: str
    position: int
    chosen: int


@dataclass(frozen=True, kw_only=True)
class View:
    """One input of a model, ready to be looked at.

    Args:
        kind: name of the task.
        inputs: the input, by role.
        output: the prediction as text.
        note: remark for the reader, such as that the input was truncated.
        sequences: tokens as (text, whether it is special): "source", and "target" of a decoder.
        steps: the predictions.
        candidates: kind of the candidates.
        name: text of a candidate.
        logits: computes the logits (R, S, V) in one pass over R copies of the input.
        read: maps states (L, D) of any layer of the last stack to logits (S, V); None if the head
            cannot be applied to them.
        image: the prepared image, and its grid of patches.
        beam: the tree of beam search.
    """

    kind: str
    inputs: dict[str, str]
    output: str
    note: str = ""
    sequences: dict[str, list[tuple[str, bool]]]
    steps: list[Step]
    candidates: Literal["classes", "positions", "tokens"]
    name: Callable[[int], str]
    logits: Callable[[int], Float[Tensor, "R S V"]]
    read: Callable[[Float[Tensor, "L D"]], Float[Tensor, "S V"]] | None = None
    image: dict[str, Any] | None = None
    beam: dict[str, Any] | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def last_stack(model: nn.Module) -> tuple[str, Stack] | None:
    """Return the name and the module of the stack that is computed last; None if there is none."""
    stacks = [(name, one) for name, one in model.named_modules() if isinstance(one, Stack)]
    return stacks[-1] if stacks else None


def closing_norm(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the final norm of the last stack; the identity for post-norm blocks."""
    found = last_stack(model)
    norm = None if found is None else found[1].norm
    return norm if norm is not None else lambda x: x


def labeled(tokenizer: Any, ids: Sequence[int]) -> list[tuple[str, bool]]:
    """Return each token's text, and whether it is special."""
    texts = tokenizer.tokens(ids)
    return [(text, i in tokenizer.special_ids) for text, i in zip(texts, ids, strict=True)]
