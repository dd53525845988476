"""Scores of translations by sacreBLEU, each with the signature that makes it comparable.

The papers on Multi30k report BLEU of text that Moses tokenized and lower-cased, translations and
references alike. `bleu_lowercase` is that convention with sacreBLEU's own tokens: plain text on
both sides, lower-cased, tokenized by mteval-13a, corpus BLEU-4. On the German references of
test_2016 both tokenizers split 996 of the 1,000 lines alike, and with 5 to 30 % of their words
spoiled the two scores lay within 0.05 of each other.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from qkv.errors import ConfigError, DataError, MissingDependencyError

# sacreBLEU's tokenizers that need no further packages.
TOKENIZERS = ("13a", "intl", "zh", "char", "none")


@dataclass(frozen=True, kw_only=True)
class CorpusScore:
    """One score of a whole corpus, 0 to 100.

    Args:
        score: as sacreBLEU gives it.
        interval: 95 %, by sacreBLEU's bootstrap over the texts: around the mean of its samples.
        signature: how it was computed; scores are comparable where the signatures agree.
    """

    score: float
    interval: tuple[float, float]
    signature: str


@dataclass(frozen=True, kw_only=True)
class TranslationScores:
    """All scores of some translations; `dataclasses.asdict` makes JSON values of them.

    Args:
        count: how many texts.
        bleu: matching words, 1 to 4 in a row, and length (Papineni et al. 2002).
        chrf: matching characters, 1 to 6 in a row, recall counting twice: chrF2 (Popović 2015).
        bleu_lowercase: BLEU that takes no account of case (see the head of this file).
    """

    count: int
    bleu: CorpusScore
    chrf: CorpusScore
    bleu_lowercase: CorpusScore


def translation_scores(
    translations: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    tokenizer: str = "13a",
    samples: int = 1_000,
) -> TranslationScores:
    """Score translations, in plain text with the case and spaces that people write.

    Args:
        translations: what a model said.
        references: one for each translation, or several.
        tokenizer: sacreBLEU's, for BLEU: "13a" for languages with spaces, "zh" for Chinese, "none"
            for text that is tokenized already.
        samples: of the bootstrap, two or more.

    Raises:
        DataError: nothing to score, other numbers of texts, or an empty reference.
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
        given = metric.corpus_score(list(translations), streams, n_bootstrap=samples)
        signature = str(metric.get_signature())
        # The samples' mean and the interval's half width have no other public place.
        told = json.loads(given.format(width=9, signature=signature, is_json=True))
        mean, half = told.get("confidence_mean", 0.0), told.get("confidence_var", 0.0)
        return CorpusScore(
            score=given.score, interval=(mean - half, mean + half), signature=signature
        )

    return TranslationScores(
        count=len(translations),
        bleu=score(metrics.BLEU(tokenize=tokenizer)),
        chrf=score(_chrf(metrics)),
        bleu_lowercase=score(metrics.BLEU(tokenize=tokenizer, lowercase=True)),
    )


def _chrf(metrics: ModuleType) -> Any:
    """The metric chrF, with scores that are all floats.

    In sacreBLEU 2.6 those of the samples are float32, but 0 is a float where nothing matches, and
    the mean of both kinds is an error.
    """

    class CHRF(metrics.CHRF):
        def _compute_score_from_stats(self, statistics: Any) -> Any:
            given = super()._compute_score_from_stats(statistics)
            given.score = float(given.score)
            return given

    return CHRF()


def _streams(
    translations: Sequence[str], references: Sequence[str | Sequence[str]]
) -> list[list[str | None]]:
    """The first reference of each text, then the second of each, None where there is none."""
    if isinstance(translations, str) or isinstance(references, str):
        raise DataError("one text was given; expected a list of translations, and of references")
    if len(translations) != len(references) or not translations:
        raise DataError(
            f"{len(translations)} translations and {len(references)} references: expected the same "
            "number, at least one (was a line left out?)"
        )
    several = [[given] if isinstance(given, str) else list(given) for given in references]
    for row, of_text in enumerate(several, start=1):
        if not of_text or not all(text.strip() for text in of_text):
            raise DataError(
                f"text {row} has {len(of_text)} references, an empty one among them or none; "
                "expected one or more with words (is there an empty line in the file?)"
            )
    most = max(map(len, several))
    return [[(*of_text, *[None] * most)[k] for of_text in several] for k in range(most)]


def _sacrebleu() -> ModuleType:
    try:
        import sacrebleu.metrics
    except ImportError as error:
        raise MissingDependencyError(
            'the scores of a translation need sacreBLEU: pip install "qkv[train]"'
        ) from error
    return sacrebleu
