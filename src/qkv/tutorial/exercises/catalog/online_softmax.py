"""Exercise 2.3: attention over blocks of keys."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from qkv.attention.core import explicit_attention
from qkv.tutorial.exercises.exercise import Answer, Draw, Exercise, Mistake, normal

TASK = """
Compute softmax(Q K^T / sqrt(D)) V while reading keys and values in blocks of `block` rows
(the last block may be smaller), so that the whole Q x K matrix of scores never exists. Keep
for each query the largest score so far, the sum of the exponentials so far, and the weighted
sum of the values so far; when a larger score comes, rescale the two sums. Scores may be as
large as 10,000.

queries: (Q, D)   keys: (K, D)   values: (K, Dv)   block: an int

Return the output (Q, Dv). The check also looks whether a tensor with Q x K numbers was made.
"""


def blockwise_attention(queries: Tensor, keys: Tensor, values: Tensor, block: int) -> Tensor:
    """Return the output."""
    largest = torch.full((len(queries), 1), float("-inf"))
    total = torch.zeros(len(queries), 1)
    output = torch.zeros(len(queries), values.shape[1])
    for start in range(0, len(keys), block):
        scores = queries @ keys[start : start + block].T / queries.shape[1] ** 0.5
        new = torch.maximum(largest, scores.amax(1, keepdim=True))
        old, weights = torch.exp(largest - new), torch.exp(scores - new)
        total = total * old + weights.sum(1, keepdim=True)
        output = output * old + weights @ values[start : start + block]
        largest = new
    return output / total


def reference(queries: Tensor, keys: Tensor, values: Tensor, block: int) -> Tensor:
    """Compute the output with the library, all keys at once."""
    return explicit_attention(queries[None, None], keys[None, None], values[None, None])[0, 0]


class Shapes(TorchDispatchMode):
    """Records whether a tensor with as many numbers as the matrix of all scores was made."""

    def __init__(self, n_queries: int, n_keys: int):
        super().__init__()
        self.sizes, self.found = {(n_queries, n_keys), (n_keys, n_queries)}, False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at the shape of its result."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.found |= tuple(n for n in result.shape if n > 1) in self.sizes
        return result


def run(answer: Answer, inputs: tuple[Any, ...]) -> Any:
    """Return the output, and whether a matrix of all scores was made."""
    with Shapes(len(inputs[0]), len(inputs[1])) as shapes:
        output = answer(*inputs)
    whole = shapes.found and answer is not reference
    return {"output": output, "a tensor of Q x K numbers was made": whole}


def draws() -> list[Draw]:
    """Blocks that divide the keys and blocks that do not, and large scores."""
    draw = normal(23)

    def inputs(n_keys: int, block: int, scale: float = 1.0) -> tuple[Any, ...]:
        return draw(7, 5) * scale, draw(n_keys, 5), draw(n_keys, 3), block

    rising = (torch.ones(7, 5, dtype=torch.float64), draw(11, 5).cumsum(0), draw(11, 3), 2)
    below = (torch.ones(7, 5, dtype=torch.float64), draw(11, 5) - 1e3, draw(11, 3), 5)
    return [
        Draw("blocks that divide the keys", inputs(6, 3)),
        Draw("a last block that is smaller", inputs(13, 5)),
        Draw("blocks of one key", inputs(11, 1)),
        Draw("scores that grow from block to block", rising),
        Draw("scores in the thousands", inputs(13, 5, 4e3)),
        Draw("scores far below zero", below),
    ]


def wrong_blocks(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    block: int,
    *,
    divisor: float = 0.5,
    maximum: str = "running",
    begin: float = float("-inf"),
    total_by: str = "rescaled",
    output_by: str = "rescaled",
    end: str = "divided",
    last: bool = True,
) -> Tensor:
    """Compute attention over blocks with one step done in another way."""
    largest = torch.full((len(queries), 1), begin)
    total, output = torch.zeros(len(queries), 1), torch.zeros(len(queries), values.shape[1])
    stop = len(keys) if last else len(keys) // block * block
    for start in range(0, stop, block):
        scores = queries @ keys[start : start + block].T / queries.shape[1] ** divisor
        highest = scores.amax(1, keepdim=True)
        new = {
            "running": lambda top=highest, old=largest: torch.maximum(old, top),
            "block": lambda top=highest: top,
            "all queries": lambda top=highest, old=largest: torch.maximum(old, top.amax()),
            "none": lambda top=highest: torch.zeros_like(top),
        }[maximum]()
        old, weights = torch.exp(largest - new), torch.exp(scores - new)
        factors = {"rescaled": old, "kept": 1.0, "forgotten": 0.0, "wrong sign": 1 / old}
        if maximum == "none":
            factors["rescaled"] = 1.0
        if total_by == "one block each":
            weights = weights / weights.sum(1, keepdim=True)
            factors |= {total_by: 1.0, output_by: 1.0}
        total = total * factors[total_by] + weights.sum(1, keepdim=True)
        output = output * factors[output_by] + weights @ values[start : start + block]
        largest = new
    return output if end == "not divided" else output / total


def whole_attention(queries: Tensor, keys: Tensor, values: Tensor, block: int) -> Tensor:
    """Compute attention in one piece."""
    return (queries @ keys.T / queries.shape[1] ** 0.5).softmax(-1) @ values


MISTAKES = (
    Mistake(
        "all scores are computed at once",
        whole_attention,
        "Your numbers are right, but a tensor with Q x K numbers was made.",
        "Only the scores of one block may exist at a time.",
    ),
    Mistake(
        "the old sums are not rescaled",
        partial(wrong_blocks, total_by="kept", output_by="kept"),
        "Your early keys weigh too much wherever a later block has a larger score.",
        "Old sums were made with the old maximum; what factor brings them to the new one?",
    ),
    Mistake(
        "the old sums are not rescaled",
        partial(wrong_blocks, maximum="block", total_by="kept", output_by="kept"),
        "Your early keys weigh too much wherever a later block has a larger score.",
        "Old sums were made with the old maximum; what factor brings them to the new one?",
    ),
    Mistake(
        "the sum of the exponentials is not rescaled",
        partial(wrong_blocks, total_by="kept"),
        "Your output is too small wherever a later block has a larger score.",
        "Both sums were made with the old maximum.",
    ),
    Mistake(
        "the sum of the values is not rescaled",
        partial(wrong_blocks, output_by="kept"),
        "Your output is too large wherever a later block has a larger score.",
        "Both sums were made with the old maximum.",
    ),
    Mistake(
        "the factor is upside down",
        partial(wrong_blocks, total_by="wrong sign", output_by="wrong sign"),
        "Your output is NaN: exp(new - old) is infinite for the first block.",
        "If the maximum grows, old sums must become smaller.",
    ),
    Mistake(
        "no maximum is subtracted",
        partial(wrong_blocks, maximum="none"),
        "Your output is right for small scores, and NaN for large ones: exp(1000) is infinite.",
        "Subtract a maximum from the scores before exp.",
    ),
    Mistake(
        "the maximum is that of the block alone",
        partial(wrong_blocks, maximum="block"),
        "Your output is NaN for large scores, where an earlier block had a larger one.",
        "The maximum so far never falls.",
    ),
    Mistake(
        "the maximum is shared by all queries",
        partial(wrong_blocks, maximum="all queries"),
        "Your output is NaN for large scores: a query's own scores can be far below the others'.",
        "Each query keeps its own maximum.",
    ),
    Mistake(
        "the maximum begins at 0",
        partial(wrong_blocks, begin=0.0),
        "Your output is NaN where all scores are far below 0: all exponentials are 0.",
        "What is smaller than every score?",
    ),
    Mistake(
        "the output is not divided at the end",
        partial(wrong_blocks, end="not divided"),
        "Your output is too large: its weights sum to more than 1.",
        "The sum of the exponentials is the denominator of the softmax.",
    ),
    Mistake(
        "the last block is left out",
        partial(wrong_blocks, last=False),
        "Your output is right if the blocks divide the keys, and lacks the last keys if not.",
        "range(0, K, block) also begins the last, smaller block.",
    ),
    Mistake(
        "each block has its own softmax",
        partial(wrong_blocks, total_by="one block each"),
        "Your output is the plain mean of the blocks' outputs.",
        "Blocks with larger scores must count more.",
    ),
    Mistake(
        "each block has its own softmax, and the outputs are added",
        partial(wrong_blocks, total_by="one block each", end="not divided"),
        "Your output is the plain sum of the blocks' outputs.",
        "Blocks with larger scores must count more.",
    ),
    Mistake(
        "only the last block counts",
        partial(wrong_blocks, total_by="forgotten", output_by="forgotten"),
        "Your output is that of attention to the last block.",
        "The sums of a block are added to those so far.",
    ),
    Mistake(
        "the denominator is that of the last block",
        partial(wrong_blocks, total_by="forgotten"),
        "Your output is too large: the sum of the exponentials does not grow.",
        "The sums of a block are added to those so far.",
    ),
    Mistake(
        "the scores are not divided by sqrt(D)",
        partial(wrong_blocks, divisor=0.0),
        "Your weights are too sharp.",
        "By what does equation 1 divide?",
    ),
    Mistake(
        "the scores are divided by D",
        partial(wrong_blocks, divisor=1.0),
        "Your weights are too equal.",
        "Equation 1 has a square root.",
    ),
)


EXERCISE = Exercise(
    number="2.3",
    title="Attention over blocks of keys",
    task=TASK.strip(),
    solve=blockwise_attention,
    reference=reference,
    draws=draws,
    mistakes=MISTAKES,
    run=run,
    hint=(
        "What was summed with exp(score - old) is needed with exp(score - new): both sums are "
        "multiplied by exp(old - new)."
    ),
    remark=(
        "The first block needs no special case: exp(-inf - new) is 0, and the sums begin at 0. "
        "This is the loop inside the fused kernel (Dao et al. 2022)."
    ),
)
