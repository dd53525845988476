"""Exercise 6.2: beam search."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, normal

TASK = """
Search for the most probable sequences of tokens. log_probs(prefix) takes a tuple of tokens
(empty at first) and returns a list with the log-probability of each next token 0, 1, ...
Repeat max_length times: extend each prefix on the beam by each token, and sort all these
extensions by their total log-probability, largest first. Of the `size` best extensions,
those that end with the token `stop` are finished answers. The `size` best extensions that do
not end with `stop` are the new beam. Prefixes that are unfinished after the last step are
dropped. An answer's score is its total log-probability divided by its number of tokens, the
stop token included.

size, stop, max_length: ints

Return all finished answers, best score first, as a list of pairs (list of tokens, score).
"""


def beam_search(
    log_probs: Callable[[tuple[int, ...]], list[float]], size: int, stop: int, max_length: int
) -> list[tuple[list[int], float]]:
    """Return the finished answers and their scores."""
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    answers = []
    for _ in range(max_length):
        extensions = [
            (total + log_prob, (*prefix, token))
            for total, prefix in beam
            for token, log_prob in enumerate(log_probs(prefix))
        ]
        extensions.sort(key=lambda extension: -extension[0])
        answers += [
            (list(tokens), total / len(tokens))
            for total, tokens in extensions[:size]
            if tokens[-1] == stop
        ]
        beam = [extension for extension in extensions if extension[1][-1] != stop][:size]
    return sorted(answers, key=lambda answer: -answer[1])


def make_table(seed: int, n_tokens: int, sharp: float) -> Callable[[tuple[int, ...]], list[float]]:
    """Make a language model: the last two tokens and the length decide what comes next."""
    table = (normal(seed)(n_tokens + 1, n_tokens + 1, 11, n_tokens) * sharp).log_softmax(-1)

    def log_probs(prefix: tuple[int, ...]) -> list[float]:
        before = (*(n_tokens,) * 2, *prefix)[-2:]
        return table[before[0], before[1], len(prefix) % 11].tolist()

    return log_probs


def draws() -> list[Draw]:
    """Beams from greedy to exhaustive."""

    def inputs(seed: int, size: int, stop: int, length: int, tokens: int = 3) -> tuple[Any, ...]:
        return make_table(seed, tokens, 1.5), size, stop, length

    return [
        Draw("a beam of 1", inputs(621, 1, 0, 7)),
        Draw("a beam of 2", inputs(622, 2, 2, 7)),
        Draw("a beam of 3", inputs(623, 3, 0, 5, 5)),
        Draw("a beam that holds everything", inputs(624, 97, 1, 4)),
        Draw("answers of one token", inputs(625, 2, 1, 1)),
        Draw("a beam of 5 of seven tokens", inputs(626, 5, 3, 7, 7)),
    ]


def wrong_search(
    log_probs: Callable[[tuple[int, ...]], list[float]],
    size: int,
    stop: int,
    max_length: int,
    *,
    keep: str = "size unfinished",
    add: str = "log-probabilities",
    score: str = "total / length",
    finished: str = "of the size best",
    end: str = "max_length",
    order: str = "score",
    stops: str = "written",
) -> list[tuple[list[int], float]]:
    """Search with one thing done in another way."""
    beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    answers: list[tuple[list[int], float, float]] = []

    def note(total: float, tokens: tuple[int, ...]) -> None:
        n = len(tokens)
        value = {
            "total / length": total / n,
            "total": total,
            "without stop": total / max(n - 1, 1),
            "with start": total / (n + 1),
            "root": total / n**0.5,
            "probability": math.exp(min(total, 0.0)),
        }[score]
        shown = list(tokens[:-1] if stops == "removed" and tokens[-1] == stop else tokens)
        answers.append((shown, value, total))

    steps = max_length + {"one less": -1, "one more": 1}.get(end, 0)
    for _ in range(steps):
        extensions = []
        for total, prefix in beam:
            own = []
            for token, log_prob in enumerate(log_probs(prefix)):
                sums = {
                    "log-probabilities": total + log_prob,
                    "probabilities": total + math.exp(log_prob),
                    "last alone": log_prob,
                    "averages": (total * len(prefix) + log_prob) / (len(prefix) + 1),
                    "means": (total + log_prob) / (len(prefix) + 1),
                }[add]
                own.append((sums, (*prefix, token)))
            own.sort(key=lambda extension: -extension[0])
            extensions += own[: {"best of each": 1, "size of each": size}.get(keep, len(own))]
        extensions.sort(key=lambda extension: extension[0] if order == "worst" else -extension[0])
        ended = [extension for extension in extensions if extension[1][-1] == stop]
        if finished == "of the size best":
            ended = [extension for extension in extensions[:size] if extension[1][-1] == stop]
        for total, tokens in ended:
            note(total * len(tokens) if add == "averages" else total, tokens)
        alive = [extension for extension in extensions if extension[1][-1] != stop]
        if keep == "size with finished":
            alive = [extension for extension in extensions[:size] if extension[1][-1] != stop]
        elif keep == "ended go on":
            alive = extensions
        elif keep == "minus answers":
            alive = alive[: max(size - len(answers), 0)]
        beam = alive if keep == "size of each" else alive[:size]
        if not beam or (end == "first answer" and answers):
            break
        if end == "size answers" and len(answers) >= size:
            break
    if finished == "and unfinished":
        for total, tokens in beam:
            note(total, tokens)
    answers.sort(key=lambda answer: answer[1 if order != "total" else 2], reverse=order != "up")
    if order == "none":
        answers.sort(key=lambda answer: len(answer[0]))
    chosen = answers[: {"best": 1, "size": size}.get(order, len(answers))]
    return [(tokens, value) for tokens, value, _ in chosen]


MISTAKES = (
    Mistake(
        "each prefix keeps its best extension",
        partial(wrong_search, keep="best of each"),
        "Your prefixes never compete: each has one successor, so the beam stays at one.",
        "Sort the extensions of all prefixes together.",
    ),
    Mistake(
        "finished answers take places on the beam",
        partial(wrong_search, keep="size with finished"),
        "Your beam shrinks with each finished answer.",
        "The new beam has the `size` best unfinished extensions, wherever they stand.",
    ),
    Mistake(
        "finished answers are extended",
        partial(wrong_search, keep="ended go on"),
        "You have answers with a stop token inside.",
        "What has ended leaves the beam.",
    ),
    Mistake(
        "the beam shrinks by all answers so far",
        partial(wrong_search, keep="minus answers"),
        "Your beam shrinks with each finished answer.",
        "The new beam always has `size` prefixes, if there are so many.",
    ),
    Mistake(
        "probabilities are added",
        partial(wrong_search, add="probabilities"),
        "Your scores are positive: probabilities multiply, their logarithms add up.",
        "What is the logarithm of a product?",
    ),
    Mistake(
        "only the last token counts",
        partial(wrong_search, add="last alone"),
        "Your totals forget the prefix.",
        "A sequence is as probable as the product of all its tokens.",
    ),
    Mistake(
        "the mean is divided again at each step",
        partial(wrong_search, add="means"),
        "Your totals shrink: early tokens are divided once for each step.",
        "Keep the total, and divide once, for the score.",
    ),
    Mistake(
        "the score is not divided by the length",
        partial(wrong_search, score="total"),
        "Your short answers come first: each token makes a total smaller.",
        "The score is the mean log-probability of a token.",
    ),
    Mistake(
        "the stop token is not counted",
        partial(wrong_search, score="without stop"),
        "Your scores are too low: the length is one too small.",
        "The stop token is a token of the answer.",
    ),
    Mistake(
        "the length is one too large",
        partial(wrong_search, score="with start"),
        "Your scores are too high: the length is one too large.",
        "Only the tokens that were written count.",
    ),
    Mistake(
        "the score is a probability",
        partial(wrong_search, score="probability"),
        "Your scores lie between 0 and 1.",
        "The score is a mean of log-probabilities.",
    ),
    Mistake(
        "all finished extensions are answers",
        partial(wrong_search, finished="all"),
        "You have answers that were not among the `size` best extensions of their step.",
        "An extension outside of the `size` best is neither kept nor an answer.",
    ),
    Mistake(
        "unfinished prefixes are answers",
        partial(wrong_search, finished="and unfinished"),
        "You have answers that do not end with the stop token.",
        "What is unfinished after the last step is dropped.",
    ),
    Mistake(
        "the search ends with the first answer",
        partial(wrong_search, end="first answer"),
        "You have only the answers of the first step that has any.",
        "Longer answers may have better scores: repeat max_length times.",
    ),
    Mistake(
        "the search ends with `size` answers",
        partial(wrong_search, end="size answers"),
        "You miss the answers of later steps.",
        "Longer answers may have better scores: repeat max_length times.",
    ),
    Mistake(
        "there is one step too few",
        partial(wrong_search, end="one less"),
        "Your longest answers have max_length - 1 tokens.",
        "Answers of max_length tokens, stop token included, exist.",
    ),
    Mistake(
        "there is one step too many",
        partial(wrong_search, end="one more"),
        "You have answers of max_length + 1 tokens.",
        "The stop token is among the max_length tokens.",
    ),
    Mistake(
        "the least probable extensions are kept",
        partial(wrong_search, order="worst"),
        "Your totals are the lowest: the sorting is upside down.",
        "sort begins with the smallest.",
    ),
    Mistake(
        "the answers are sorted by their totals",
        partial(wrong_search, order="total"),
        "Your scores are right but not in order.",
        "Sort the answers by what you return.",
    ),
    Mistake(
        "the worst answer comes first",
        partial(wrong_search, order="up"),
        "Your scores rise from the first to the last.",
        "The best score is the largest, the one closest to 0.",
    ),
    Mistake(
        "the answers are not sorted by score",
        partial(wrong_search, order="none"),
        "Your answers are sorted by their length.",
        "The best score comes first.",
    ),
    Mistake(
        "only the best answer is returned",
        partial(wrong_search, order="best"),
        "Your list has one answer.",
        "Return all finished answers.",
    ),
    Mistake(
        "only the `size` best answers are returned",
        partial(wrong_search, order="size"),
        "Your list is cut.",
        "Return all finished answers.",
    ),
    Mistake(
        "the stop token is left out of the answers",
        partial(wrong_search, stops="removed"),
        "Your answers lack their last token.",
        "The list of tokens includes the stop token.",
    ),
)


EXERCISE = Exercise(
    number="6.2",
    title="Beam search",
    task=TASK.strip(),
    solve=beam_search,
    draws=draws,
    mistakes=MISTAKES,
    hint=(
        "Collect the extensions of all prefixes in one list before sorting: prefixes compete with "
        "each other."
    ),
    remark=(
        "`qkv.generation.beam.beam_search` does the same on batches, reorders the model's cache "
        "with the beam, and stops early where no unfinished prefix can still win."
    ),
)
