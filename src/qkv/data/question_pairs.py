"""Does a sentence answer a question? Pairs of texts with two classes, made of questions."""

import re
from collections import defaultdict
from collections.abc import Sequence

from qkv.data.labels import PairExample
from qkv.data.questions import Question
from qkv.errors import DataError

WORD = re.compile(r"\w+")
YES, NO = "answers", "does not answer"


def answerable_pairs(questions: Sequence[Question]) -> list[PairExample]:
    """The first question with its own passage, the second with another that is like it, and so on.

    In the manner of QNLI (Wang et al. 2019, GLUE, section 3.3), which pairs SQuAD's questions with
    sentences. The other passage is the one that shares the most words with the question, rare words
    counting more: one with nothing in common would be told apart by any word.

    Args:
        questions: on two different passages or more.

    Raises:
        DataError: fewer than two passages.
    """
    passages = list(dict.fromkeys(one.context for one in questions))
    if len(passages) < 2:
        raise DataError(
            f"{len(questions)} questions on {len(passages)} passages; expected two passages or "
            "more, for every second question is paired with another one's"
        )
    holds: dict[str, list[int]] = {}  # of each word the passages that have it
    for place, passage in enumerate(passages):
        for word in _words(passage):
            holds.setdefault(word, []).append(place)
    pairs = []
    for i, one in enumerate(questions):
        if i % 2 == 0:
            pairs.append(PairExample(one.question, YES, one.context))
            continue
        shared = defaultdict[int, float](float)
        for word in sorted(_words(one.question)):
            for place in holds.get(word, ()):
                shared[place] += 1 / len(holds[word])
        others = (place for place, text in enumerate(passages) if text != one.context)
        alike = max(others, key=lambda place: shared[place])
        pairs.append(PairExample(one.question, NO, passages[alike]))
    return pairs


def _words(text: str) -> set[str]:
    return set(WORD.findall(text.lower()))
