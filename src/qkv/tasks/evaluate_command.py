"""`qkv evaluate`: a model of any task on data whose answers are known."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores
from qkv.evaluation.perplexity import LanguageModelScores
from qkv.evaluation.questions import AnswerScores
from qkv.evaluation.summarization import SummaryScores
from qkv.tasks.answering.answerer import Answerer
from qkv.tasks.answering.data import COLUMNS, read_questions
from qkv.tasks.classification.classifier import TextClassifier
from qkv.tasks.classification.command import tables_of as tables_of_classes
from qkv.tasks.classification.data import read_texts
from qkv.tasks.console import show_table
from qkv.tasks.generation.data import read_corpus
from qkv.tasks.generation.generator import Generator
from qkv.tasks.images.data import read_images
from qkv.tasks.images.recognizer import Recognizer
from qkv.tasks.inputs import pick_device
from qkv.tasks.kinds import Name, task_of
from qkv.tasks.kinds import task as make
from qkv.tasks.options import AllowDownload, Columns, Device, JsonTables
from qkv.tasks.outputs import dumps
from qkv.tasks.streams import complain
from qkv.tasks.summarization.data import COLUMNS as OF_SUMMARIES
from qkv.tasks.summarization.data import read_summaries
from qkv.tasks.summarization.summarizer import Summarizer
from qkv.tasks.translation.command import tables_of as tables_of_translations
from qkv.tasks.translation.data import read_translations
from qkv.tasks.translation.translator import Translator

Tables = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Asked:
    """The data that a command names.

    Args:
        data: file or set.
        split: of a named set.
        columns: as the user calls them; what is not said has the task's own names.
        data_dir: folder of the named sets.
        broken: takes the problems of rows that are left out.
    """

    data: str
    split: str
    columns: Mapping[str, str]
    data_dir: Path | None
    broken: list[str] = field(default_factory=list)


def evaluate(
    model: str,
    /,
    *,
    data: str,
    split: str = "test",
    task: Name | None = None,
    columns: Columns = None,
    data_dir: Path | None = None,
    json: JsonTables = False,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Score a model on data with known answers.

    Broken rows of a table are left out of the scores, and reported after them.

    Args:
        model: a folder that qkv train made, a name of the zoo or an id of the Hugging Face Hub.
        data: a file; a named set, such as reviews, or a part of it, such as reviews:validation; or
            a data set of the Hub. A classifier of images takes a folder with one for each class.
        split: the part of a named set, where data does not say which.
        task: that the model is to do; by default the one that its config.json is made for.
        columns: of a table, by what they are, such as --columns.text review --columns.label stars,
            and --columns.second where pairs of texts are classified; for questions question,
            context and answer; for summaries text and summary; for translations source and target,
            which are the languages of a named set.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.
    """
    asked = Asked(data, split, columns or {}, data_dir)
    scores, tables = measure(model, asked, task, device=device, allow_download=allow_download)
    if json:
        print(dumps(asdict(scores)))
    for title, rows in tables.items() if not json else ():
        show_table(title, rows)
    for problem in asked.broken:
        complain(problem)
    if asked.broken:
        raise DataError(
            f"{len(asked.broken):,} rows of {data} are broken and have no part in the scores, see "
            "above"
        )


def measure(
    model: str, asked: Asked, name: str | None, *, device: str, allow_download: bool = False
) -> tuple[Any, Tables]:
    """The scores of a model, and what to show of them."""
    name = name or task_of(model)
    known, score = EVALUATIONS[name]
    if unknown := sorted(set(asked.columns) - set(known)):
        raise ConfigError(
            f"columns.{unknown[0]} = {asked.columns[unknown[0]]!r}: to {name} needs no such "
            f"column; expected some of {', '.join(known) or 'none'}"
        )
    made = make(name, model, device=pick_device(device), allow_download=allow_download)
    return score(made, asked)


