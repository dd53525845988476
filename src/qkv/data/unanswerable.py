"""Questions that a passage does not answer, made of questions that it answers.

A question on a sentence loses its answer in one of three ways (the first is that of Rajpurkar et
al. 2018, section 2, the others are of the kinds in its table 2):

    elsewhere     its sentence is replaced by others, among them the one with the most common words
    other word    "When did it open?" becomes "Why did it open?"
    other name    a question on something else is asked of a name in the passage

and a question on several paragraphs loses the sentence with the answer.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from qkv.data.questions import Answer, Question
from qkv.data.sentences import split_sentences
from qkv.errors import ConfigError

WORD = re.compile(r"\w+")
NAME = re.compile(r"(?<=[\w,] )(?!I\b)[A-Z]\w+(?: [A-Z]\w+)*")  # not at the start of a sentence
ASKED = re.compile(r"^(When|Where|Why)(?= (?:did|does|do|was|were|is|are|has|had|will|would)\b)")
BREAK = "\n\n"  # between paragraphs


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How training questions are varied, so that a model learns to abstain.

    Args:
        unanswerable: fraction of the questions on a single paragraph that lose their answer.
        sentences: a single paragraph is joined with others, to at most this many.
        repeat: how often a question on several paragraphs is asked, each time but the first of
            some of its paragraphs only, and sometimes without the sentence that answers it.
        seed: determines what is drawn.

    Raises:
        ConfigError: a number out of range.
    """

    unanswerable: float = 0.0
    sentences: int = 1
    repeat: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.unanswerable <= 1:
            raise ConfigError(f"unanswerable = {self.unanswerable}; expected 0 to 1, such as 0.3")
        for name in ("sentences", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1")


def mix_questions(questions: Sequence[Question], mixing: Mixing) -> list[Question]:
    """Return the questions, varied; the same ones for the same seed."""
    if mixing == Mixing(seed=mixing.seed):
        return list(questions)
    rng = np.random.default_rng(mixing.seed)
    short = [one for one in questions if BREAK not in one.context]
    mixer = _Mixer(short, rng, mixing.sentences)
    mixed = [
        mixer.without_answer(one) if rng.random() < mixing.unanswerable else mixer.joined(one)
        for one in short
    ]
    for one in questions:
        if BREAK in one.context:
            mixed.append(one)
            mixed += [shortened(one, rng) for _ in range(mixing.repeat - 1)]
    return mixed


class Passages:
    """Passages, to be looked up by common words.

    Args:
        passages: different texts.
    """

    def __init__(self, passages: Sequence[str]):
        self.passages = passages
        self.holders: dict[str, list[int]] = {}  # word to the indices of the passages that have it
        for index, passage in enumerate(passages):
            for word in words(passage):
                self.holders.setdefault(word, []).append(index)

    def most_similar(self, question: str, *, unlike: str) -> str:
        """Return the passage with the most words of a question, weighted by their rarity.

        Args:
            question: the question.
            unlike: a passage that is not returned.
        """
        shared = defaultdict[int, float](float)
        for word in sorted(words(question)):
            for index in self.holders.get(word, ()):
                shared[index] += 1 / len(self.holders[word])
        others = (index for index, text in enumerate(self.passages) if text != unlike)
        return self.passages[max(others, key=lambda index: shared[index])]


def words(text: str) -> set[str]:
    """Return the different words of a text, in lower case."""
    return set(WORD.findall(text.lower()))


class _Mixer:
    """Varies questions on single paragraphs.

    Args:
        questions: the questions; other passages and names are those of others among them.
        rng: draws.
        sentences: maximum number of paragraphs that are joined.
    """

    def __init__(self, questions: Sequence[Question], rng: np.random.Generator, sentences: int):
        self.questions, self.rng, self.sentences = questions, rng, sentences
        contexts = list(dict.fromkeys(one.context for one in questions))
        self.passages = Passages(contexts)
        self.near = defaultdict[str, list[str]](list)  # the passages of each source
        for one in {one.context: one for one in questions}.values():
            self.near[one.source].append(one.context)
        self.asked = defaultdict[str, set[str]](set)  # first words of the questions on a passage
        for one in questions:
            self.asked[one.context].add(one.question.partition(" ")[0])
        self.named = [one for one in questions if NAME.search(one.question)]

    def joined(self, one: Question) -> Question:
        """Put the passage among others; the question stays answerable."""
        others = self._others(one, int(self.rng.integers(self.sentences)))
        place = int(self.rng.integers(len(others) + 1))
        before = "".join(f"{text} " for text in others[:place])
        answers = [
            Answer(text, None if start is None else start + len(before))
            for text, start in one.answers
        ]
        context = before + " ".join([one.context, *others[place:]])
        return replace(one, context=context, answers=tuple(answers))

    def without_answer(self, one: Question) -> Question:
        """Return the question, or another one on its passage, that the passage does not answer."""
        draw = self.rng.random()
        made = self._other_word(one) if draw < 1 / 3 else None
        if made is None and draw < 2 / 3:
            made = self._other_name(one)
        if made is not None:
            return self.joined(replace(made, answers=()))
        others = self._others(one, int(self.rng.integers(self.sentences)) + 1, near=True)
        return replace(one, context=" ".join(others), answers=()) if others else self.joined(one)

    def _others(self, one: Question, n: int, *, near: bool = False) -> list[str]:
        """Return at most `n` other passages in which no answer occurs.

        They are of the same source, then of any; with `near` the most similar one comes first.
        """
        found = []
        if near or self.rng.random() < 0.5:
            found.append(self.passages.most_similar(one.question, unlike=one.context))
        found += [self._draw(self.near[one.source]) for _ in range(n)]
        found += [self._draw(self.passages.passages) for _ in range(n)]
        free = [
            text
            for text in dict.fromkeys(found)
            if text != one.context and not any(holds(text, answer) for answer, _ in one.answers)
        ][:n]
        return [free[i] for i in self.rng.permutation(len(free))]

    def _draw(self, texts: Sequence[str]) -> str:
        return texts[int(self.rng.integers(len(texts)))]

    def _other_word(self, one: Question) -> Question | None:
        """Ask for the time, place or reason, if no question on the passage does."""
        found = ASKED.match(one.question)
        free = sorted({"When", "Where", "Why"} - self.asked[one.context])
        if found is None or not free:
            return None
        return replace(one, question=self._draw(free) + one.question[found.end() :])

    def _other_name(self, one: Question) -> Question | None:
        """Ask a question on another source about a name in the passage."""
        names = NAME.findall(one.context)
        if not names or not self.named:
            return None
        other = self.named[int(self.rng.integers(len(self.named)))]
        rest = {word for word in words(NAME.sub("", other.question)) if len(word) > 3}
        if other.source == one.source or not rest or rest & words(one.context):
            return None
        name = self._draw(names)
        return replace(one, question=NAME.sub(lambda _: name, other.question, count=1))


def shortened(one: Question, rng: np.random.Generator) -> Question:
    """Leave out paragraphs without the answer; from one of four answerable questions, the answer.

    The sentences that hold an answer are then left out.
    """
    span = one.span
    if span is not None and rng.random() < 0.25:
        kept = [
            text
            for text in split_sentences(one.context)
            if not any(holds(text, answer) for answer, _ in one.answers)
        ]
        context = "".join(kept).strip()
        if context and not any(holds(context, answer) for answer, _ in one.answers):
            return replace(one, context=context, answers=())
    return _with_fewer_paragraphs(one, rng)


def _with_fewer_paragraphs(one: Question, rng: np.random.Generator) -> Question:
    """Leave out each paragraph with probability 1/4, but not the one with the answer."""
    kept, at, shift = [], 0, 0
    place = -1 if one.span is None or one.span.start is None else one.span.start
    for paragraph in one.context.split(BREAK):
        after = at + len(paragraph) + len(BREAK)
        if at <= place < after or rng.random() < 0.75:
            kept.append(paragraph)
        elif place >= after:
            shift += after - at
        at = after
    if not kept:
        return one
    context = BREAK.join(kept)
    answers = (Answer(one.span.text, place - shift),) if one.span is not None else ()
    return replace(one, context=context, answers=answers)


def holds(text: str, answer: str) -> bool:
    """Return whether an answer stands in a text as a whole word, in any case."""
    if answer.lower() not in text.lower():  # which is fast, and decides most
        return False
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None
