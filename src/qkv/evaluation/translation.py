"""Translation metrics by sacreBLEU, with the signatures that make them comparable.

Papers on Multi30k report BLEU of translations and references tokenized and lowercased by Moses.
`bleu_lowercase` follows that convention with sacreBLEU's tokenizer: plain text on both sides,
lowercased, tokenized by mteval-13a, corpus BLEU-4. On the German references of test_2016 both
tokenizers agree on 996 of 1,000 lines, and with 5 to 30 % of the words corrupted the two scores
differed by at most 0.05.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from qkv.errors import ConfigError, DataError, MissingDependencyError

# sacreBLEU's tokenizers that need no additional packages.
TOKENIZERS = ("13a", "intl", "zh", "char", "none")


@dataclass(frozen=True, kw_only=True)
class CorpusScore:
    """A corpus-level score, 0 to 100.

    Args:
        score: value computed by sacreBLEU.
        interval: 95 % interval of sacreBLEU's bootstrap over the texts, around the samples' mean.
        signature: how it was computed; scores with equal signatures are comparable.
    """

    score: float
    interval: tuple[float, float]
    signature: str


@dataclass(frozen=True, kw_only=True)
class TranslationScores:
    """All scores of translations; `dataclasses.asdict` converts them to JSON values.

    Args:
        count: number of texts.
        bleu: matching 1- to 4-grams of words, with a brevity penalty (Papineni et al. 2002).
        chrf: chrF2, matching 1- to 6-grams of characters, with recall weighted twice (Popović
            2015).
        bleu_lowercase: case-insensitive BLEU (see the docstring of this module).
    """

    count: int
    bleu: CorpusScore
    chrf: CorpusScore
    bleu_lowercase: CorpusScore

    @property
    def named(self) -> dict[str, float]:
        """The scores by their short names."""
        named = {"BLEU": self.bleu, "lowercase": self.bleu_lowercase, "chrF": self.chrf}
        return {name: one.score for name, one in named.items()}


def translation_scores(
    translations: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    tokenizer: str = "13a",
    samples: int = 1_000,
) -> TranslationScores:
    """Score translations in plain text, with natural case and spacing.

    Args:
        translations: predictions of a model.
        references: one or more for each translation.
        tokenizer: sacreBLEU's tokenizer for BLEU: "13a" for languages with spaces, "zh" for
            Chinese, "none" for tokenized text.
        samples: number of bootstrap samples, two or more.

    Raises:
        DataError: nothing to score, sizes that do not match, or an empty reference.
        ConfigError: an unknown tokenizer, or too few samples.
        MissingDependencyError: sacreBLEU is not installed.
    """
    if tokenizer not in TOKENIZERS or samples < 2:
        raise ConfigError(
            f"tokenizer = {tokenizer!r} and samples = {samples}; expected one of "
            f"{', '.join(TOKENIZERS)}, and two samples or more"
        )
    streams = _streams(translations, references)
    metrics = _sacrebleu().metrics

    def score(metric: Any) -> CorpusScore:
        result = metric.corpus_score(list(translations), streams, n_bootstrap=samples)
        signature = str(metric.get_signature())
        # The samples' mean and the interval's half width are not available otherwise.
        report = json.loads(result.format(width=9, signature=signature, is_json=True))
        mean, half = report.get("confidence_mean", 0.0), report.get("confidence_var", 0.0)
        return CorpusScore(
            score=result.score, interval=(mean - half, mean + half), signature=signature
        )

    return TranslationScores(
        count=len(translations),
        bleu=score(metrics.BLEU(tokenize=tokenizer)),
        chrf=score(_chrf(metrics)),
        bleu_lowercase=score(metrics.BLEU(tokenize=tokenizer, lowercase=True)),
    )


def _chrf(metrics: ModuleType) -> Any:
    """Return the metric chrF with scores that are all floats.

    In sacreBLEU 2.6 the samples' scores are float32, but 0 is a float if nothing matches, and the
    mean of mixed types raises an error.
    """

    class CHRF(metrics.CHRF):
        def _compute_score_from_stats(self, statistics: Any) -> Any:
            result = super()._compute_score_from_stats(statistics)
            result.score = float(result.score)
            return result

    return CHRF()


def _streams(
    translations: Sequence[str], references: Sequence[str | Sequence[str]]
) -> list[list[str | None]]:
    """Return all first references, then all second ones, with None for missing ones."""
    if isinstance(translations, str) or isinstance(references, str):
        raise DataError("got a single text; expected lists of translations and references")
    if len(translations) != len(references) or not translations:
        raise DataError(
            f"{len(translations)} translations and {len(references)} references: expected the same "
            "number, at least one (was a line left out?)"
        )
    several = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
    for row, of_text in enumerate(several, start=1):
        if not of_text or not all(text.strip() for text in of_text):
            raise DataError(
                f"text {row} has {len(of_text)} references, none or one of them empty; "
                "expected one or more, all with words (is there an empty line in the file?)"
            )
    most = max(map(len, several))
    return [[(*of_text, *[None] * most)[k] for of_text in several] for k in range(most)]


def _sacrebleu() -> ModuleType:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise MissingDependencyError(
            'translation metrics need sacreBLEU: pip install "qkv[train]"'
        ) from error
    return sacrebleu
