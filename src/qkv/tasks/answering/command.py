"""`qkv answer`: questions on a passage, answered with its words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qkv.data.questions import read_squad
from qkv.data.text import decode, read_content
from qkv.errors import ConfigError
from qkv.tasks.answering.answerer import Answerer, FoundAnswer
from qkv.tasks.inputs import SUFFIXES, Item, check_texts, exists, pick_device, text_items
from qkv.tasks.options import (
    AllowDownload,
    Columns,
    Device,
    File,
    Json,
    Model,
    Output,
    name_columns,
)
from qkv.tasks.outputs import answer_all
from qkv.tasks.streams import as_text

DEFAULT = "answerer"  # of the zoo
WHAT = "a question"


@dataclass(frozen=True)
class IdentifiedAnswer(FoundAnswer):
    """An answer to a question of a file that gives each an id, as SQuAD does."""

    id: str


def answer(
    *questions: str,
    context: str | None = None,
    model: Model = DEFAULT,
    file: File = None,
    columns: Columns = None,
    output: Output = None,
    n_best: int = 3,
    json: Json = False,
    device: Device = "auto",
    allow_download: AllowDownload = False,
) -> None:
    """Answer questions with words of a passage: qkv answer --context PASSAGE QUESTION.

    Args:
        questions: one per argument; read from standard input, one per line, if there are none.
        context: the passage, or a file that contains it.
        n_best: number of spans that --json shows.
    """
    items = question_items(questions, context, file, name_columns(columns, "question", "context"))
    answerer = Answerer.load(
        model, n_best=n_best, device=pick_device(device), allow_download=allow_download
    )

    def asked(fields: list[dict[str, str]]) -> Iterator[FoundAnswer]:
        found = answerer(
            [one["question"] for one in fields],
            [one["context"] for one in fields],
            progress=True,
        )
        for said, one in zip(found, fields, strict=True):
            yield IdentifiedAnswer(**vars(said), id=one["id"]) if "id" in one else said

    answer_all(items, asked, line=as_line, as_json=json, output=output)


def question_items(
    questions: Sequence[str], context: str | None, file: Path | None, columns: dict[str, str]
) -> list[Item]:
    """The questions with their passages.

    Args:
        questions: arguments.
        context: their passage, or a file with it.
        columns: of a table.

    Raises:
        ConfigError: questions without a passage, or with two.
        DataError: a file cannot be read, or there is nothing to answer.
    """
    table = file is not None and file.suffix != ".txt"
    if table and (questions or context is not None):
        raise ConfigError(
            f"--file {file} has questions and passages; expected no questions and no --context "
            "beside it"
        )
    if file is not None and table:
        if Path(file.name.removesuffix(".gz")).suffix != ".json":
            return text_items([], file, columns)
        return [
            Item(
                where=f"{file}, {one.id}",
                fields={"id": one.id, "question": one.question, "context": one.context},
                files=(file,),
            )
            for one in read_squad(file)
        ]
    if context is None:
        raise ConfigError("questions without a passage; expected --context TEXT or --context FILE")
    passage = _passage(context)
    read = (Path(context),) if exists(Path(context)) else ()
    items = text_items(questions, file, {"question": columns["question"]}, what=WHAT)
    return [
        replace(item, fields={**item.fields, "context": passage}, files=(*item.files, *read))
        for item in items
    ]


def as_line(found: FoundAnswer) -> str:
    """Tab-separated: the answer in one line, its probability, the question."""
    said, question = (" ".join(text.split()) for text in (found.answer, found.question))
    return f"{said}\t{found.confidence:.4f}\t{question}"


def _passage(context: str) -> str:
    """The passage itself, or what stands in the file of this name.

    Raises:
        ConfigError: it is empty, or looks like a name but is no file's.
    """
    path = Path(context)
    if exists(path) and path.is_file():
        context = decode(read_content(path), context)
    elif len(context.split()) == 1 and path.suffix.lower() in SUFFIXES and not exists(path):
        raise ConfigError(
            f"--context {context} looks like the name of a file, which is not there; expected a "
            "passage, or a file with one"
        )
    else:
        check_texts([context])
        context = as_text(context)
    if not context.strip():
        raise ConfigError("--context is empty; expected a passage, or a file with one")
    return context