def _classify(model: TextClassifier, asked: Asked) -> tuple[ClassificationScores, Tables]:
    examples = read_texts(
        asked.data,
        asked.split,
        known=model.labels,
        data_dir=asked.data_dir,
        broken=asked.broken,
        **asked.columns,
    )
    scores = model.evaluate(examples, progress=True)
    return scores, tables_of_classes(scores)


def _recognize(model: Recognizer, asked: Asked) -> tuple[ClassificationScores, Tables]:
    images = read_images(asked.data, asked.split, data_dir=asked.data_dir, known=model.labels)
    scores = model.evaluate(images, progress=True)
    return scores, tables_of_classes(scores, "images")


def _translate(model: Translator, asked: Asked) -> tuple[Any, Tables]:
    options = {"data_dir": asked.data_dir, "broken": asked.broken}
    pairs = read_translations(asked.data, asked.split, **options, **asked.columns)
    scores = model.evaluate(pairs, progress=True)
    return scores, tables_of_translations(scores)


def _summarize(model: Summarizer, asked: Asked) -> tuple[SummaryScores, Tables]:
    columns = {**OF_SUMMARIES, **asked.columns}
    examples = read_summaries(
        asked.data, asked.split, columns=columns, data_dir=asked.data_dir, broken=asked.broken
    )
    scores = model.evaluate(examples, progress=True)
    tables = {}
    for part in filter(None, (scores, scores.by_first)):
        named = {"ROUGE-1": part.rouge1, "ROUGE-2": part.rouge2, "ROUGE-L": part.rouge_l}
        rows = [_row(f"{name}, F1", one.f1, one.interval) for name, one in named.items()]
        tables[f"{part.count:,} summaries, {part.signature}"] = rows
    return scores, tables


def _answer(model: Answerer, asked: Asked) -> tuple[AnswerScores, Tables]:
    columns = {**COLUMNS, **asked.columns}
    questions = read_questions(
        asked.data, asked.split, columns=columns, data_dir=asked.data_dir, broken=asked.broken
    )
    scores = model.evaluate(questions, progress=True)
    rows = [
        _row("F1", scores.f1, scores.f1_interval),
        _row("exact match", scores.exact_match, scores.exact_match_interval),
    ]
    if scores.unanswerable_accuracy is not None:
        rows.append(_row("right that there is no answer", scores.unanswerable_accuracy, None))
    return scores, {f"{scores.count:,} questions": rows}


def _generate(model: Generator, asked: Asked) -> tuple[LanguageModelScores, Tables]:
    texts = read_corpus(
        asked.data,
        asked.split,
        column=asked.columns.get("text", "text"),
        data_dir=asked.data_dir,
        broken=asked.broken,
    )
    scores = model.evaluate(texts, progress=True)
    rows = [
        _row("loss of a token, nats", scores.loss, scores.loss_interval, digits=4),
        _row("perplexity", scores.perplexity, scores.perplexity_interval),
    ]
    if scores.bits_per_character is not None:
        rows.append(_row("bits of a character", scores.bits_per_character, None, digits=4))
    return scores, {f"{scores.count:,} texts, {scores.tokens:,} tokens": rows}


def _row(
    name: str, value: float, interval: tuple[float, float] | None, *, digits: int = 2
) -> dict[str, str]:
    within = f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else "-"
    return {"score": name, "value": f"{value:.{digits}f}", "95 %": within}


Score = Callable[[Any, Asked], tuple[Any, Tables]]
# The columns that a task's table has, and how its models are scored.
EVALUATIONS: dict[str, tuple[tuple[str, ...], Score]] = {
    "answer": (tuple(COLUMNS), _answer),
    "classify": (("text", "label", "second"), _classify),
    "generate": (("text",), _generate),
    "recognize": ((), _recognize),
    "summarize": (tuple(OF_SUMMARIES), _summarize),
    "translate": (("source", "target"), _translate),
}
