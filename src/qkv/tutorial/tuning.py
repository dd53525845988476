"""Fine-tune one pretrained encoder in several ways, to compare them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from qkv.data.batches import Batches, Batching
from qkv.data.classification import ClassificationBatch, classification_batches
from qkv.data.labels import Labels, TextExample
from qkv.tasks.classification import TextClassifier
from qkv.training.classification import classification_loss
from qkv.training.finetune import GradualUnfreezing, layerwise_adamw
from qkv.training.history import History
from qkv.training.loop import train
from qkv.training.progress import Bar
from qkv.training.report import training_memory
from qkv.training.settings import Training


@dataclass(frozen=True)
class Way:
    """A way to fine-tune.

    Args:
        prepare: freezes or adds parameters of a new model.
        rate: the head's learning rate.
        epochs: passes over the training texts.
        layer_decay: a layer's learning rate divided by that of the layer above it.
        gradual: whether one more layer from the top trains at regular intervals.
        pretrained: False starts from random weights.
    """

    prepare: Callable[[nn.Module], object]
    rate: float
    epochs: int
    layer_decay: float = 1.0
    gradual: bool = False
    pretrained: bool = True


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned classifier, its training, and how many parameters and bytes that took."""

    classifier: TextClassifier
    history: History
    n_trained: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Tuner:
    """Fine-tunes new classifiers on an encoder; only the way differs.

    Args:
        base: the encoder.
        labels: names of the classes.
        validation: texts to score after each epoch; empty to score none.
        epochs: overrides the epochs of every way.
        max_length: maximum number of tokens of a text.
        length: typical number of tokens of a text, to estimate memory.
        seed: determines new weights and the order of the texts.
    """

    base: str
    labels: Labels
    validation: Sequence[TextExample] = ()
    epochs: int | None = None
    max_length: int = 128
    length: int = 32
    seed: int = 0

    def prepared(self, way: Way) -> tuple[TextClassifier, torch.optim.Optimizer]:
        """Return a new classifier, frozen as the way prescribes, and its optimizer."""
        torch.manual_seed(self.seed)
        classifier = TextClassifier.fresh(
            self.base, self.labels, max_length=self.max_length, pretrained=way.pretrained
        )
        way.prepare(classifier.model)
        optimizer = layerwise_adamw(
            classifier.model,
            learning_rate=way.rate,
            layer_decay=way.layer_decay,
            betas=(0.9, 0.999),
            eps=1e-8,
        )
        return classifier, optimizer

    def batches(
        self,
        classifier: TextClassifier,
        examples: Sequence[TextExample],
        *,
        epochs: int | None = None,
    ) -> Batches[ClassificationBatch]:
        """Return batches of 32 texts of similar length; without end if `epochs` is None."""
        return classification_batches(
            classifier.encode([one.text for one in examples]),
            [self.labels.number(one.label) for one in examples],
            pad=classifier.tokenizer.filler,
            batching=Batching(batch_size=32, seed=self.seed, epochs=epochs),
        )

    def __call__(self, way: Way, examples: Sequence[TextExample], name: str) -> Tuned:
        """Fine-tune on examples; the name stands before the progress bar."""
        classifier, optimizer = self.prepared(way)
        model = classifier.model
        batches = self.batches(classifier, examples)
        steps = batches.n_batches * (self.epochs or way.epochs)
        memory = training_memory(model, optimizer, rows=32, length=self.length).total
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)

        def accuracy(_: nn.Module) -> dict[str, float]:
            scores: Any = classifier.evaluate(self.validation)
            return {"accuracy": scores.accuracy}

        history = train(
            model,
            batches,
            classification_loss,
            Training(steps=steps, schedule="linear", warmup=steps // 10),
            optimizer=optimizer,
            evaluate=accuracy if self.validation else None,
            callbacks=[
                *([GradualUnfreezing(max(1, steps // 8))] if way.gradual else []),
                Bar(name, unit="texts"),
            ],
        )
        return Tuned(classifier, history, n_trained, memory)
