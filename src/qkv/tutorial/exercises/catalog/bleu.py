"""Exercise 6.1: BLEU of a test set."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from qkv.tutorial.exercises.exercise import Draw, Exercise, Mistake, together, whole

TASK = """
Compute the BLEU of a whole test set, 0 to 100, with one reference for each translation.
For n = 1, 2, 3, 4: of all n-grams of all translations, p_n is the fraction that also occurs
in the translation's own reference, each n-gram counted at most as often as it occurs there.
Matches and totals are summed over the test set before they are divided. BLEU is
100 * min(1, exp(1 - r / c)) * (p_1 p_2 p_3 p_4)^(1/4), where c is the number of words of all
translations and r that of all references.

If some n has no match at all: without smoothing the result is 0.0; with smooth=True such an
order counts, in place of its 0 matches, 1/2 match if it is the first such order (of n = 1,
2, 3, 4), 1/4 if it is the second, 1/8 if it is the third. Other orders are not changed.

translations, references: lists of texts, each a list of words; the test set has at least one
    n-gram of each order   smooth: a bool

Return a float.
"""


def corpus_bleu(translations: list[list[str]], references: list[list[str]], smooth: bool) -> float:
    """Return BLEU."""

    def ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    logs, empty = [], 0
    for n in (1, 2, 3, 4):
        counts = [
            (ngrams(translation, n), ngrams(reference, n))
            for translation, reference in zip(translations, references, strict=True)
        ]
        matches = float(sum((ours & theirs).total() for ours, theirs in counts))
        total = sum(ours.total() for ours, _ in counts)
        if matches == 0:
            if not smooth:
                return 0.0
            empty += 1
            matches = 0.5**empty
        logs.append(math.log(matches / total))
    c, r = sum(map(len, translations)), sum(map(len, references))
    return 100 * math.exp(min(0.0, 1 - r / c) + sum(logs) / 4)


def draws() -> list[Draw]:
    """Corrupted copies of random texts, shorter and longer ones, and texts without matches."""
    draw = whole(61)

    def text(length: int, words: int = 7) -> list[str]:
        return [f"w{i}" for i in draw(words, length).tolist()]

    def corrupted(words: list[str], every: int) -> list[str]:
        return [f"x{i}" if i % every == every - 1 else word for i, word in enumerate(words)]

    def inputs(
        *lengths: int, every: int = 5, cut: int = 0, smooth: bool = False
    ) -> tuple[Any, ...]:
        references = [text(length) for length in lengths]
        translations = [corrupted(words, every)[: len(words) - cut] for words in references]
        return translations, references, smooth

    repeated = [["the"] * 5 + ["cat", "sat", "on", "the", "mat"]]
    longer = inputs(13, 11, 7, cut=2)
    apart = [["a", "b", "c", "d", "e"], ["f", "g", "h", "i"]]
    return [
        Draw("texts of one length", inputs(13, 11, 17)),
        Draw(
            "a word that is repeated too often",
            (repeated, [["the", "cat", "sat", "on", "the", "mat"]], False),
        ),
        Draw("translations that are too short", inputs(13, 11, 17, every=7, cut=3)),
        Draw("translations that are too long", (longer[1], longer[0], False)),
        Draw("texts without a common group of four", inputs(13, 11, every=4)),
        Draw("the same with smoothing", inputs(13, 11, every=4, smooth=True)),
        Draw("no common pair, with smoothing", inputs(11, 7, every=2, smooth=True)),
        Draw("nothing in common, with smoothing", (apart, [t[::-1] for t in apart[::-1]], True)),
        Draw("smoothing that is not needed", inputs(13, 11, 17, smooth=True)),
    ]


def wrong_bleu(
    translations: list[list[str]],
    references: list[list[str]],
    smooth: bool,
    *,
    orders: Sequence[int] = (1, 2, 3, 4),
    clip: str = "own reference",
    mean: str = "geometric",
    penalty: str = "brevity",
    zero: str = "as asked",
    scale: float = 100.0,
) -> float:
    """Compute BLEU with one step done in another way."""

    def ngrams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    shares, empty = [], 0
    for n in orders:
        matches, total, recall = 0.0, 0, 0
        known = sum((ngrams(words, n) for words in references), Counter())
        for translation, reference in zip(translations, references, strict=True):
            ours, theirs = ngrams(translation, n), ngrams(reference, n)
            if clip == "none":
                matches += sum(count for gram, count in ours.items() if gram in theirs)
            elif clip == "set":
                ours, theirs = Counter(set(ours)), Counter(set(theirs))
                matches += (ours & theirs).total()
            elif clip == "all references":
                matches += (ours & known).total()
            else:
                matches += (ours & theirs).total()
            total, recall = total + ours.total(), recall + theirs.total()
        total = recall if clip == "recall" else total
        if (zero == "add one" and smooth and n > 1) or (zero == "add one everywhere" and smooth):
            matches, total = matches + 1, total + 1
        elif matches == 0:
            if zero == "raise" and not smooth:
                math.log(matches)
            if zero == "ignored" or not smooth:
                return 0.0
            empty += 1
            matches = {
                "the same half": 0.5,
                "by order": 0.5**n,
                "one": 1.0,
                "tiny": 1e-9,
                "quarter first": 0.5 ** (empty + 1),
            }.get(zero, 0.5**empty)
        shares.append(matches / total)
    c, r = sum(map(len, translations)), sum(map(len, references))
    factor = {
        "brevity": lambda: min(1.0, math.exp(1 - r / c)),
        "inverted": lambda: min(1.0, math.exp(1 - c / r)),
        "inverted above": lambda: 1.0 if c > r else math.exp(1 - c / r),
        "reward": lambda: 1.0 if c < r else math.exp(1 - r / c),
        "none": lambda: 1.0,
        "both ways": lambda: math.exp(1 - r / c),
        "ratio": lambda: min(1.0, c / r),
    }[penalty]()
    logs = sum(map(math.log, shares))
    middle = {
        "geometric": lambda: math.exp(logs / len(shares)),
        "arithmetic": lambda: sum(shares) / len(shares),
        "product": lambda: math.exp(logs),
        "last": lambda: shares[-1],
    }[mean]()
    return scale * factor * middle


def mean_of_sentences(
    translations: list[list[str]], references: list[list[str]], smooth: bool
) -> float:
    """Average the BLEU of single sentences."""
    scores = [
        corpus_bleu([translation], [reference], smooth)
        for translation, reference in zip(translations, references, strict=True)
    ]
    return sum(scores) / len(scores)


MISTAKES = (
    Mistake(
        "the sentences' scores are averaged",
        mean_of_sentences,
        "Your score is the mean of each text's own BLEU.",
        "Sum the counts over the test set before anything is divided.",
    ),
    Mistake(
        "matches are not clipped",
        partial(wrong_bleu, clip="none"),
        "Your score is too high where a translation repeats a word of the reference.",
        "A word that the reference has twice can match twice at most.",
    ),
    Mistake(
        "n-grams are counted once",
        partial(wrong_bleu, clip="set"),
        "Your counts are those of different n-grams: a repeated one counts once.",
        "Count with multiplicity (collections.Counter), not as sets.",
    ),
    Mistake(
        "n-grams match in any reference",
        partial(wrong_bleu, clip="all references"),
        "Your score is too high: a word counts if another text's reference has it.",
        "Each translation has its own reference.",
    ),
    Mistake(
        "the totals are those of the references",
        partial(wrong_bleu, clip="recall"),
        "Your shares are recalls: they fall when the translation is too short.",
        "Of all n-grams of the translations, which share is in the references?",
    ),
    Mistake(
        "the penalty is inverted",
        partial(wrong_bleu, penalty="inverted"),
        "Your score is too low for translations that are too long, and too high for short ones.",
        "Which of the two lengths is above the other?",
    ),
    Mistake(
        "the penalty is inverted",
        partial(wrong_bleu, penalty="reward"),
        "Your score is too low for translations that are too long, and too high for short ones.",
        "Which of the two lengths is above the other?",
    ),
    Mistake(
        "the penalty is inverted",
        partial(wrong_bleu, penalty="inverted above"),
        "Your score is too low for translations that are too long, and too high for short ones.",
        "Which of the two lengths is above the other?",
    ),
    Mistake(
        "the penalty is missing",
        partial(wrong_bleu, penalty="none"),
        "Your score is too high for translations that are too short.",
        "Shares alone would reward translations of a few safe words.",
    ),
    Mistake(
        "the penalty also rewards",
        partial(wrong_bleu, penalty="both ways"),
        "Your score is too high for translations that are longer than the references.",
        "The factor is at most 1.",
    ),
    Mistake(
        "the penalty is the ratio of the lengths",
        partial(wrong_bleu, penalty="ratio"),
        "Your score is a little too high for short translations: the factor is c / r.",
        "The factor is an exponential.",
    ),
    Mistake(
        "the mean is arithmetic",
        partial(wrong_bleu, mean="arithmetic"),
        "Your score is too high: it is the plain mean of the four shares.",
        "A product and a fourth root: the mean of logarithms.",
    ),
    Mistake(
        "the fourth root is missing",
        partial(wrong_bleu, mean="product"),
        "Your score is far too low: it is the product of the four shares.",
        "A product and a fourth root: the mean of logarithms.",
    ),
    Mistake(
        "only groups of four count",
        partial(wrong_bleu, mean="last"),
        "Your score is the share of groups of four.",
        "All four orders count.",
    ),
    Mistake(
        "groups of four are left out",
        partial(wrong_bleu, orders=(1, 2, 3)),
        "Your score is too high: n goes to 3 only.",
        "range(1, 4) ends before 4.",
    ),
    Mistake(
        "single words are left out",
        partial(wrong_bleu, orders=(2, 3, 4)),
        "Your score is too low: n begins at 2.",
        "n = 1 counts, too.",
    ),
    Mistake(
        "the score lies between 0 and 1",
        partial(wrong_bleu, scale=1.0),
        "Your score is too small by 100.",
        "BLEU is reported from 0 to 100.",
    ),
    Mistake(
        "the logarithm of 0",
        partial(wrong_bleu, zero="raise"),
        "Your function fails where some order has no match: log(0) does not exist.",
        "Without smoothing, such a test set has the score 0.0.",
    ),
    Mistake(
        "smooth is ignored",
        partial(wrong_bleu, zero="ignored"),
        "Your score is 0 where some order has no match, also with smoothing.",
        "With smoothing, such an order has a small count in place of 0.",
    ),
    Mistake(
        "each empty order counts 1/2",
        partial(wrong_bleu, zero="the same half"),
        "Your score is right if one order is empty, and too high if several are.",
        "The second empty order counts 1/4.",
    ),
    Mistake(
        "an empty order counts by its n",
        partial(wrong_bleu, zero="by order"),
        "Your score is too low: you count 1/2^n for order n.",
        "The exponent counts the empty orders, not the words.",
    ),
    Mistake(
        "the first empty order counts 1/4",
        partial(wrong_bleu, zero="quarter first"),
        "Your score is too low: all your smoothed counts are halves of what they should be.",
        "The first empty order counts 1/2.",
    ),
    Mistake(
        "an empty order counts 1",
        partial(wrong_bleu, zero="one"),
        "Your score is too high where some order has no match.",
        "The first empty order counts 1/2.",
    ),
    Mistake(
        "one is added to the counts",
        partial(wrong_bleu, zero="add one"),
        "Your score changes with smoothing even where no order is empty.",
        "Orders with matches stay as they are.",
    ),
    Mistake(
        "one is added to all counts",
        partial(wrong_bleu, zero="add one everywhere"),
        "Your score changes with smoothing even where no order is empty.",
        "Orders with matches stay as they are.",
    ),
)


EXERCISE = Exercise(
    number="6.1",
    title="BLEU of a test set",
    task=TASK.strip(),
    solve=corpus_bleu,
    draws=draws,
    mistakes=(*MISTAKES, *together(MISTAKES, "zero", "raise", "ignored")),
    hint="Counter(a) & Counter(b) keeps the smaller count of each n-gram: that is the clipping.",
    remark=(
        "This is sacreBLEU's score of tokenized text with its default smoothing, except that "
        "sacreBLEU says 0 if no word matches at all. The library calls sacreBLEU."
    ),
)
