"""Sentence embeddings: one unit vector per text, close for texts of similar meaning."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from cyclopts import Parameter
from jaxtyping import Float
from torch import Tensor

from qkv.data.classification import (
    EncodedTexts,
    encode_texts,
    evaluation_batches,
    in_order,
    tokens_at_once,
)
from qkv.errors import ConfigError, DataError
from qkv.files import write_atomically
from qkv.json_fields import COUNT, FLAG, NULL, OBJECT, TEXT, check_kinds, list_of, shown
from qkv.models.bert import Bert
from qkv.models.heads import POOLS
from qkv.tasks.commands import Predict
from qkv.tasks.inputs import Item
from qkv.tasks.outputs import check_output, remark
from qkv.tasks.pipeline import Pipeline, check_positions, check_strings, longest_input
from qkv.tasks.pretrained import Loaded
from qkv.tasks.streams import complain
from qkv.tasks.task import Task
from qkv.zoo.catalog import Entry

MAX_LENGTH = 512  # tokens of a text, where no file has a limit
MODULES, LENGTHS = "modules.json", "sentence_bert_config.json"  # of sentence-transformers
STEPS = ("Transformer", "Pooling", "Normalize")  # the kinds of modules that are implemented
MODE = "pooling_mode"


@dataclass(frozen=True)
class Embedding:
    """A text and its unit vector.

    Args:
        text: the text.
        vector: numbers whose squares sum to 1.
        note: remark for the reader, such as that the text was truncated.
    """

    text: str
    vector: list[float]
    note: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Embedder(Pipeline[str, np.ndarray, None]):
    """An encoder whose pooled hidden states, divided by their length, embed texts.

    The cosine of two texts is the scalar product of their vectors (Reimers and Gurevych 2019).

    Args:
        loaded: an encoder of the BERT family without a head, and its tokenizer.
        max_length: maximum number of tokens of a text, special tokens included; longer texts are
            truncated.
        pool: "mean" averages the states of all tokens, "first" takes that of the first one.

    Raises:
        ConfigError: `max_length` exceeds the model's positions.
    """

    max_length: int = MAX_LENGTH
    pool: str = "mean"

    kinds: ClassVar = (Bert,)
    expected: ClassVar = "an encoder of the BERT family without a head, such as all-MiniLM-L6-v2"

    def __post_init__(self) -> None:
        """Check the length."""
        check_positions(self.model, "max_length", self.max_length)

    @classmethod
    def of(cls, loaded: Loaded, *, max_length: int | None = None) -> Self:
        """Build an embedder from a loaded model.

        Pooling and maximum length come from the files of sentence-transformers, if there are any.

        Raises:
            ConfigError: the model is of another kind, or its files request unsupported features.
        """
        cls.check(loaded)
        limits = [longest_input(loaded), read_length(loaded.files)]
        if max_length is None:
            max_length = min((one for one in limits if one is not None), default=MAX_LENGTH)
        return cls(loaded, max_length, read_pool(loaded.files))

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """Return texts as token ids, truncated to `max_length`.

        Raises:
            DataError: a text is empty.
        """
        check_strings(texts)
        return encode_texts(self.tokenizer, texts, max_length=self.max_length)

    def embed(self, encoded: EncodedTexts, *, progress: bool = False) -> Float[Tensor, "texts D"]:
        """Return a unit vector for each encoded text; texts of similar length share a batch."""
        batches = evaluation_batches(
            encoded.ids,
            pad=self.tokenizer.filler,
            max_tokens=max(tokens_at_once(self.device), self.max_length),
        )

        def forward(batch: Any) -> Tensor:
            moved = batch.to(self.device)
            states = self.model(moved.tokens, token_mask=moved.token_mask)
            return F.normalize(POOLS[self.pool](states, moved.token_mask), dim=-1)

        return in_order(batches, self.run(batches, forward, "embedding", progress=progress))

    def predict(self, texts: Sequence[str], *, progress: bool = False) -> np.ndarray:
        """Return the unit vectors of texts, in their order: (texts, D), float32.

        Raises:
            DataError: there are no texts, or one is empty.
        """
        return as_array(self.embed(self.encode(texts), progress=progress))


def as_array(vectors: Tensor) -> np.ndarray:
    """Return vectors in float32, or float64 if the model is in float64."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32)).cpu().numpy()


