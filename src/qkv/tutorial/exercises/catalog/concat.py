"""Exercise 1.2: Luong's concat scores."""

from functools import partial

import torch
from torch import Tensor

from qkv.attention.scores import concat_scores as library_scores
from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Score each query against each key by v^T tanh(W [q; k]), where [q; k] is the query's vector
followed by the key's. The widths Dq and Dk may differ.

queries: (B, Q, Dq)   keys: (B, K, Dk)   W: (A, Dq + Dk)   v: (A,)

Return the scores (B, Q, K). If you can, do it without concatenating any pair:
W [q; k] is a sum of two products.
"""


def concat_scores(queries: Tensor, keys: Tensor, W: Tensor, v: Tensor) -> Tensor:
    """Return the scores."""
    d_query = queries.shape[-1]
    from_queries = queries @ W[:, :d_query].T  # (B, Q, A)
    from_keys = keys @ W[:, d_query:].T  # (B, K, A)
    return torch.tanh(from_queries[:, :, None] + from_keys[:, None]) @ v


def draws() -> list[Draw]:
    """The widths are equal in the first draw only."""
    draw = normal(12)

    def inputs(n_queries: int, n_keys: int, d_query: int, d_key: int) -> tuple[Tensor, ...]:
        queries, keys = draw(2, n_queries, d_query), draw(2, n_keys, d_key)
        return queries, keys, draw(7, d_query + d_key), draw(7)

    return [
        Draw("queries and keys of one width", inputs(5, 11, 3, 3)),
        Draw("queries and keys of different widths", inputs(5, 11, 3, 13)),
        Draw("a single query", inputs(1, 11, 5, 3)),
        Draw("as many queries as keys", inputs(5, 5, 3, 2)),
    ]


def wrong_scores(
    queries: Tensor, keys: Tensor, W: Tensor, v: Tensor, *, cut: str = "query", score: str = "tanh"
) -> Tensor:
    """Compute the scores with one step done in another way."""
    if cut == "query":
        first, second = W[:, : queries.shape[-1]], W[:, queries.shape[-1] :]
    elif cut == "key":
        second, first = W[:, : keys.shape[-1]], W[:, keys.shape[-1] :]
    else:
        first, second = W.chunk(2, dim=1)
    left, right = (queries @ first.T)[:, :, None], (keys @ second.T)[:, None]
    both = left + right  # (B, Q, K, A)
    return {
        "tanh": lambda: torch.tanh(both) @ v,
        "no tanh": lambda: both @ v,
        "tanh outside": lambda: torch.tanh(both @ v),
        "tanh of each": lambda: (torch.tanh(left) + torch.tanh(right)) @ v,
        "relu": lambda: both.relu() @ v,
        "sigmoid": lambda: both.sigmoid() @ v,
        "scaled": lambda: torch.tanh(both) @ v / len(v) ** 0.5,
        "no v": lambda: torch.tanh(both).sum(-1),
        "mean": lambda: (torch.tanh(both) * v).mean(-1),
        "weights": lambda: (torch.tanh(both) @ v).softmax(-1),
        "turned": lambda: (torch.tanh(both) @ v).mT,
    }[score]()


MISTAKES = (
    Mistake(
        "the key comes before the query",
        partial(wrong_scores, cut="key"),
        "Your first columns of W meet the key: you have [k; q].",
        "Count: the first Dq columns belong to the query.",
    ),
    Mistake(
        "W is cut in the middle",
        partial(wrong_scores, cut="middle"),
        "Your function is right where both widths are equal, and fails where they differ.",
        "Where does the query's part of W end?",
    ),
    Mistake(
        "the result is turned",
        partial(wrong_scores, score="turned"),
        "Your scores have the keys in rows and the queries in columns.",
        "Which of the two inputs gets the new axis in front, and which behind?",
    ),
    Mistake(
        "the tanh is missing",
        partial(wrong_scores, score="no tanh"),
        "Your scores are linear: the differences between two keys are equal for all queries.",
        "What makes the score a network with a hidden layer?",
    ),
    Mistake(
        "the tanh comes after the product with v",
        partial(wrong_scores, score="tanh outside"),
        "All your scores lie between -1 and 1.",
        "v weighs the hidden units, after each has passed its tanh.",
    ),
    Mistake(
        "each projection has its own tanh",
        partial(wrong_scores, score="tanh of each"),
        "In your scores the differences between two keys are equal for all queries.",
        "W [q; k] is one vector, and goes through one tanh.",
    ),
    Mistake(
        "relu in place of tanh",
        partial(wrong_scores, score="relu"),
        "Your hidden units are never negative.",
        "Read the formula again: which function is it?",
    ),
    Mistake(
        "sigmoid in place of tanh",
        partial(wrong_scores, score="sigmoid"),
        "Your hidden units lie between 0 and 1.",
        "Read the formula again: which function is it?",
    ),
    Mistake(
        "the scores are divided by a square root",
        partial(wrong_scores, score="scaled"),
        "All your scores are too small by the factor sqrt(A).",
        "The division belongs to the dot products of 2017, not to this score.",
    ),
    Mistake(
        "v is missing",
        partial(wrong_scores, score="no v"),
        "Your scores are the plain sum of the hidden units.",
        "Each hidden unit has its own weight.",
    ),
    Mistake(
        "the hidden units are averaged",
        partial(wrong_scores, score="mean"),
        "All your scores are too small by the factor A.",
        "An inner product is a sum.",
    ),
    Mistake(
        "the softmax was applied",
        partial(wrong_scores, score="weights"),
        "Your numbers are positive, and those of a query sum to 1: they are weights.",
        "Return the scores.",
    ),
)


EXERCISE = Exercise(
    number="1.2",
    title="Luong's concat scores",
    task=TASK.strip(),
    solve=concat_scores,
    reference=library_scores,
    draws=draws,
    mistakes=MISTAKES,
    hint="The first Dq columns of W meet the query, the other Dk columns meet the key.",
    remark=(
        "The pairs would be a (B, Q, K, Dq + Dk) tensor. The two products need (B, Q, A) and "
        "(B, K, A), and only their sum has an axis for both."
    ),
)
