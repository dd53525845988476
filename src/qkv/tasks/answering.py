"""Question answering: answers as spans of a passage."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from qkv.data.questions import Question, make_question, read_squad, references
from qkv.data.span_search import SpanCandidates
from qkv.data.unanswerable import Mixing, mix_questions
from qkv.data.windows import WindowConfig, span_batches, training_windows
from qkv.errors import ConfigError, DataError
from qkv.evaluation.questions import AnswerScores, always_answered, answer_scores, best_threshold
from qkv.models.heads import QuestionAnswering
from qkv.tasks.commands import Predict, score_row
from qkv.tasks.finetuning import load_with_head
from qkv.tasks.inputs import Item, exists, text_item, text_items
from qkv.tasks.outputs import remark
from qkv.tasks.passages import FoundAnswer, IdentifiedAnswer, read_passage, search
from qkv.tasks.pipeline import (
    Pipeline,
    check_positions,
    most_positions,
    read_settings,
    tells_texts_apart,
    with_parameters,
    without_base_files,
)
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Tables, Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.training.settings import Training
from qkv.training.spans import span_loss

PARAMETERS = "question-answering"  # in task_specific_params of config.json
CANDIDATES = 20  # spans of each window that are compared, as in Devlin et al.'s run_squad.py
WINDOWS = WindowConfig()
UNMIXED = Mixing()
SILENT = "(no answer in the passage)"


@dataclass(frozen=True)
class Answerer(Pipeline[Question, FoundAnswer, AnswerScores]):
    """A model that finds answers in passages.

    Args:
        loaded: model and tokenizer.
        windows: how passages are cut into windows.
        n_best: number of spans in a result.

    Raises:
        ConfigError: windows are longer than the model's positions, or `n_best` is below 1.
    """

    windows: WindowConfig = WINDOWS
    n_best: int = 3

    kinds: ClassVar = (QuestionAnswering,)
    expected: ClassVar = (
        "a model that was trained to find answers in a passage (qkv train qamr trains one)"
    )

    def __post_init__(self) -> None:
        """Check the lengths."""
        check_positions(self.model, "max_length", self.windows.max_length)
        if self.n_best < 1:
            raise ConfigError(f"n_best = {self.n_best}; expected at least 1")

    @classmethod
    def of(cls, loaded: Loaded, *, n_best: int = 3, threshold: float | None = None) -> Self:
        """Build an answerer from a loaded model; the default threshold is the model's."""
        cls.check(loaded)
        known = read_settings(loaded, PARAMETERS, WindowConfig)
        if "max_length" not in known:
            limits = (WINDOWS.max_length, most_positions(loaded.model))
            known["max_length"] = min(n for n in limits if n is not None)
        if threshold is not None:
            known["threshold"] = threshold
        return cls(loaded, WindowConfig(**known), n_best)

    @classmethod
    def fresh(cls, base: str, windows: WindowConfig = WINDOWS, *, pretrained: bool = True) -> Self:
        """Put a new head on a pretrained encoder, in float32.

        Args:
            base: a checkpoint's folder, the name of a shipped model, or an id of the Hub.
            windows: how passages are cut into windows; saved with the model.
            pretrained: False starts the encoder from random weights as well.

        Raises:
            ConfigError: the family has no model that finds answers, or the base has no tokenizer.
        """
        loaded = load_with_head(base, QuestionAnswering, pretrained=pretrained)
        if loaded.tokenizer is None:
            raise ConfigError(f"{base} has no tokenizer; expected an encoder of texts")
        other = ("problem_type", "num_labels", "_num_labels", "id2label", "label2id")
        loaded = without_base_files(loaded, other, model_max_length=windows.max_length)
        return cls(_with_windows(loaded, windows), windows)

    def predict(
        self, questions: Sequence[str], context: str | Sequence[str], *, progress: bool = False
    ) -> list[FoundAnswer]:
        """Answer questions, in their order.

        Args:
            questions: the questions.
            context: the passage of each, or one passage for all.
            progress: show a progress bar on standard error.

        Raises:
            DataError: a question or a passage is empty, or their numbers differ.
            LengthError: a question leaves no room for its passage.
        """
        passages = [context] * len(questions) if isinstance(context, str) else list(context)
        spans = self.search(questions, passages, progress=progress)
        return [self._answer(*one) for one in zip(questions, passages, spans, strict=True)]

    def _answer(self, question: str, context: str, spans: SpanCandidates) -> FoundAnswer:
        best, limit = spans.candidates[0], self.windows.threshold
        silent = limit is not None and spans.no_answer_score > limit
        return FoundAnswer(
            question,
            context,
            "" if silent else best.answer,
            None if silent else best.start,
            None if silent else best.end,
            spans.null_probability if silent else best.confidence,
            spans.no_answer_score,
            spans.candidates[: self.n_best],
            spans.n_windows,
        )

    def search(
        self, questions: Sequence[str], contexts: Sequence[str], *, progress: bool = False
    ) -> list[SpanCandidates]:
        """Return the most probable spans of each passage, regardless of the threshold."""
        n = max(CANDIDATES, self.n_best)
        return search(self, self.windows, questions, contexts, n=n, progress=progress)

    def evaluate(self, examples: Iterable[Question], *, progress: bool = False) -> AnswerScores:
        """Score the answers to questions whose answers are known.

        Raises:
            DataError: there are no questions.
        """
        examples = list(examples)
        questions, contexts = [one.question for one in examples], [one.context for one in examples]
        answers = self.predict(questions, contexts, progress=progress)
        right = references(examples)
        scores = answer_scores([one.answer for one in answers], right)
        if self.windows.threshold is None:
            return scores
        return always_answered(scores, [one.n_best[0].answer for one in answers], right)

    def with_threshold(self, examples: Iterable[Question]) -> Self:
        """Choose the threshold with the best F1 on validation questions, and save it in the config.

        If all questions have an answer there is nothing to choose: the model then always answers.
        """
        examples = list(examples)
        if all(one.answers for one in examples):
            return self
        spans = self.search([one.question for one in examples], [one.context for one in examples])
        best = best_threshold(
            [one.candidates[0].answer for one in spans],
            references(examples),
            [one.no_answer_score for one in spans],
        )
        windows = replace(self.windows, threshold=best.threshold)
        return replace(self, loaded=_with_windows(self.loaded, windows), windows=windows)


