"""Language-model metrics: loss, perplexity, bits per character."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkv.errors import DataError
from qkv.evaluation.intervals import bootstrap_interval


@dataclass(frozen=True, kw_only=True)
class LanguageModelScores:
    """All scores of a language model; `dataclasses.asdict` converts them to JSON values.

    Args:
        count: number of texts, or of pieces of a long text.
        tokens: total number of predicted tokens.
        loss: mean over the tokens of -ln p, in nats.
        loss_interval: 95 % bootstrap interval over the texts; None for a single text.
        perplexity: exp(loss); comparable only between models with the same tokenization.
        perplexity_interval: exp of the loss interval.
        characters: total number of characters; None if they were not counted.
        bits_per_character: total -log2 p divided by the characters; comparable across
            tokenizations.
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
    """Compute the scores from the losses of texts.

    Args:
        losses: sum of -ln p over the tokens of each text.
        tokens: number of tokens in each sum.
        characters: number of characters in these tokens. The end of the text may count as one, as
            in nanoGPT and papers on character models, or not: report which.

    Raises:
        DataError: no texts, sizes that do not match, an invalid loss, or an empty text.
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
    """Return exp(loss), or infinity on overflow."""
    return math.exp(loss) if loss < 709 else math.inf
