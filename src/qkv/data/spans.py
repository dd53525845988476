"""Span corruption: spans of a text are taken out, and the model writes them down in order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qkv.data.batches import Batches, Pair, PairBatch, bucketed_batches, collate_pairs
from qkv.errors import ConfigError, LengthError


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """Replace spans by sentinels (Raffel et al. 2020, sections 3.1.4 and 3.3.4, figure 2).

        text       Thank you for inviting me to your party last week
        source     Thank you <X> me to your party <Y> week
        target     <X> for inviting <Y> last <Z>

    The sentinels come in the order given, one more in the target, which closes it. Each call draws
    other spans; how many there are depends on the text's length alone.

    Args:
        sentinels: ids that stand for spans, each used once in a text.
        share: of the tokens that is taken out.
        mean_length: of the spans.

    Raises:
        ConfigError: a share that is none, or spans shorter than one token.
    """

    sentinels: Sequence[int]
    share: float = 0.15
    mean_length: float = 3.0

    def __post_init__(self) -> None:
        """Check what every text depends on."""
        if not 0 < self.share <= 1 or self.mean_length < 1:
            raise ConfigError(
                f"share = {self.share} and mean_length = {self.mean_length}; expected a share "
                "between 0 and 1 and spans of at least one token"
            )

    def sizes(self, length: int) -> tuple[int, int]:
        """The number of tokens that are taken out of a text of this length, and of their spans.

        Raises:
            LengthError: an empty text, or one with more spans than sentinels can stand for.
        """
        if length < 1:
            raise LengthError("no span can be taken out of an empty text")
        n_out = max(1, round(self.share * length))
        # Spans do not touch: between two of them a token stays.
        n_spans = min(max(1, round(n_out / self.mean_length)), length - n_out + 1)
        if n_spans >= len(self.sentinels):
            raise LengthError(
                f"a text of {length} tokens has {n_spans} spans and needs {n_spans + 1} sentinels, "
                f"but there are {len(self.sentinels)}: cut the text, or take longer spans"
            )
        return n_out, n_spans

    def __call__(self, tokens: Sequence[int], rng: np.random.Generator) -> Pair:
        """Draw spans of a text: the source, and the target."""
        n_out, n_spans = self.sizes(len(tokens))
        out = _parts(n_out, n_spans, rng)
        # What stays before, between and after the spans; before and after it may be nothing.
        stay = _parts(len(tokens) - n_out + 2, n_spans + 1, rng)
        stay[0], stay[-1] = stay[0] - 1, stay[-1] - 1
        source, target, at = list[int](), list[int](), 0
        for sentinel, n_stay, n_span in zip(self.sentinels, stay, out, strict=False):
            source += [*tokens[at : at + n_stay], sentinel]
            at += n_stay
            target += [sentinel, *tokens[at : at + n_span]]
            at += n_span
        return [*source, *tokens[at:]], [*target, self.sentinels[n_spans]]


def span_batches(
    texts: Sequence[Sequence[int]],
    corruption: SpanCorruption,
    *,
    max_tokens: int,
    pad: int,
    start: int,
    stop: int,
    seed: int = 0,
    epochs: Iterable[int] = (0,),
) -> Batches[PairBatch]:
    """Texts of similar length together, with other spans taken out in every epoch.

    Args:
        texts: ids, without start and stop.
        corruption: what is taken out.
        max_tokens: the most positions, padding included, of the batch's larger side.
        pad: id that fills short rows.
        start: id before each target; that of T5 is its padding.
        stop: id after each source and each target.
        seed: of everything drawn.
        epochs: which epochs to go through; `itertools.count()` never ends.

    Raises:
        DataError: there are no texts.
        LengthError: a text is empty, longer than `max_tokens`, or has too many spans.
    """
    lengths = []
    for text in texts:
        n_out, n_spans = corruption.sizes(len(text))
        lengths.append((len(text) - n_out + n_spans + 1, n_out + n_spans + 2))

    def make(rows: list[int], rng: np.random.Generator) -> PairBatch:
        pairs = [corruption(texts[row], rng) for row in rows]
        ended = [([*source, stop], target) for source, target in pairs]
        return collate_pairs(ended, pad=pad, start=start, stop=stop)

    return bucketed_batches(lengths, make, max_tokens=max_tokens, seed=seed, epochs=epochs)


def _parts(total: int, n: int, rng: np.random.Generator) -> list[int]:
    """Cut a total into n parts of at least 1, every way alike."""
    cuts = np.sort(rng.choice(total - 1, n - 1, replace=False)) + 1
    return np.diff([0, *cuts, total]).tolist()
