"""The options of `qkv classify`, for trained classifiers and zero-shot classification."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from qkv.errors import ConfigError, DataError
from qkv.tasks.commands import Predict
from qkv.tasks.inputs import Item, pair_items, text_item
from qkv.tasks.labels import PairPrediction, Prediction
from qkv.tasks.options import NewLabels
from qkv.tasks.outputs import remark
from qkv.tasks.zero_shot import read_descriptions
from qkv.zoo.catalog import MINILM


@dataclass(frozen=True, kw_only=True)
class Classify(Predict[Any]):
    """Options of `qkv classify`.

    Args:
        second: the text that each text is paired with, for models of text pairs; if both are
            columns of a table, use --columns.second.
        max_length: maximum number of tokens of an input; longer inputs are truncated; default: as
            in training.
        independent: with --labels, classify each text by itself; by default, many texts are also
            clustered, which adapts the classes to them, if the clusters cover all classes.
    """

    labels: NewLabels = None
    second: str | None = None
    max_length: int | None = None
    independent: bool = False

    inputs: ClassVar = "the texts to classify, one per argument"
    about: ClassVar = f"With --labels, it needs no training; {MINILM} is then the default model."
    roles: ClassVar = ("text", "second")
    settings: ClassVar = ("max_length", "labels", "independent")

    def check(self) -> None:
        """Check the labels before the model is loaded."""
        if self.labels is not None:
            read_descriptions(self.labels)
            if self.second is not None:
                raise ConfigError("--labels with --second; expected single texts for --labels")
        elif self.independent:
            raise ConfigError("--independent without --labels; expected both, or neither")

    def items(self, inputs: Sequence[str], columns: Mapping[str, str]) -> Iterable[Item]:
        """Return the texts, each with its second text if there is any."""
        named = (self.columns or {}).get("second")
        return pair_items(inputs, self.file, columns, self.second, span=self.span, column=named)

    def requested(self, inputs: Sequence[Any]) -> list[Item]:
        """Return the texts of a request, each with its second text if there is any."""
        items = super().requested(inputs)
        if self.second is None:
            return items
        both = {"second": self.second}
        if problem := text_item("second", self.second, "second").problem:
            raise DataError(problem)
        return [one if one.problem else replace(one, fields=one.fields | both) for one in items]

    @property
    def apart(self) -> bool:
        """Whether the clusters of the texts affect the predictions."""
        return self.labels is not None and not self.independent

    def predict(self, pipeline: Any, fields: Sequence[Mapping[str, str]]) -> list[Prediction]:
        """Classify the texts."""
        seconds = [one["second"] for one in fields] if "second" in fields[0] else None
        return pipeline.predict([one["text"] for one in fields], seconds, progress=True)

    def line(self, prediction: Prediction) -> str:
        """Return label, probability and text, separated by tabs."""
        remark(prediction.text, prediction.note)
        texts = [prediction.text]
        if isinstance(prediction, PairPrediction):
            texts.append(prediction.second)
        cells = (" ".join(text.split()) for text in texts)
        return "\t".join([prediction.label, f"{prediction.probability:.4f}", *cells])