def _with_windows(loaded: Loaded, windows: WindowConfig) -> Loaded:
    stored = {name: value for name, value in vars(windows).items() if value is not None}
    return with_parameters(loaded, **{PARAMETERS: stored})


@dataclass(frozen=True, kw_only=True)
class AnsweringRecipe(Recipe[Answerer]):
    """Fine-tune an encoder to find answers in passages.

    Args:
        windows: how passages are cut into windows. Its threshold is chosen on the validation split
            if some of its questions have no answer.
        mixing: how training questions are varied; by default not at all.
    """

    base: str | None = "all-MiniLM-L6-v2"
    data: DataConfig = DataConfig(train=("qamr",))
    # Devlin et al. 2019, section 4.2: batches of 32, three epochs; a rate for a small model.
    training: Training = Training(
        epochs=3.0, batch_size=32, learning_rate=2e-4, schedule="linear", betas=(0.9, 0.999)
    )
    windows: WindowConfig = WINDOWS
    mixing: Mixing = UNMIXED

    metric: ClassVar = "F1"
    unit: ClassVar = "windows"
    hint: ClassVar = "qkv answer --model {} --context 'a passage' 'a question?'"
    new_head: ClassVar = True
    smooths: ClassVar = False

    def build(self, splits: Splits[Question]) -> Answerer:
        """Put a new head on the base."""
        pretrained = self.finetuning.train != "scratch"
        return Answerer.fresh(self.base or "", self.windows, pretrained=pretrained)

    def batches(self, pipeline: Answerer, splits: Splits[Question]) -> TrainingBatches:
        """Cut the passages into windows."""
        questions = mix_questions(splits.train, self.mixing)
        windows, spans = training_windows(pipeline.tokenizer, questions, self.windows)
        null = sum(one.null == start for one, (start, _) in zip(windows, spans, strict=True))
        lengths = [len(window.ids) for window in windows]
        remark = (
            f"{len({window.row for window in windows}):,} of {len(questions):,} questions (the "
            f"others' answers are not in their passages) in {len(windows):,} windows, "
            f"{null:,} without the answer; the longest has {max(lengths)} tokens"
        )
        batches = span_batches(
            windows,
            spans,
            pad=pipeline.tokenizer.filler,
            segments=tells_texts_apart(pipeline.model),
            batching=self.training.batching(),
        )
        return TrainingBatches(batches, -(-sum(lengths) // len(lengths)), (remark,), len(windows))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum of the mean cross-entropies of starts and ends."""
        return span_loss(model, batch)

    def metrics(self, scores: AnswerScores) -> dict[str, float]:
        """Return F1 and exact match."""
        return {"F1": scores.f1, "exact match": scores.exact_match}

    def validator(
        self, pipeline: Answerer, splits: Splits[Question]
    ) -> Callable[[nn.Module], dict[str, float]]:
        """Score the validation split, with the threshold that is best for it."""
        return lambda _: self.metrics(self.settle(pipeline, splits).evaluate(splits.validation))

    def settle(self, pipeline: Answerer, splits: Splits[Question]) -> Answerer:
        """Choose the threshold."""
        return pipeline.with_threshold(splits.validation)

    def facts(self, pipeline: Answerer) -> dict[str, Any]:
        """Return the threshold."""
        return {"threshold": pipeline.windows.threshold}


@dataclass(frozen=True, kw_only=True)
class AnswerCommand(Predict[Answerer]):
    """Options of `qkv answer`.

    Args:
        context: the passage, or a file that contains it. A passage that is longer than the model's
            input is read in overlapping windows.
        n_best: number of spans that --json shows.
        threshold: score for "no answer" above which no answer is returned; default: the model's, if
            it was trained to abstain. `inf` always answers.
    """

    context: str | None = None
    n_best: int = 3
    threshold: float | None = None

    inputs: ClassVar = "the questions, one per argument; default: the lines of standard input"
    roles: ClassVar = ("question", "context")
    settings: ClassVar = ("n_best", "threshold")
    about: ClassVar = (
        f'Prints "{SILENT}" where the model finds none; --json then has an empty answer.'
    )

    def items(self, inputs: Sequence[str], columns: Mapping[str, str]) -> Iterable[Item]:
        """Return the questions with their passages."""
        if self.file is not None and self.file.suffix != ".txt":
            return self._table_items(self.file, inputs, columns)
        if self.context is None:
            raise ConfigError(
                "questions without a passage; expected --context TEXT or --context FILE"
            )
        passage = read_passage(self.context)
        read = (Path(self.context),) if exists(Path(self.context)) else ()
        question = {"question": columns["question"]}
        items = text_items(inputs, self.file, question, span=self.span, what="a question")
        return (
            replace(item, fields={**item.fields, "context": passage}, files=(*item.files, *read))
            for item in items
        )

    def count(self) -> int:
        """Return the number of questions in the file."""
        questions = read_json(str(self.file), None)
        return super().count() if questions is None else len(questions)

    def requested(self, inputs: Sequence[Any]) -> list[Item]:
        """Return the questions of a request with their passage, which is never a file."""
        if self.context is None:
            raise ConfigError("questions without a passage; expected context")
        passage = text_item("context", self.context, "context")
        if passage.problem:
            raise DataError(passage.problem)
        return [
            one if one.problem else replace(one, fields=one.fields | passage.fields)
            for one in super().requested(inputs)
        ]

    def _table_items(
        self, file: Path, inputs: Sequence[str], columns: Mapping[str, str]
    ) -> Iterable[Item]:
        if inputs or self.context is not None:
            raise ConfigError(
                f"--file {file} has questions and passages; expected no questions and no --context "
                "beside it"
            )
        questions = read_json(str(file), None)
        if questions is None:
            return text_items([], file, columns, span=self.span)
        rows = [
            {"id": one.id, "question": one.question, "context": one.context}
            for one in islice(questions, *self.span)
        ]
        return [Item(where=f"{file}, {row['id']}", fields=row, files=(file,)) for row in rows]

    def predict(
        self, pipeline: Answerer, fields: Sequence[Mapping[str, str]]
    ) -> Iterator[FoundAnswer]:
        """Answer the questions; those with an id keep it. Long passages are reported."""
        questions, contexts = ([one[role] for one in fields] for role in self.roles)
        answers = pipeline.predict(questions, contexts, progress=True)
        for context, n in {one.context: one.n_windows for one in answers}.items():
            long = n > 1 and not pipeline.windows.sentences
            remark(context, f"longer than the model's input; read in {n} windows" if long else "")
        for answer, one in zip(answers, fields, strict=True):
            yield IdentifiedAnswer(**vars(answer), id=one["id"]) if "id" in one else answer

    def line(self, prediction: FoundAnswer) -> str:
        """Return answer, probability and question, separated by tabs."""
        answer, question = (" ".join(x.split()) for x in (prediction.answer, prediction.question))
        return f"{answer or SILENT}\t{prediction.confidence:.4f}\t{question}"


def read_json(source: str, problems: list[str] | None) -> list[Question] | None:
    """Read a file in the JSON of SQuAD."""
    return read_squad(source) if Path(source.removesuffix(".gz")).suffix == ".json" else None


def answer_tables(scores: AnswerScores) -> Tables:
    """Return the scores as a table."""
    rows = [
        score_row("F1", scores.f1, scores.f1_interval),
        score_row("exact match", scores.exact_match, scores.exact_match_interval),
    ]
    more = {
        "F1 of the class no answer": (scores.no_answer_f1, scores.no_answer_f1_interval),
        "precision of no answer": (scores.no_answer_precision, None),
        "recall of no answer": (scores.unanswerable_accuracy, None),
        "F1, answerable": (scores.answerable_f1, None),
        "exact match, answerable": (scores.answerable_exact_match, None),
        "F1, answerable, if it always answered": (scores.always_f1, None),
        "exact match, answerable, if it always answered": (scores.always_exact_match, None),
    }
    if scores.n_answerable == scores.count:  # then they equal F1 and exact match
        del more["F1, answerable"], more["exact match, answerable"]
    rows += [score_row(name, *one) for name, one in more.items() if one[0] is not None]
    return {f"{scores.count:,} questions": rows}


def answer_line(scores: AnswerScores) -> str:
    """Return the scores as one line."""
    low, high = scores.f1_interval
    silent = "" if scores.no_answer_f1 is None else f"; F1 of no answer {scores.no_answer_f1:.1f}"
    return (
        f"F1 {scores.f1:.1f} (95 %: {low:.1f} to {high:.1f}), exact match "
        f"{scores.exact_match:.1f} of {scores.count:,} questions{silent}"
    )


TASK = Task(
    name="answer",
    default="answerer",
    pipeline=Answerer,
    recipe=AnsweringRecipe,
    predict=AnswerCommand,
    columns={"question": "question", "context": "context", "answer": "answer"},
    example=make_question,
    tables=answer_tables,
    summary=answer_line,
    read=read_json,
    group=lambda question: question.source,
    content=asdict,
)