def read_pool(files: Mapping[str, bytes]) -> str:
    """Return the pooling from the files of sentence-transformers; "mean" if there are none.

    Raises:
        ConfigError: there are modules other than Transformer, Pooling and Normalize, or the pooling
            is neither the mean nor the first token.
        DataError: a file is broken.
    """
    if MODULES not in files:
        return "mean"
    modules: Any = _parse(files, MODULES)
    check_kinds({"modules": modules}, {"modules": list_of(OBJECT)}, where=MODULES)
    paths = dict[str, str]()
    for one in modules:
        check_kinds(one, {"type": TEXT, "path": TEXT}, where=MODULES)
        paths[one.get("type", "").rpartition(".")[2]] = one.get("path", "")
    if not set(paths) <= set(STEPS):
        raise ConfigError(
            f"{MODULES} has the modules {', '.join(paths)}; expected only {', '.join(STEPS)}"
        )
    name = f"{paths.get('Pooling') or '1_Pooling'}/config.json"
    pooling = _parse(files, name)
    check_kinds({name: pooling}, {name: OBJECT})
    flags = {key: pooling[key] for key in pooling if key.startswith(f"{MODE}_")}
    check_kinds(flags, dict.fromkeys(flags, FLAG), where=name)
    chosen = [key.removeprefix(f"{MODE}_") for key, is_set in flags.items() if is_set]
    known = {"cls_token": "first", "cls": "first", "mean_tokens": "mean", "mean": "mean"}
    mode = pooling.get(MODE, chosen[0] if len(chosen) == 1 else chosen)
    if not isinstance(mode, str) or mode not in known:
        raise ConfigError(f"{name} has {MODE} = {shown(mode)}; expected mean or cls, alone")
    return known[mode]


def read_length(files: Mapping[str, bytes]) -> int | None:
    """Return the maximum number of tokens from the files of sentence-transformers, or None.

    Raises:
        ConfigError: it is not a whole number.
        DataError: the file is broken.
    """
    settings: Any = _parse(files, LENGTHS) if LENGTHS in files else {}
    check_kinds({LENGTHS: settings}, {LENGTHS: OBJECT})
    check_kinds(settings, {"max_seq_length": COUNT | NULL}, where=LENGTHS)
    return settings.get("max_seq_length")


def _parse(files: Mapping[str, bytes], name: str) -> Any:
    if name not in files:
        raise DataError(f"the model's folder has {MODULES}, but no {name}; expected both")
    try:
        return json.loads(files[name])
    except ValueError as error:
        raise DataError(f"{name} is not JSON: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Embed(Predict[Embedder]):
    """Options of `qkv embed`.

    Args:
        max_length: maximum number of tokens of a text; longer texts are truncated; default: from
            the model's files.
    """

    output: Annotated[
        Path | None,
        Parameter(
            alias="-o",
            help="write a matrix with a row for each text (.npy, float32), or a JSON object for "
            "each text (.jsonl); without it the objects are printed",
        ),
    ] = None
    max_length: int | None = None

    only_json: ClassVar = True

    inputs: ClassVar = "the texts to embed, one per argument"
    settings: ClassVar = ("max_length",)

    def check(self) -> None:
        """Reject a format that cannot be written."""
        if self.output and not self.part and self.output.suffix not in (".npy", ".jsonl"):
            raise ConfigError(
                f"--output {self.output} has the suffix {self.output.suffix!r}; expected .npy (a "
                "matrix) or .jsonl (texts and vectors)"
            )
        if self.output is not None and self.json and self.output.suffix == ".npy":
            raise ConfigError(f"--json with --output {self.output}; expected a .jsonl file")

    def predict(
        self, pipeline: Embedder, fields: Sequence[Mapping[str, str]]
    ) -> Iterable[Embedding]:
        """Embed the texts."""
        texts = [one["text"] for one in fields]
        encoded = pipeline.encode(texts)
        rows = as_array(pipeline.embed(encoded, progress=True))
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            remark(text, encoded.note(i))
            # The shortest decimal fraction that is this number in float32.
            yield Embedding(text, [float(str(x)) for x in row], note=encoded.note(i))

    def answer(self, pipeline: Embedder, items: Sequence[Item], shipped: Entry | None) -> None:
        """Print or write the vectors."""
        if self.output is None or self.output.suffix == ".jsonl":
            super().answer(pipeline, items, shipped)
            return
        check_output(self.output, items)
        if problems := [item.problem for item in items if item.problem]:
            raise DataError(
                f"{len(problems):,} of {len(items):,} inputs have no vector, so {self.output} was "
                f"not written: a matrix has a row for each input ({problems[0]}); expected texts "
                "only, or a .jsonl file"
            )
        rows = pipeline.predict([item.fields["text"] for item in items], progress=True)
        file = io.BytesIO()
        np.save(file, rows)
        write_atomically(self.output, file.getvalue())
        complain(f"{len(rows):,} vectors of {rows.shape[1]} numbers written to {self.output}")


TASK = Task(
    name="embed",
    default="all-MiniLM-L6-v2",
    pipeline=Embedder,
    predict=Embed,
    columns={"text": "text"},
)
