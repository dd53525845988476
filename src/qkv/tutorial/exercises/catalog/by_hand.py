"""Exercise 2.1: weights and output with pencil and paper."""

from collections.abc import Callable

import torch

from qkv.attention.core import attention_weights, explicit_attention
from qkv.tutorial.exercises.exercise import Answer, Draw, Exercise, Mistake

TASK = """
Take three tokens of width 2, x1 = (1, 0), x2 = (0, 1) and x3 = (2, 1), and the matrices

    W_Q = [[1, 0, 1, 0],     W_K = [[2, 0, 0, 0],     W_V = [[10, 0],
           [0, 1, 0, 1]]            [0, 2, 0, 2]]            [0, 10]]

so that q1 = x1 W_Q = (1, 0, 1, 0), and so on: d_k is 4. Without running any attention,
compute the three weights of the first token and its output, two numbers. Round only at the
end, to two digits after the point or more.

Return a list of five numbers: [weight of x1, of x2, of x3, first output, second output].
In a notebook, check("2.1", [...]) takes the list itself.
"""

X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
W_Q = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]], dtype=torch.float64)
W_K = torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 2.0]], dtype=torch.float64)
W_V = torch.tensor([[10.0, 0.0], [0.0, 10.0]], dtype=torch.float64)
Q, K, V = X @ W_Q, X @ W_K, X @ W_V


def by_hand() -> list[float]:
    """Return the three weights and the two numbers of the output."""
    # q1 . k is 2, 0 and 4; divided by sqrt(4) = 2: 1, 0 and 2.
    # exp gives 2.718, 1 and 7.389, with a sum of 11.107.
    weights = [2.718 / 11.107, 1 / 11.107, 7.389 / 11.107]
    # The values are (10, 0), (0, 10) and (20, 10).
    return [*weights, 10 * weights[0] + 20 * weights[2], 10 * weights[1] + 10 * weights[2]]


def reference() -> list[float]:
    """Compute the numbers with the library."""
    queries, keys, values = Q[None, None], K[None, None], V[None, None]
    weights = attention_weights(queries, keys)[0, 0, 0]
    output = explicit_attention(queries, keys, values)[0, 0, 0]
    return [*weights.tolist(), *output.tolist()]


def run(answer: Answer, inputs: tuple[()]) -> object:
    """Return the outputs divided by 10, so that one tolerance suits all five numbers."""
    numbers = answer(*inputs)
    if isinstance(numbers, torch.Tensor):
        numbers = numbers.tolist()
    if not isinstance(numbers, list | tuple) or len(numbers) != 5:
        return numbers
    return [*numbers[:3], *(number / 10 for number in numbers[3:])]


def wrong_numbers(
    score: Callable[[], torch.Tensor] | None = None,
    weigh: Callable[[torch.Tensor], torch.Tensor] | None = None,
    values: torch.Tensor = V,
    token: int = 0,
) -> Answer:
    """Return a function that computes the five numbers with one step done in another way."""

    def numbers() -> list[float]:
        scores = Q @ K.T / 2 if score is None else score()
        weights = (scores.softmax(-1) if weigh is None else weigh(scores))[token]
        return [*weights.tolist(), *(weights @ values)[:2].tolist()]

    return numbers


MISTAKES = (
    Mistake(
        "the scores are not divided",
        wrong_numbers(lambda: Q @ K.T),
        "Your largest weight is too large: the softmax saw 2, 0 and 4.",
        "By what does equation 1 divide?",
    ),
    Mistake(
        "the scores are divided by d_k",
        wrong_numbers(lambda: Q @ K.T / 4),
        "Your weights are too equal: the softmax saw 0.5, 0 and 1.",
        "Equation 1 has a square root.",
    ),
    Mistake(
        "the scores are divided by the root of the tokens' width",
        wrong_numbers(lambda: Q @ K.T / 2**0.5),
        "Your largest weight is too large: the softmax saw 1.41, 0 and 2.83.",
        "d_k is the width of the queries and keys, not that of the tokens.",
    ),
    Mistake(
        "the scores are divided by the root of the number of tokens",
        wrong_numbers(lambda: Q @ K.T / 3**0.5),
        "Your largest weight is a little too large: the softmax saw 1.15, 0 and 2.31.",
        "d_k is the width of the queries and keys.",
    ),
    Mistake(
        "the softmax runs over the queries",
        wrong_numbers(weigh=lambda scores: scores.softmax(0)),
        "Your three weights do not sum to 1; with those of the other tokens they would.",
        "Each token spreads a weight of 1 over all tokens.",
    ),
    Mistake(
        "there is no softmax",
        wrong_numbers(weigh=lambda scores: scores / scores.sum(-1, keepdim=True)),
        "Your weights are the scores divided by their sum: the second is 0.",
        "Take exponentials first; exp(0) is 1.",
    ),
    Mistake(
        "the keys are mixed instead of the values",
        wrong_numbers(values=K),
        "Your weights are right; your output is a mixture of keys.",
        "What does a token contribute: q, k or v?",
    ),
    Mistake(
        "the tokens are mixed instead of the values",
        wrong_numbers(values=X),
        "Your weights are right; your output is a mixture of the tokens themselves.",
        "What does a token contribute: q, k or v?",
    ),
    Mistake(
        "these are the numbers of the second token",
        wrong_numbers(token=1),
        "Your first weight is the smallest.",
        "Begin with q1.",
    ),
    Mistake(
        "these are the numbers of the third token",
        wrong_numbers(token=2),
        "Your third weight is close to 1.",
        "Begin with q1.",
    ),
)


EXERCISE = Exercise(
    number="2.1",
    title="Weights and output with pencil and paper",
    task=TASK.strip(),
    solve=by_hand,
    reference=reference,
    draws=lambda: [Draw("the example", ())],
    mistakes=MISTAKES,
    run=run,
    close=0.006,
    hint="Write down q1, then k1, k2 and k3 (each has four numbers), then the three products.",
    remark="The weights are 0.24, 0.09 and 0.67, and the output is (15.75, 7.55).",
)
