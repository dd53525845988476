"""Text classification: one class per text or pair of texts, or several classes per text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from qkv.data.classification import (
    EncodedTexts,
    classification_batches,
    encode_texts,
    evaluation_batches,
    in_order,
    tokens_at_once,
)
from qkv.data.labels import Labels, PairExample, TextExample, label_remarks, seconds_of
from qkv.errors import ConfigError
from qkv.evaluation.classification import (
    ClassificationScores,
    MultiLabelScores,
    classification_report,
    multi_label_report,
)
from qkv.evaluation.temperature import fit_temperature
from qkv.models.heads import SequenceClassifier
from qkv.tasks.classify import Classify
from qkv.tasks.finetuning import load_with_head
from qkv.tasks.labels import (
    PAIRS,
    PARAMETERS,
    SEPARATOR,
    PairPrediction,
    Prediction,
    TextSettings,
    check_classes,
    check_known,
    check_pairs,
    check_prefix,
    class_metrics,
    class_tables,
    classes_line,
    labels_of,
    make_example,
    score_line,
    split_labels,
    targets_of,
)
from qkv.tasks.pipeline import (
    Pipeline,
    check_positions,
    check_strings,
    longest_input,
    read_settings,
    tells_texts_apart,
    with_parameters,
    without_base_files,
)
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.tasks.zero_shot import ClassNames, zero_shot_classifier
from qkv.training.classification import classification_loss
from qkv.training.settings import Training
from qkv.zoo.catalog import MINILM

Example = TextExample | PairExample
Scores = ClassificationScores | MultiLabelScores

LENGTH = "model_max_length"  # in tokenizer_config.json
MAX_LENGTH = 512  # if neither the tokenizer's files nor the model have a limit
SEVERAL = "multi_label_classification"  # problem_type in config.json


@dataclass(frozen=True)
class TextClassifier(Pipeline[Example, Prediction, Scores]):
    """A classifier of texts or of pairs of texts.

    Args:
        loaded: model and tokenizer; config.json names the classes.
        max_length: maximum number of tokens of an input, special tokens included; longer inputs
            are truncated.
        temperature: temperature of the last `calibrate`, already part of the output layer.
        prefix: text that precedes each input, as in training; see `TextSettings`.

    Raises:
        ConfigError: `max_length` exceeds the model's positions, or the prefix leaves no room.
    """

    max_length: int = MAX_LENGTH
    temperature: float = 1.0
    prefix: str = ""

    kinds: ClassVar = (SequenceClassifier,)
    expected: ClassVar = (
        "a model that was trained to classify texts (qkv train classify trains one)"
    )

    def __post_init__(self) -> None:
        """Check the length."""
        check_positions(self.model, "max_length", self.max_length)
        check_prefix(self.prefix, self.loaded, self.max_length)

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        *,
        max_length: int | None = None,
        labels: ClassNames | None = None,
        independent: bool = False,
    ) -> Any:
        """Build a classifier from a loaded model.

        Args:
            loaded: a trained classifier; with `labels`, a model without classes.
            max_length: maximum number of tokens of an input; as in training if None.
            labels: names or descriptions of the classes, which need no training; see
                `read_descriptions`.
            independent: see `ZeroShotClassifier`.
        """
        if labels is not None:
            options: Any = {"max_length": max_length, "independent": independent}
            return zero_shot_classifier(loaded, labels, **options)
        cls.check(loaded)
        check_classes(loaded)
        kind = loaded.config.get("problem_type") or "single_label_classification"
        if kind not in ("single_label_classification", SEVERAL):
            raise ConfigError(
                f"the model was trained for problem_type = {kind!r}; expected one of "
                f"single_label_classification and {SEVERAL}"
            )
        if max_length is None:
            max_length = longest_input(loaded) or MAX_LENGTH
        return cls(loaded, max_length, **read_settings(loaded, PARAMETERS, TextSettings))

    @classmethod
    def fresh(
        cls,
        base: str,
        labels: Labels,
        *,
        max_length: int = 128,
        pairs: bool = False,
        several: bool = False,
        pretrained: bool = True,
        prefix: str = "",
    ) -> Self:
        """Put a new head on a pretrained encoder, in float32.

        Args:
            base: a checkpoint's folder, the name of a shipped model, or an id of the Hub.
            labels: names of the classes.
            max_length: maximum number of tokens of an input; saved with the model.
            pairs: whether inputs are pairs of texts; saved with the model.
            several: whether a text may have several classes; saved with the model.
            pretrained: False starts the encoder from random weights as well.
            prefix: text that precedes each input; saved with the model.

        Raises:
            ConfigError: the family has no classifier, or `max_length` is too long for it.
        """
        loaded = load_with_head(
            base, SequenceClassifier, pretrained=pretrained, labels=labels.names
        )
        if loaded.tokenizer is None:
            raise ConfigError(f"{base} has no tokenizer; expected an encoder of texts")
        other = ("problem_type", "num_labels", "_num_labels")
        loaded = without_base_files(loaded, other, **{LENGTH: max_length, PAIRS: pairs})
        if several:
            loaded = replace(loaded, config={**loaded.config, "problem_type": SEVERAL})
        if prefix:
            loaded = with_parameters(loaded, **{PARAMETERS: {"prefix": prefix}})
        return cls(loaded, max_length, prefix=prefix)

    @property
    def labels(self) -> Labels:
        """The names of the classes, in the order of the logits."""
        return labels_of(self.loaded)

    @property
    def several(self) -> bool:
        """Whether a text may have several classes."""
        return self.loaded.config.get("problem_type") == SEVERAL

    def encode(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> EncodedTexts:
        """Return texts or pairs of texts as token ids, truncated to `max_length`.

        Raises:
            DataError: a text is empty, or the model was trained on pairs and these are single
                texts, or vice versa.
        """
        for part in (texts, seconds or ()):
            check_strings(part)
        check_pairs(self.loaded, pairs=seconds is not None)
        if self.prefix:
            texts = [self.prefix + text if text else text for text in texts]
        encoded = encode_texts(self.tokenizer, texts, seconds, max_length=self.max_length)
        return encoded if tells_texts_apart(self.model) else replace(encoded, segments=None)

    def probabilities(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None, *, progress: bool = False
    ) -> Float64[Tensor, "texts classes"]:
        """Return the probability of each class; texts of similar length share a batch.

        Raises:
            DataError: see `encode`; or there are no texts.
        """
        return self._classify(self.encode(texts, seconds), progress)

    def _classify(self, encoded: EncodedTexts, progress: bool) -> Float64[Tensor, "texts classes"]:
        batches = evaluation_batches(
            encoded.ids,
            pad=self.tokenizer.filler,
            max_tokens=max(tokens_at_once(self.device), self.max_length),
            segments=encoded.segments,
        )

        def forward(batch: Any) -> Tensor:
            moved = batch.to(self.device)
            return self.model(moved.tokens, token_mask=moved.token_mask, segments=moved.segments)

        logits = self.run(batches, forward, "classifying", progress=progress)
        rows = in_order(batches, logits).cpu().double()
        return rows.sigmoid() if self.several else rows.softmax(-1)

    def predict(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None, *, progress: bool = False
    ) -> list[Prediction]:
        """Classify texts, or pairs of texts, in their order."""
        encoded, names = self.encode(texts, seconds), self.labels.names
        predictions = list[Prediction]()
        rows = self._classify(encoded, progress).tolist()
        for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
            label, probability = names[row.index(max(row))], max(row)
            if self.several:
                label = SEPARATOR.join(n for n, p in zip(names, row, strict=True) if p >= 0.5)
                probability = prod(max(p, 1 - p) for p in row)
            fields = text, label, probability, dict(zip(names, row, strict=True))
            if seconds is None:
                predictions.append(Prediction(*fields, note=encoded.note(i)))
            else:
                predictions.append(PairPrediction(*fields, seconds[i], note=encoded.note(i)))
        return predictions

    def evaluate(self, examples: Iterable[Example], *, progress: bool = False) -> Scores:
        """Score the classifier on texts whose classes are known.

        Raises:
            DataError: there are no texts, or one has a class that the model does not know.
        """
        examples, labels = list(examples), self.labels
        truth = [targets_of(labels, one, several=self.several) for one in examples]
        texts = [one.text for one in examples]
        rows = self.probabilities(texts, seconds_of(examples), progress=progress)
        report: Any = multi_label_report if self.several else classification_report
        return report(truth, rows, labels.names)

    def calibrate(self, examples: Iterable[Example]) -> float:
        """Scale the logits so that the probabilities fit the classes of these examples.

        The temperature (`fit_temperature`) becomes part of the output layer, so that every program
        that loads the model gets calibrated probabilities; predictions stay the same.

        Args:
            examples: validation examples, which should not be training examples.

        Returns:
            The temperature.
        """
        examples = list(examples)
        rows = self.probabilities([one.text for one in examples], seconds_of(examples)).numpy()
        truth = [targets_of(self.labels, one, several=False) for one in examples]
        temperature = fit_temperature(rows, truth)
        with torch.no_grad():
            for parameter in self.model.classifier.output.parameters():
                parameter /= temperature
        return temperature


@dataclass(frozen=True, kw_only=True)
class ClassificationRecipe(Recipe[TextClassifier]):
    """Fine-tune an encoder to classify texts.

    Args:
        max_length: maximum number of tokens of an input; longer inputs are truncated.
        several: whether a text may have several labels, separated by | in the table, or none,
            written as | alone.
        calibrate: scale the probabilities on the validation split (`TextClassifier.calibrate`).
        prefix: text that precedes each input; see `TextSettings`.
    """

    base: str | None = MINILM
    data: DataConfig = DataConfig(train=("reviews",))
    # Devlin et al. 2019, appendix A.3: a batch of 32 texts, 2 to 4 epochs; their rates.
    training: Training = Training(
        epochs=4.0, batch_size=32, learning_rate=1e-4, schedule="linear", betas=(0.9, 0.999)
    )
    max_length: int = 128
    several: bool = False
    calibrate: bool = False
    prefix: str = ""

    metric: ClassVar = "accuracy"
    unit: ClassVar = "texts"
    hint: ClassVar = "qkv classify --model {} 'a text'"
    new_head: ClassVar = True

    def check(self) -> None:
        """Reject calibration of independent probabilities."""
        super().check()
        if self.calibrate and self.several:
            raise ConfigError(
                "calibrate = true with several = true; expected one of them: a temperature belongs "
                "to a softmax over the classes"
            )

    def read(self, task: Task[Any, Any]) -> Splits[Example]:
        """Read the data; splits are not stratified if a text may have several labels."""
        return super().read(replace(task, labels=None) if self.several else task)

    def remarks(self, splits: Splits[Example]) -> list[str]:
        """Return the classes, and remarks on likely mistakes in the labels."""
        names = [name for one in splits.train for name in self._names(one)]
        return [classes_line(Counter(names)), *label_remarks(names)]

    def _names(self, example: Example) -> list[str]:
        return split_labels(example.label) if self.several else [example.label]

    def build(self, splits: Splits[Example]) -> TextClassifier:
        """Put a new head on the base."""
        known = splits.train
        if self.several and self.data.validation is None:  # a rare label may be held out
            known = [*known, *splits.validation]
        labels = Labels.of(name for one in known for name in self._names(one))
        check_known(labels, splits, self._names)
        return TextClassifier.fresh(
            self.base or "",
            labels,
            max_length=self.max_length,
            pairs=isinstance(splits.train[0], PairExample),
            several=self.several,
            pretrained=self.finetuning.train != "scratch",
            prefix=self.prefix,
        )

    def batches(self, pipeline: TextClassifier, splits: Splits[Example]) -> TrainingBatches:
        """Encode the training texts."""
        texts = pipeline.encode([one.text for one in splits.train], seconds_of(splits.train))
        labels = pipeline.labels
        classes = [targets_of(labels, one, several=self.several) for one in splits.train]
        batches = classification_batches(
            texts, classes, pad=pipeline.tokenizer.filler, batching=self.training.batching()
        )
        length = -(-sum(map(len, texts.ids)) // len(texts.ids))
        return TrainingBatches(batches, length, (str(texts),))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the sum of the cross-entropies."""
        return classification_loss(model, batch, smoothing=self.training.smoothing)

    def metrics(self, scores: Scores) -> dict[str, float]:
        """Return accuracy, F1 and loss."""
        return class_metrics(scores)

    def settle(self, pipeline: TextClassifier, splits: Splits[Example]) -> TextClassifier:
        """Calibrate the probabilities."""
        if not self.calibrate:
            return pipeline
        return replace(pipeline, temperature=pipeline.calibrate(splits.validation))

    def facts(self, pipeline: TextClassifier) -> dict[str, Any]:
        """Return the temperature."""
        return {"temperature": pipeline.temperature} if self.calibrate else {}


TASK = Task(
    name="classify",
    default="sentiment",
    untrained=MINILM,
    pipeline=TextClassifier,
    recipe=ClassificationRecipe,
    predict=Classify,
    columns={"text": "text", "label": "label", "second": None},
    example=make_example,
    tables=class_tables,
    summary=score_line,
    group=lambda example: example.text,
    labels=lambda example: example.label,
)
