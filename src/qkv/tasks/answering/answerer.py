"""Answers to questions, found as spans of a passage."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import nn

from qkv.blocks.positions import LearnedPositions
from qkv.checkpoints.reader import CONFIG
from qkv.checkpoints.registry import family_of
from qkv.data.questions import Question
from qkv.data.tokenizers import TOKENIZER_FILES, Tokenizer
from qkv.errors import ConfigError
from qkv.evaluation.questions import AnswerScores, answer_scores, best_threshold
from qkv.files import whole_folder
from qkv.json_fields import check_kinds, kinds_of_fields, read_json
from qkv.models.heads import QuestionAnswering
from qkv.tasks.answering.search import Reading, search
from qkv.tasks.answering.spans import Candidate, Found
from qkv.tasks.classification.classifier import LENGTH, SETTINGS
from qkv.tasks.pretrained import Loaded, load, locate

# Where config.json may say what a task needs, and no other field does.
PARAMETERS, TASK = "task_specific_params", "question-answering"
SEARCHED = 20  # spans of each window that are looked at, as in Devlin et al.'s run_squad.py


READING = Reading()


@dataclass(frozen=True)
class FoundAnswer:
    """What was found in a passage.

    Args:
        question: that was asked.
        context: the passage.
        answer: its words; "" where the passage does not tell.
        start: where they begin, in characters; None where there is no answer.
        end: and end, the last character not included.
        confidence: probability of the answer, or of there being none, among all spans.
        no_answer_score: above the model's threshold there is no answer.
        n_best: the likeliest spans, whether or not there is an answer.
    """

    question: str
    context: str
    answer: str
    start: int | None
    end: int | None
    confidence: float
    no_answer_score: float
    n_best: tuple[Candidate, ...]


@dataclass(frozen=True)
class Answerer:
    """A trained (or still to be trained) model that finds answers.

    Args:
        loaded: model and tokenizer.
        reading: of passages.
        n_best: how many spans a result shows.

    Raises:
        ConfigError: the windows have more tokens than the model has positions.
    """

    loaded: Loaded
    reading: Reading = READING
    n_best: int = 3

    def __post_init__(self) -> None:
        """Check what no question has to be read for."""
        longest, asked = _longest(self.model), self.reading.max_length
        if asked > longest:
            raise ConfigError(
                f"max_length = {asked}, but this {type(self.model).__name__} has learned positions "
                f"for {longest:.0f} tokens; expected at most as many"
            )
        if self.n_best < 1:
            raise ConfigError(f"n_best = {self.n_best}; expected at least 1")

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        n_best: int = 3,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> "Answerer":
        """Load a model that finds answers, such as any BertForQuestionAnswering.

        Args:
            model: a folder, a name of the zoo or an id of the Hub.
            n_best: how many spans a result shows.
            device: of the model.
            allow_download: whether the Hub may be asked for a base that a file of it names.

        Raises:
            ConfigError: the model is of another kind.
            DataError: there is no such model.
        """
        loaded = load(model, dtype=torch.float32, device=device, allow_download=allow_download)
        return cls.of(loaded, n_best=n_best, name=os.fspath(model))

    @classmethod
    def of(cls, loaded: Loaded, *, n_best: int = 3, name: str = "this") -> "Answerer":
        """Make an answerer of what `qkv.load` returned; `name` is what errors call it."""
        if not isinstance(loaded.model, QuestionAnswering) or loaded.tokenizer is None:
            raise ConfigError(
                f"{name} is a {type(loaded.model).__name__} with "
                f"{'no' if loaded.tokenizer is None else 'a'} tokenizer; expected a model that was "
                "trained to find answers in a passage (qkv train qamr makes one)"
            )
        said = (loaded.config.get(PARAMETERS) or {}).get(TASK) or {}
        known = {name: said[name] for name in READING.__dataclass_fields__ if name in said}
        check_kinds(known, kinds_of_fields(Reading), where=f"{PARAMETERS} of {name}")
        if "max_length" not in known:
            known["max_length"] = int(min(READING.max_length, _longest(loaded.model)))
        return cls(loaded, Reading(**known), n_best)

    @classmethod
    def fresh(
        cls,
        base: str | os.PathLike[str],
        reading: Reading = READING,
        *,
        pretrained: bool = True,
    ) -> "Answerer":
        """Put a new head on a pretrained encoder, in float32.

        Args:
            base: a checkpoint's folder, a name of the zoo or an id of the Hub.
            reading: of passages.
            pretrained: False starts the encoder from random weights as well.

        Raises:
            ConfigError: the family has no model that finds answers.
        """
        family = family_of(read_json(whole_folder(locate(base)) / CONFIG).get("model_type"))
        names = [one.name for one in family.architectures if one.model is QuestionAnswering]
        if not names:
            raise ConfigError(
                f"{base} is of the family {family.model_type}, for which no model that finds "
                f"answers is implemented; qkv models --family {family.model_type} lists what is"
            )
        new = ["classifier"] if pretrained else ["classifier", "encoder"]
        loaded = load(base, architecture=names[0], new=new, dtype=torch.float32)
        if loaded.tokenizer is None:
            raise ConfigError(f"{base} has no tokenizer; expected an encoder of texts")
        return cls(_for_answers(loaded, reading), reading)

    @property
    def model(self) -> nn.Module:
        """The encoder with its head."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        assert self.loaded.tokenizer is not None
        return self.loaded.tokenizer

    @overload
    def __call__(self, question: str, context: str, *, progress: bool = False) -> FoundAnswer: ...
    @overload
    def __call__(
        self, question: Sequence[str], context: str | Sequence[str], *, progress: bool = False
    ) -> list[FoundAnswer]: ...
    def __call__(
        self,
        question: str | Sequence[str],
        context: str | Sequence[str],
        *,
        progress: bool = False,
    ) -> FoundAnswer | list[FoundAnswer]:
        """Answer one question or several, in order.

        Args:
            question: or a list.
            context: the passage, of all questions or of each.
            progress: show a bar, where the errors go.

        Raises:
            DataError: a question or a passage is empty, or there are other numbers of them.
            LengthError: a question leaves no room for its passage.
        """
        questions = [question] if isinstance(question, str) else list(question)
        contexts = [context] * len(questions) if isinstance(context, str) else list(context)
        found = self.search(questions, contexts, progress=progress)
        answers = [self._say(*one) for one in zip(questions, contexts, found, strict=True)]
        return answers[0] if isinstance(question, str) else answers

    def evaluate(self, examples: Iterable[Question], *, progress: bool = False) -> AnswerScores:
        """Score the answers to questions whose answers are known.

        Raises:
            DataError: there are none.
        """
        examples = list(examples)
        questions, contexts = [one.question for one in examples], [one.context for one in examples]
        found = self(questions, contexts, progress=progress)
        return answer_scores([one.answer for one in found], references(examples))

    def with_threshold(self, examples: Iterable[Question]) -> "Answerer":
        """Choose the threshold with the best F1 on validation questions, and note it to be saved.

        Where all of them have an answer there is nothing to choose by: then it always answers.
        """
        examples = list(examples)
        if all(one.answers for one in examples):
            return self
        found = self.search([one.question for one in examples], [one.context for one in examples])
        best = best_threshold(
            [one.candidates[0].answer for one in found],
            references(examples),
            [one.no_answer_score for one in found],
        )
        reading = replace(self.reading, threshold=best.threshold)
        return replace(self, loaded=_for_answers(self.loaded, reading), reading=reading)

    def search(
        self, questions: Sequence[str], contexts: Sequence[str], *, progress: bool = False
    ) -> list[Found]:
        """Find the likeliest spans of each passage, whatever the threshold; see `__call__`."""
        n = max(SEARCHED, self.n_best)
        return search(
            self.model, self.tokenizer, self.reading, questions, contexts, n=n, progress=progress
        )

    def _say(self, question: str, context: str, found: Found) -> FoundAnswer:
        best, threshold = found.candidates[0], self.reading.threshold
        silent = threshold is not None and found.no_answer_score > threshold
        return FoundAnswer(
            question,
            context,
            "" if silent else best.answer,
            None if silent else best.start,
            None if silent else best.end,
            found.silence if silent else best.confidence,
            found.no_answer_score,
            found.candidates[: self.n_best],
        )


def references(examples: Sequence[Question]) -> list[list[str]]:
    """The right answers of each question."""
    return [[answer.text for answer in one.answers] for one in examples]


def _longest(model: nn.Module) -> float:
    """The most tokens for which a model has positions."""
    tables = [m.max_length for m in model.modules() if isinstance(m, LearnedPositions)]
    return float(min(tables, default=math.inf))


def _for_answers(loaded: Loaded, reading: Reading) -> Loaded:
    """Leave out what config and files say of the base alone, and note how passages are read."""
    files = {name: text for name, text in loaded.origin.files.items() if name in TOKENIZER_FILES}
    settings = json.loads(files.get(SETTINGS, b"{}")) | {LENGTH: reading.max_length}
    files[SETTINGS] = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    other = ("problem_type", "num_labels", "_num_labels", "id2label", "label2id")
    config = {name: value for name, value in loaded.config.items() if name not in other}
    said = {name: value for name, value in vars(reading).items() if value is not None}
    config[PARAMETERS] = {TASK: said}
    # A pooler that the base had was not trained along, and no answer depends on it.
    return replace(loaded, config=config, origin=replace(loaded.origin, files=files, kept={}))
