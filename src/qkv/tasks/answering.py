"""Answers to questions, found as spans of a passage."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from rich.progress import track
from torch import nn

from qkv.blocks.positions import LearnedPositions
from qkv.checkpoints.reader import CONFIG, read_json
from qkv.checkpoints.registry import family_of
from qkv.data.classification import evaluation_batches, in_order
from qkv.data.questions import Question
from qkv.data.tokenizers import TOKENIZER_FILES, Tokenizer
from qkv.data.windows import Window, make_windows
from qkv.errors import ConfigError, DataError
from qkv.evaluation.questions import AnswerScores, answer_scores, best_threshold
from qkv.files import whole_folder
from qkv.models.heads import QuestionAnswering
from qkv.tasks.answer_spans import Candidate, Found, Spans, best_spans, merge_windows
from qkv.tasks.classification import LENGTH, SETTINGS
from qkv.tasks.console import plain_console
from qkv.tasks.pretrained import Loaded, load, locate
from qkv.tasks.translation import evaluating

# Where config.json may say what a task needs, and no other field does.
PARAMETERS, TASK = "task_specific_params", "question-answering"
SEARCHED = 20  # spans of each window that are looked at, as in Devlin et al.'s run_squad.py
AT_ONCE = 2_000  # questions whose windows are in memory at one time


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How passages are read; config.json keeps it.

    Args:
        max_length: tokens of a window, question and special tokens included.
        stride: passage tokens from the beginning of one window to that of the next.
        max_answer: the most tokens of an answer.
        threshold: the score for "no answer" above which none is given; None always answers.

    Raises:
        ConfigError: a number below 1.
    """

    max_length: int = 384
    stride: int = 128
    max_answer: int = 30
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Check what no question has to be read for."""
        for name in ("max_length", "stride", "max_answer"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}; expected at least 1 token")


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
    ) -> "Answerer":
        """Load a model that finds answers, such as any BertForQuestionAnswering.

        Args:
            model: a folder, a name of the zoo or an id of the Hub.
            n_best: how many spans a result shows.
            device: of the model.

        Raises:
            ConfigError: the model is of another kind.
            DataError: there is no such model.
        """
        loaded = load(model, device=device)
        if not isinstance(loaded.model, QuestionAnswering) or loaded.tokenizer is None:
            raise ConfigError(
                f"{model} is a {type(loaded.model).__name__} with "
                f"{'no' if loaded.tokenizer is None else 'a'} tokenizer; expected a model that was "
                "trained to find answers in a passage (qkv train recipes/qamr.yaml makes one)"
            )
        said = (loaded.config.get(PARAMETERS) or {}).get(TASK) or {}
        known = {name: said[name] for name in READING.__dataclass_fields__ if name in said}
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

    @property
    def segments(self) -> bool:
        """Whether the model tells question and passage apart."""
        return bool(self.loaded.model.config.n_segments)

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
        found = self([one.question for one in examples], [one.context for one in examples])
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
        if len(questions) != len(contexts):
            raise DataError(
                f"{len(questions)} questions and {len(contexts)} passages; expected one passage "
                "for all, or one each"
            )
        console = plain_console(stderr=True)
        chunks = range(0, len(questions), AT_ONCE)
        off = not (progress and console.is_terminal)
        found = list[Found]()
        for at in track(chunks, "answering", console=console, transient=True, disable=off):
            of, passages = questions[at : at + AT_ONCE], contexts[at : at + AT_ONCE]
            found += self._search(of, passages)
        return found

    def _search(self, questions: Sequence[str], contexts: Sequence[str]) -> list[Found]:
        windows = make_windows(
            self.tokenizer,
            questions,
            contexts,
            max_length=self.reading.max_length,
            stride=self.reading.stride,
        )
        rows: list[list[int]] = [[] for _ in questions]
        for i, window in enumerate(windows):
            rows[window.row].append(i)
        spans = self._spans(windows)
        n = max(SEARCHED, self.n_best)
        return [
            merge_windows(context, windows, spans, of, n=n)
            for context, of in zip(contexts, rows, strict=True)
        ]

    def _spans(self, windows: Sequence[Window]) -> Spans:
        """The best spans of each window; windows of like length share a batch."""
        batches = evaluation_batches(
            [window.ids for window in windows],
            pad=self.tokenizer.pad,
            max_tokens=max(4_000, self.reading.max_length),
            segments=[window.segments for window in windows] if self.segments else None,
        )
        device, n = next(self.model.parameters()).device, max(SEARCHED, self.n_best)
        outputs = list[Spans]()
        with evaluating(self.model), torch.inference_mode():
            for batch in batches:
                moved = batch.to(device)
                logits = self.model(
                    moved.tokens, token_mask=moved.token_mask, segments=moved.segments
                )
                passage = torch.zeros_like(batch.token_mask)
                for i, row in enumerate(batch.rows):
                    first = windows[row].first
                    passage[i, first : first + len(windows[row].spans)] = True
                outputs.append(
                    best_spans(
                        logits.cpu().double(), passage, max_answer=self.reading.max_answer, n=n
                    )
                )
        return Spans(*(in_order(batches, _even(column)) for column in zip(*outputs, strict=True)))

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


def _even(columns: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Widen what short windows have fewer of, with scores of no span."""
    if columns[0].ndim == 1:
        return list(columns)
    width = max(column.shape[1] for column in columns)
    fill = float("-inf") if columns[0].is_floating_point() else 0
    return [
        torch.nn.functional.pad(column, (0, width - column.shape[1]), value=fill)
        for column in columns
    ]


def _longest(model: nn.Module) -> float:
    """The most tokens for which a model has positions."""
    tables = [m.max_length for m in model.modules() if isinstance(m, LearnedPositions)]
    return min(tables, default=float("inf"))


def _for_answers(loaded: Loaded, reading: Reading) -> Loaded:
    """Leave out what config and files say of the base alone, and note how passages are read."""
    files = {name: text for name, text in loaded.origin.files.items() if name in TOKENIZER_FILES}
    settings = json.loads(files.get(SETTINGS, b"{}")) | {LENGTH: reading.max_length}
    files[SETTINGS] = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    other = ("problem_type", "num_labels", "_num_labels", "id2label", "label2id")
    config = {name: value for name, value in loaded.config.items() if name not in other}
    said = {name: value for name, value in vars(reading).items() if value is not None}
    config[PARAMETERS] = {TASK: said}
    return replace(loaded, config=config, origin=replace(loaded.origin, files=files))
