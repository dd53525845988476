"""How well a language model foretells text: loss, perplexity, bits per character."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkv.errors import DataError
from qkv.evaluation.intervals import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class LanguageModelScores:
    """How well some texts were foretold; `dataclasses.asdict` makes JSON values of them.

    Args:
        count: how many texts, or pieces of a long one.
        tokens: that were foretold, all together.
        loss: mean over the tokens of -ln p, in nats.
        loss_interval: by the bootstrap over the texts, 95 %; None of a single text, which does not
            tell how others would do.
        perplexity: exp(loss); comparable only between models with the same tokens.
        perplexity_interval: exp of the loss's.
        characters: of the texts; None where they were not counted.
        bits_per_character: all -log2 p by the characters; comparable whatever the tokens.
    """

    count: int
    tokens: int
    loss: float
    loss_interval: tuple[float, float] | None
    perplexity: float
    perplexity_interval: tuple[float, float] | None
    characters: int | None
    bits_per_character: float | None


def language_model_scores(
    losses: Sequence[float] | np.ndarray,
    tokens: Sequence[int] | np.ndarray,
    characters: Sequence[int] | np.ndarray | None = None,
) -> LanguageModelScores:
    """Score texts by what a model lost on them.

    Args:
        losses: of each text, the sum over its tokens of -ln p.
        tokens: how many tokens that sum has.
        characters: how many characters these tokens stand for; the end of the text may count as
            one, as nanoGPT and the papers on characters do, or not: say which.

    Raises:
        DataError: no texts, numbers that do not agree, a loss that is none, or an empty text.
    """
    nats = np.asarray(losses, dtype=float)
    counts = [np.asarray(count) for count in (tokens, characters) if count is not None]
    if not len(nats) or any(count.shape != nats.shape for count in counts):
        raise DataError(
            f"{len(nats)} losses of texts with {' and '.join(str(len(c)) for c in counts)} sizes; "
            "expected the same number, at least one"
        )
    bad = ~(np.isfinite(nats) & (nats >= 0)) | np.any([count < 1 for count in counts], axis=0)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"text {row + 1} has the loss {nats[row]} and the sizes "
            f"{[int(count[row]) for count in counts]}; expected a loss of 0 or more, and at least "
            "one token and character (is the text empty, or did the model diverge?)"
        )
    total, n_tokens = float(nats.sum()), int(counts[0].sum())
    interval = bootstrap_interval(nats / counts[0], counts[0]) if len(nats) > 1 else None
    n_characters = int(counts[1].sum()) if len(counts) > 1 else None
    return LanguageModelScores(
        count=len(nats),
        tokens=n_tokens,
        loss=total / n_tokens,
        loss_interval=interval,
        perplexity=_exp(total / n_tokens),
        perplexity_interval=interval and (_exp(interval[0]), _exp(interval[1])),
        characters=n_characters,
        bits_per_character=n_characters and total / math.log(2) / n_characters,
    )


def _exp(loss: float) -> float:
    """exp, infinite where a float ends."""
    return math.exp(loss) if loss < 709 else math.inf
