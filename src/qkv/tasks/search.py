"""Search by meaning: the documents whose embeddings are closest to that of a query."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from cyclopts import Parameter

from qkv.data.tables import KINDS
from qkv.errors import ConfigError, DataError
from qkv.json_fields import quoted
from qkv.tasks.commands import Predict
from qkv.tasks.console import show_table
from qkv.tasks.embedding import Embedder
from qkv.tasks.inputs import Item, line_items, text_item, text_items
from qkv.tasks.outputs import answer_all
from qkv.tasks.pipeline import Pipeline
from qkv.tasks.pretrained import Loaded
from qkv.tasks.streams import complain
from qkv.tasks.task import Task

TOP_K = 5


@dataclass(frozen=True)
class Hit:
    """A document that was found.

    Args:
        text: the document.
        score: cosine of the embeddings of query and document, from -1 to 1.
        where: its location: a line or row of a file, or its number from 1.
    """

    text: str
    score: float
    where: str


@dataclass(frozen=True)
class Found:
    """The documents that are closest to a query, the best one first."""

    query: str
    hits: tuple[Hit, ...]


@dataclass(frozen=True)
class Searcher(Pipeline[str, Found, None]):
    """A function that ranks documents: `search(query, documents=texts)`.

    Args:
        loaded: see `Embedder`.
        embedder: embeds queries and documents.
    """

    embedder: Embedder

    kinds: ClassVar = Embedder.kinds
    expected: ClassVar = Embedder.expected

    @classmethod
    def of(cls, loaded: Loaded) -> Self:
        """Build a searcher from a loaded model; see `Embedder.of`."""
        return cls(loaded, Embedder.of(loaded))

    def predict(
        self,
        queries: Sequence[str],
        *,
        documents: Sequence[str],
        vectors: np.ndarray | None = None,
        top_k: int = TOP_K,
        progress: bool = False,
    ) -> list[Found]:
        """Return the closest documents for each query, in the order of the queries.

        Args:
            queries: texts.
            documents: texts to search.
            vectors: unit vectors of the documents, if they are known already.
            top_k: maximum number of documents for a query.
            progress: show a progress bar on standard error.

        Raises:
            ConfigError: `top_k` is below 1.
            DataError: a text is empty, or the vectors do not match the documents.
        """
        if top_k < 1:
            raise ConfigError(f"top_k = {top_k}; expected at least 1")
        if isinstance(documents, str):
            raise DataError(f"documents = {quoted(documents, 40)}; expected a list of texts")
        asked = self.embedder.predict(queries)
        if vectors is None:
            vectors = self.embedder.predict(documents, progress=progress)
        if vectors.shape != (len(documents), asked.shape[1]):
            raise DataError(
                f"vectors of shape {vectors.shape} for {len(documents)} documents and a model of "
                f"width {asked.shape[1]}; expected {(len(documents), asked.shape[1])} (are they "
                "those of another file, or of another model?)"
            )
        found = list[Found]()
        for query, scores in zip(queries, asked @ vectors.T, strict=True):
            best = [int(i) for i in np.argsort(-scores, kind="stable")[:top_k]]
            hits = (Hit(documents[i], float(scores[i]), str(i + 1)) for i in best)
            found.append(Found(query, tuple(hits)))
        return found


def read_documents(file: Path, columns: Mapping[str, str]) -> list[Item]:
    """Return the rows of a table, or the lines of any other file that are not blank.

    Raises:
        DataError: the file cannot be read, or has no text.
    """
    suffixes = [one.lower() for one in file.suffixes if one.lower() != ".gz"]
    if suffixes and suffixes[-1] in KINDS:
        return list(text_items((), file, columns))
    role = next(iter(columns))
    items = list(line_items(role, file, skip_blank=True))
    if any("\0" in item.fields.get(role, "") for item in items):
        raise DataError(f"{file} has zero bytes; expected a text or a table ({', '.join(KINDS)})")
    return items


def read_vectors(path: Path) -> np.ndarray:
    """Return the matrix in a .npy file.

    Raises:
        DataError: the file cannot be read, or has no matrix of finite numbers.
    """
    try:
        vectors = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npy file: {error}") from error
    is_matrix = isinstance(vectors, np.ndarray) and vectors.ndim == 2
    if not is_matrix or vectors.dtype.kind != "f" or not np.isfinite(vectors).all():
        raise DataError(
            f"{path} has no matrix of finite numbers; expected what qkv embed --output wrote"
        )
    return vectors


@dataclass(frozen=True, kw_only=True)
class Search(Predict[Searcher]):
    """Options of `qkv search`.

    Args:
        vectors: unit vectors of the file's texts, as written by qkv embed --output vectors.npy.
        top_k: maximum number of texts for each query.
    """

    file: Annotated[
        Path | None,
        Parameter(
            alias="-f",
            help="the texts to search: the rows of a table (.csv, .tsv, .jsonl, .parquet), or the "
            "lines of any other file",
        ),
    ] = None
    vectors: Path | None = None
    top_k: int = TOP_K
    documents: Annotated[list[str] | None, Parameter(parse=False)] = None  # those of a request

    inputs: ClassVar = "the queries, one per argument"

    def check(self) -> None:
        """Check that there is a file to search, or that a request has documents."""
        if self.file is None and self.documents is None:
            raise ConfigError(
                "qkv search needs --file FILE, whose lines or rows it searches (documents, in a "
                "request)"
            )
        if self.top_k < 1:
            raise ConfigError(f"--top-k {self.top_k}; expected at least 1")
        if self.shard is not None:
            raise ConfigError(
                f"--shard {self.shard} for qkv search, whose --file is searched by each query; "
                "expected no shard"
            )

    def requested(self, inputs: Sequence[Any]) -> list[Item]:
        """Return the queries of a request, which also contains its documents."""
        return [text_item("query", one, f"argument {i}") for i, one in enumerate(inputs, start=1)]

    def predict(self, pipeline: Searcher, fields: Sequence[Mapping[str, str]]) -> list[Found]:
        """Search the documents of a request, numbered as lines."""
        lines = [
            text_item("text", text, f"line {i}") for i, text in enumerate(self.documents or (), 1)
        ]
        lines = [item for item in lines if not item.problem]
        if not lines:
            raise DataError("the documents have no text to search; expected at least one")
        return self._search(pipeline, fields, lines, None)

    def _search(
        self,
        searcher: Searcher,
        fields: Sequence[Mapping[str, str]],
        documents: Sequence[Item],
        vectors: np.ndarray | None,
    ) -> list[Found]:
        asked, texts = [one["query"] for one in fields], [one.fields["text"] for one in documents]
        found = searcher.predict(asked, documents=texts, vectors=vectors, top_k=self.top_k)
        return [Found(one.query, _located(one.hits, documents, self.file)) for one in found]

    def run(self, task: Task[Any, Any], inputs: Sequence[str]) -> None:
        """Print or write the closest texts for each query."""
        self.check()
        queries = text_items(inputs, None, {"query": "query"}, what="a query")
        items = read_documents(self.file or Path(), self.columns_of(task))
        vectors = None if self.vectors is None else read_vectors(self.vectors)
        documents = [item for item in items if not item.problem]
        problems = [item.problem for item in items if item.problem]
        if not documents:
            raise DataError(problems[0] if problems else f"{self.file} has no text to search")
        searcher = self.load(task)
        if vectors is None:
            texts = [item.fields["text"] for item in documents]
            vectors = searcher.embedder.predict(texts, progress=True)

        def answer(fields: Sequence[Mapping[str, str]]) -> list[Found]:
            return self._search(searcher, fields, documents, vectors)

        # The output must not replace the searched file either.
        queries = [replace(item, files=(self.file or Path(),)) for item in queries]
        if sys.stdout.isatty() and not (self.json or self.output):
            _show(answer([item.fields for item in queries if not item.problem]))
        else:
            several = len(queries) > 1
            answer_all(
                queries,
                answer,
                line=lambda found: _lines(found, several=several),
                as_json=self.json,
                output=self.output,
            )
        for problem in problems:
            complain(problem)
        if problems:
            raise DataError(f"{len(problems):,} of {len(items):,} texts were left out, see above")


def _located(hits: Sequence[Hit], items: Sequence[Item], file: Path | None) -> tuple[Hit, ...]:
    """Replace the numbers of documents by their locations in the file."""
    where = [items[int(hit.where) - 1].where.removeprefix(f"{file}, ") for hit in hits]
    return tuple(Hit(hit.text, hit.score, at) for hit, at in zip(hits, where, strict=True))


def _show(found: Sequence[Found]) -> None:
    """Print a table for each query."""
    for one in found:
        rows = [
            {"score": f"{hit.score:.3f}", "where": hit.where, "text": " ".join(hit.text.split())}
            for hit in one.hits
        ]
        show_table(one.query, rows)


def _lines(found: Found, *, several: bool) -> str:
    """Return a line for each hit: score, location and text, separated by tabs."""
    query = [" ".join(found.query.split())] if several else []
    return "\n".join(
        "\t".join([*query, f"{hit.score:.3f}", hit.where, " ".join(hit.text.split())])
        for hit in found.hits
    )


TASK = Task(
    name="search",
    default="all-MiniLM-L6-v2",
    pipeline=Searcher,
    predict=Search,
    columns={"text": "text"},
)
