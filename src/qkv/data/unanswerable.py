"""Questions that a sentence does not answer, made from questions that a passage answers.

A question on a single sentence loses its answer in one of three ways (the first as in Rajpurkar et
al. 2018, section 2; the others are kinds in its table 2):

    elsewhere     it is asked of another sentence, with words in common
    other word    "When did it open?" becomes "Why did it open?"
    other name    a question on something else is asked of a name in the sentence

A question on a longer passage is asked of the sentence with the answer and of other sentences; or,
if the passage is not cut, of another passage.
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


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How training questions are varied, so that a model learns to abstain.

    Args:
        unanswerable: fraction of the questions that lose their answer: those on single sentences,
            and those on uncut passages from sources without unanswerable questions.
        others: number of further sentences, without the answer, that a question on a longer passage
            is asked of: the one that shares the most words, then random ones. None: the passage is
            not cut.
        repeat: how often this is drawn for each question on a longer passage.
        seed: determines what is drawn.

    Raises:
        ConfigError: a number out of range.
    """

    unanswerable: float = 0.0
    others: int | None = None
    repeat: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.unanswerable <= 1:
            raise ConfigError(f"unanswerable = {self.unanswerable}; expected 0 to 1, such as 0.3")
        for name in ("others", "repeat"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} = {value}; expected at least 1")


def mix_questions(questions: Sequence[Question], mixing: Mixing) -> list[Question]:
    """Return the questions, varied; the same ones for the same seed."""
    rng = np.random.default_rng(mixing.seed)
    sentences = {text: split_sentences(text) for text in {one.context for one in questions}}
    mixer = _Mixer([one for one in questions if len(sentences[one.context]) == 1], rng)
    whole = [one for one in questions if len(sentences[one.context]) > 1]
    silent = {one.source for one in whole if not one.answers}
    mixer_of_passages = _Mixer(whole, rng)
    mixed = list[Question]()
    for one in questions:
        if len(sentences[one.context]) == 1:
            lost = rng.random() < mixing.unanswerable
            mixed.append(mixer.without_answer(one) if lost else one)
        elif mixing.others is None:
            for _ in range(mixing.repeat):
                lost = one.source not in silent and rng.random() < mixing.unanswerable
                mixed.append((mixer_of_passages.elsewhere(one) if lost else None) or one)
        else:
            for _ in range(mixing.repeat):
                mixed += of_sentences(one, sentences[one.context], mixing.others, rng)
    return mixed


def of_sentences(
    one: Question, sentences: Sequence[str], others: int, rng: np.random.Generator
) -> list[Question]:
    """Ask a question of the sentence with its answer, if any, and of others without it."""
    asked, at = list[Question](), 0
    span = one.span
    for text in sentences:
        if span is not None and span.start is not None and at <= span.start < at + len(text):
            answer = Answer(span.text, span.start - at)
            if text[answer.start :].startswith(span.text):  # it may continue in the next sentence
                asked.append(replace(one, context=text.rstrip(), answers=(answer,)))
        at += len(text)
    free = [text for text in sentences if not any(holds(text, it) for it, _ in one.answers)]
    if free:
        nearest = Passages(free).most_similar(one.question)
        drawn = [free[i] for i in rng.permutation(len(free))]
        for text in [*dict.fromkeys([nearest, *drawn])][:others]:
            asked.append(replace(one, context=text.rstrip(), answers=()))
    return asked


class Passages:
    """Passages that are looked up by shared words.

    Args:
        passages: different texts.
    """

    def __init__(self, passages: Sequence[str]):
        self.passages = passages
        self.holders: dict[str, list[int]] = {}  # word to the indices of the passages that have it
        for index, passage in enumerate(passages):
            for word in words(passage):
                self.holders.setdefault(word, []).append(index)

    def most_similar(self, question: str, *, unlike: str = "") -> str:
        """Return the passage that shares the most words with a question, weighted by rarity.

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
    """Makes questions unanswerable.

    Args:
        questions: the questions, from which other sentences and names are taken, too.
        rng: random generator.
    """

    def __init__(self, questions: Sequence[Question], rng: np.random.Generator):
        self.rng = rng
        self.passages = Passages(list(dict.fromkeys(one.context for one in questions)))
        self.near = defaultdict[str, list[str]](list)  # the sentences of each source
        for one in {one.context: one for one in questions}.values():
            self.near[one.source].append(one.context)
        self.asked = defaultdict[str, set[str]](set)  # first words of the questions on a sentence
        for one in questions:
            self.asked[one.context].add(one.question.partition(" ")[0])
        self.named = [one for one in questions if NAME.search(one.question)]

    def without_answer(self, one: Question) -> Question:
        """Return the question, or another one, with a sentence that does not answer it."""
        draw = self.rng.random()
        made = self._other_word(one) if draw < 1 / 3 else None
        if made is None and draw < 2 / 3:
            made = self._other_name(one)
        if made is None:
            made = self.elsewhere(one)
        return one if made is None else replace(made, answers=())

    def elsewhere(self, one: Question) -> Question | None:
        """Ask the question of a similar passage, of one from the same source, or of any."""
        texts = [self._draw(self.near[one.source])]
        if self.rng.random() < 0.5:
            texts.insert(0, self.passages.most_similar(one.question, unlike=one.context))
        texts.append(self._draw(self.passages.passages))
        for text in texts:
            if text != one.context and not any(holds(text, answer) for answer, _ in one.answers):
                return replace(one, context=text, answers=())
        return None

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


def holds(text: str, answer: str) -> bool:
    """Return whether a text contains an answer as whole words, ignoring case."""
    if answer.lower() not in text.lower():  # fast, and decides most cases
        return False
    return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) is not None
