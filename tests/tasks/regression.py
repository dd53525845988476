"""The page of a task that the package does not have: a number for each text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.data.classification import (
    classification_batches,
    encode_texts,
    evaluation_batches,
    in_order,
)
from qkv.errors import DataError
from qkv.models.heads import SequenceClassifier
from qkv.tasks.commands import Predict, score_row
from qkv.tasks.finetuning import load_with_head
from qkv.tasks.pipeline import Pipeline, longest_input, without_base_files
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Tables, Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.training.settings import Training


class Rated(NamedTuple):
    """A text and its number."""

    text: str
    rating: float


@dataclass(frozen=True)
class Rating:
    """The number of a text."""

    text: str
    rating: float


@dataclass(frozen=True)
class RatingScores:
    """Mean squared error, and that of always predicting the mean."""

    count: int
    squared_error: float
    baseline: float


class Regressor(Pipeline[Rated, Rating, RatingScores]):
    """Predicts numbers."""

    kinds: ClassVar = (SequenceClassifier,)
    expected: ClassVar = "a model that was trained to rate texts"

    def encode(self, texts: Sequence[str]) -> Any:
        """Return the texts as token ids."""
        encoded = encode_texts(self.tokenizer, texts, max_length=longest_input(self.loaded) or 512)
        return replace(encoded, segments=None)

    def predict(self, texts: Sequence[str], *, progress: bool = False) -> list[Rating]:
        """Rate texts."""
        pad = self.tokenizer.filler
        batches = evaluation_batches(self.encode(texts).ids, pad=pad, batch_size=32)

        def forward(batch: Any) -> Tensor:
            moved = batch.to(self.device)
            return self.model(moved.tokens, token_mask=moved.token_mask)

        rows = in_order(batches, self.run(batches, forward, "rating", progress=progress))
        return [Rating(text, row[0]) for text, row in zip(texts, rows.tolist(), strict=True)]

    def evaluate(self, examples: Sequence[Rated], *, progress: bool = False) -> RatingScores:
        """Compare predicted and true numbers."""
        true = torch.tensor([one.rating for one in examples])
        ratings = self.predict([one.text for one in examples], progress=progress)
        errors = torch.tensor([one.rating for one in ratings]) - true
        return RatingScores(len(true), float(errors.square().mean()), float(true.var(correction=0)))


@dataclass(frozen=True, kw_only=True)
class RegressionRecipe(Recipe[Regressor]):
    """Fine-tune an encoder to rate texts."""

    data: DataConfig
    training: Training = Training(epochs=2.0, batch_size=8, learning_rate=1e-3)

    metric: ClassVar = "negative error"
    hint: ClassVar = "qkv rate --model {} 'a text'"
    new_head: ClassVar = True
    smooths: ClassVar = False

    def build(self, splits: Splits[Rated]) -> Regressor:
        """Put a head with one output on the base."""
        labels = ("rating", "unused")
        loaded = load_with_head(self.base, SequenceClassifier, pretrained=True, labels=labels)
        return Regressor(without_base_files(loaded, model_max_length=32))

    def batches(self, pipeline: Regressor, splits: Splits[Rated]) -> TrainingBatches:
        """Encode the texts."""
        texts = pipeline.encode([one.text for one in splits.train])
        pad, batching = pipeline.tokenizer.filler, self.training.batching()
        targets = [[one.rating] for one in splits.train]
        return TrainingBatches(
            classification_batches(texts, targets, pad=pad, batching=batching), 8
        )

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Return the sum of the squared errors."""
        ratings = model(batch.tokens, token_mask=batch.token_mask)[:, :1]
        return F.mse_loss(ratings, batch.classes, reduction="sum")

    def metrics(self, scores: RatingScores) -> dict[str, float]:
        """Return the error, negated."""
        return {"negative error": -scores.squared_error}


@dataclass(frozen=True, kw_only=True)
class Rate(Predict[Regressor]):
    """Options of the command."""

    inputs: ClassVar = "the texts to rate"

    def line(self, prediction: Rating) -> str:
        """Return number and text."""
        return f"{prediction.rating:.3f}\t{prediction.text}"


def make_example(text: str, rating: str) -> Rated:
    """Read the number."""
    try:
        return Rated(text, float(rating))
    except ValueError as error:
        raise DataError(f"rating = {rating!r}; expected a number") from error


def tables(scores: RatingScores) -> Tables:
    """Return the scores as a table."""
    return {f"{scores.count} texts": [score_row("squared error", scores.squared_error, None)]}


TASK = Task(
    name="rate", default="", pipeline=Regressor, recipe=RegressionRecipe, predict=Rate,
    columns={"text": "text", "rating": "rating"}, example=make_example, tables=tables,
    summary=lambda scores: f"error {scores.squared_error:.3f}, mean alone {scores.baseline:.3f}",
    group=lambda example: example.text,
)  # fmt: skip
