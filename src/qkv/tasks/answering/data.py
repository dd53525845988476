"""What a recipe says of its questions: where they are, and which are held out."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from qkv.data.graphemes import find
from qkv.data.parts import hold_out_groups
from qkv.data.questions import Answer, Question, read_squad
from qkv.data.sets import load_set, named_sets
from qkv.errors import ConfigError
from qkv.tasks.sources import NamedSets, checksum, limited, read_rows

NAMED = NamedSets({name: one.splits for name, one in named_sets("answer").items()})
COLUMNS = {"question": "question", "context": "context", "answer": "answer"}


class QuestionParts(NamedTuple):
    """Questions by what they are for.

    Args:
        train: to learn from.
        validation: by which the best weights are chosen.
        test: scored once, at the end; may be none.
    """

    train: Sequence[Question]
    validation: Sequence[Question]
    test: Sequence[Question]

    @property
    def checksum(self) -> str:
        """Tells whether these are the questions of an earlier run."""
        return checksum([[asdict(one) for one in part] for part in self])


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What to learn from: files, or sets that are known by name.

    Args:
        train: of each source: a .json file as SQuAD has it; a table with a column each for
            questions, passages and answers; a named set, such as qamr, or one part of it, as
            squadshifts:new_wiki; or a data set of the Hub.
        validation: likewise; the named set's own part if there is one source, else held out from
            the training questions.
        test: likewise; the named set's own part if there is one source, else there is none.
        question: the column of the questions.
        context: the column of the passages.
        answer: the column of the answers.
        validation_share: of the articles, that is held out.
        limit: learn from so many questions only.
        seed: of the limit's choice.
        data_dir: folder of the named sets; the variable QKV_DATA if not given.

    Raises:
        ConfigError: nothing to learn from, numbers out of range, or two parts from one source.
    """

    train: tuple[str, ...] = ("qamr",)
    validation: str | None = None
    test: str | None = None
    question: str = COLUMNS["question"]
    context: str = COLUMNS["context"]
    answer: str = COLUMNS["answer"]
    validation_share: float = 0.1
    limit: int | None = None
    seed: int = 0
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Check what no question has to be read for."""
        if not self.train:
            raise ConfigError("data.train is empty; expected a source of questions or several")
        NAMED.check(self, "questions")

    def parts(self) -> QuestionParts:
        """Read everything, and hold out what has no source of its own.

        Raises:
            DataError: questions cannot be read.
        """
        train = [one for source in self.train for one in self._read(source, "train")]
        only = self.train[0] if len(self.train) == 1 else ""
        test = self.test or NAMED.own(only, "test")
        validation = self.validation or NAMED.own(only, "validation")
        if validation is None:
            sources = [one.source for one in train]
            train, held_out = hold_out_groups(train, sources, self.validation_share)
        else:
            held_out = self._read(validation, "validation")
        train = limited(train, self.limit, self.seed)
        return QuestionParts(train, held_out, self._read(test, "test") if test else [])

    def _read(self, source: str, part: str) -> list[Question]:
        columns = {name: getattr(self, name) for name in COLUMNS}
        return read_questions(source, part, columns=columns, data_dir=self.data_dir)


def read_questions(
    data: str,
    split: str,
    *,
    columns: dict[str, str] = COLUMNS,
    data_dir: Path | None = None,
    broken: list[str] | None = None,
) -> list[Question]:
    """Read a file, a data set of the Hub, or a part of a named set.

    In a table each row has one answer; it is learned where it stands in the passage (its first
    place), and else it is only scored. Questions on one passage share their source.

    Args:
        data: such as "my.json", "my.csv", "owner/name", "qamr" or "xquad:en".
        split: of a named set, where `data` does not say which.
        columns: names of the table's columns for question, context and answer.
        data_dir: folder of the named sets.
        broken: takes the problems of broken rows of a table, which are left out then, not raised.

    Raises:
        DataError: the questions cannot be read.
    """
    if NAMED.has(data):
        return list(load_set("answer", *NAMED.split(data, split), data_dir))
    if Path(data.removesuffix(".gz")).suffix == ".json":
        return read_squad(data)
    questions = []
    for row in read_rows(data, columns, broken):
        context, answer = row.fields["context"], row.fields["answer"]
        start = find(context, answer)
        questions.append(
            Question(
                id=str(row.line),
                question=row.fields["question"],
                context=context,
                answers=(Answer(answer, None if start < 0 else start),),
                source=context,
            )
        )
    return questions
