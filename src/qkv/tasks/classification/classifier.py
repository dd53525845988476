"""Text classification: a model with a head for classes, its tokenizer, and the classes' names."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch
from jaxtyping import Float64
from rich.progress import track
from torch import Tensor, nn

from qkv.blocks.positions import LearnedPositions
from qkv.checkpoints.reader import CONFIG, open_weights
from qkv.checkpoints.registry import family_of
from qkv.data.classification import EncodedTexts, encode_texts, evaluation_batches, in_order
from qkv.data.labels import Labels, PairExample, TextExample, seconds_of
from qkv.data.tokenizers import TOKENIZER_FILES, Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores, classification_report
from qkv.files import whole_folder
from qkv.json_fields import read_json
from qkv.models.heads import SequenceClassifier
from qkv.models.modes import evaluating
from qkv.tasks.classes import check_classes, labels_of
from qkv.tasks.console import plain_console
from qkv.tasks.pretrained import Loaded, load, locate

# Where transformers, too, looks up of how many tokens a text may be.
SETTINGS, LENGTH = "tokenizer_config.json", "model_max_length"
PAIRS = "text_pairs"  # and we, whether it is of pairs
MAX_LENGTH = 512  # where neither the tokenizer's files nor the model set a limit
MAX_TOKENS = 4_000  # positions of a batch, padding included


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of a text.

    Args:
        text: that was asked about.
        label: the likeliest class.
        probability: of it.
        probabilities: of all classes, by their names.
        note: what the reader should know: that a part of the text was not read.
    """

    text: str
    label: str
    probability: float
    probabilities: dict[str, float]
    note: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class PairPrediction(Prediction):
    """What a classifier says of two texts.

    Args:
        second: the other text.
    """

    second: str


@dataclass(frozen=True)
class TextClassifier:
    """A trained (or still to be trained) classifier of texts, or of pairs of texts.

    Args:
        loaded: model and tokenizer; config.json names the classes.
        max_length: tokens of a text, special ones included, of which the rest is cut off.
    """

    loaded: Loaded
    max_length: int = MAX_LENGTH

    def __post_init__(self) -> None:
        """Check what no text has to be read for."""
        longest = _longest(self.loaded.model)
        if longest is not None and self.max_length > longest:
            raise ConfigError(
                f"max_length = {self.max_length}, but this {type(self.loaded.model).__name__} has "
                f"learned positions for {longest} tokens, special ones included; expected at most "
                "as many"
            )

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        allow_download: bool = False,
    ) -> "TextClassifier":
        """Load a model that has a head for classes; see `qkv.load`.

        Args:
            path: a folder, a name of the zoo or an id of the Hub.
            max_length: of a text, in tokens; as in training if not given.
            device: of the model.
            allow_download: whether the Hub may be asked for a base that a file of it names.

        Raises:
            ConfigError: the model has no such head, or one whose classes do not exclude each other.
            DataError: there is no such model.
        """
        loaded = load(path, dtype=torch.float32, device=device, allow_download=allow_download)
        return cls.of(loaded, max_length=max_length, name=os.fspath(path))

    @classmethod
    def of(
        cls, loaded: Loaded, *, max_length: int | None = None, name: str = "this"
    ) -> "TextClassifier":
        """Make a classifier of what `qkv.load` returned; `name` is what errors call it."""
        if not isinstance(loaded.model, SequenceClassifier) or loaded.tokenizer is None:
            raise ConfigError(
                f"{name} is a {type(loaded.model).__name__} with "
                f"{'no' if loaded.tokenizer is None else 'a'} tokenizer; expected a model that was "
                "trained to classify texts (qkv train classify makes one)"
            )
        try:
            check_classes(loaded)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        kind = loaded.config.get("problem_type") or "single_label_classification"
        if kind != "single_label_classification":
            raise ConfigError(
                f"{name} was trained for {kind}; expected a model that gives each text one class"
            )
        if max_length is None:
            limits = [_said_length(loaded.tokenizer), _longest(loaded.model)]
            max_length = min((n for n in limits if n is not None), default=MAX_LENGTH)
        return cls(loaded, max_length)

    @classmethod
    def fresh(
        cls,
        base: str | os.PathLike[str],
        labels: Labels,
        *,
        max_length: int = 256,
        pairs: bool = False,
        pretrained: bool = True,
    ) -> "TextClassifier":
        """Put a new head on a pretrained encoder, in float32.

        A pooler counts as new where the encoder comes without. Of the files beside the base those
        of its tokenizer stay; others, such as how to pool sentences, say nothing of a classifier.

        Args:
            base: a checkpoint's folder, a name of the zoo or an id of the Hub.
            labels: of the classes.
            max_length: of a text or a pair, in tokens; saved with the model.
            pairs: whether it will be trained on pairs of texts; saved with the model, too.
            pretrained: False starts the encoder from random weights as well.

        Raises:
            ConfigError: the family has no classifier of texts, or `max_length` is too long for it.
        """
        architecture, new = _plan(base, pretrained=pretrained)
        loaded = load(
            base, architecture=architecture, new=new, labels=labels.names, dtype=torch.float32
        )
        if loaded.tokenizer is None:
            raise ConfigError(f"{base} has no tokenizer; expected an encoder of texts")
        return cls(_for_classes(loaded, {LENGTH: max_length, PAIRS: pairs}), max_length)

    @property
    def model(self) -> nn.Module:
        """The encoder with its head."""
        return self.loaded.model

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the model."""
        assert self.loaded.tokenizer is not None
        return self.loaded.tokenizer

    @property
    def labels(self) -> Labels:
        """The classes' names, in the order of the logits."""
        return labels_of(self.loaded)

    def encode(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> EncodedTexts:
        """Texts, or pairs of texts, as the model reads them; of long ones a part is cut off.

        Raises:
            DataError: one is empty, or the model was trained on pairs and these are none, or the
                other way round.
        """
        pairs = _said(self.tokenizer, PAIRS)  # other libraries do not say
        if pairs is not None and pairs != (seconds is not None):
            kinds = ("single texts", "pairs of texts")
            raise DataError(f"{kinds[not pairs]} were given; this model classifies {kinds[pairs]}")
        encoded = encode_texts(self.tokenizer, texts, seconds, max_length=self.max_length)
        tells_apart = getattr(self.model.config, "n_segments", 1) > 1
        return encoded if tells_apart else replace(encoded, segments=None)

    def probabilities(
        self,
        texts: Sequence[str],
        seconds: Sequence[str] | None = None,
        *,
        max_tokens: int = MAX_TOKENS,
        progress: bool = False,
    ) -> Float64[Tensor, "texts classes"]:
        """Probabilities of the classes; texts of like length share a batch.

        Args:
            texts: of which a batch's positions, padding included, are at most `max_tokens`.
            seconds: the second text of each, where pairs are classified.
            max_tokens: positions.
            progress: show a bar, where the errors go.

        Raises:
            DataError: there are no texts, or one is empty, or pairs are given where the model
                reads single texts, or the other way round.
        """
        return self._classify(self.encode(texts, seconds), max_tokens, progress)

    def _classify(
        self, encoded: EncodedTexts, max_tokens: int, progress: bool
    ) -> Float64[Tensor, "texts classes"]:
        batches = evaluation_batches(
            encoded.ids,
            pad=self.tokenizer.filler,
            max_tokens=max(max_tokens, self.max_length),
            segments=encoded.segments,
        )
        device = next(self.model.parameters()).device
        outputs = []
        console = plain_console(stderr=True)
        off = not (progress and console.is_terminal)
        with evaluating(self.model), torch.inference_mode():
            for batch in track(
                batches, "classifying", console=console, transient=True, disable=off
            ):
                moved = batch.to(device)
                said = self.model(
                    moved.tokens, token_mask=moved.token_mask, segments=moved.segments
                )
                outputs.append(said)
        return in_order(batches, outputs).cpu().double().softmax(-1)

    @overload
    def __call__(
        self, texts: str, seconds: str | None = None, *, progress: bool = False
    ) -> Prediction: ...
    @overload
    def __call__(
        self, texts: Sequence[str], seconds: Sequence[str] | None = None, *, progress: bool = False
    ) -> list[Prediction]: ...
    def __call__(
        self,
        texts: str | Sequence[str],
        seconds: str | Sequence[str] | None = None,
        *,
        progress: bool = False,
    ) -> Prediction | list[Prediction]:
        """Say the class of a text, or of each in a list, in order; with `seconds`, of each pair."""
        if isinstance(texts, str):
            return self([texts], None if seconds is None else [seconds], progress=progress)[0]
        names = self.labels.names
        encoded = self.encode(texts, seconds)
        rows = self._classify(encoded, MAX_TOKENS, progress).tolist()
        notes = [encoded.note(row) for row in range(len(rows))]
        found = [
            (text, names[row.index(max(row))], max(row), dict(zip(names, row, strict=True)))
            for text, row in zip(texts, rows, strict=True)
        ]
        if seconds is None:
            return [Prediction(*said, note=note) for said, note in zip(found, notes, strict=True)]
        return [
            PairPrediction(*said, second=second, note=note)
            for said, second, note in zip(found, seconds, notes, strict=True)
        ]

    def evaluate(
        self, examples: Iterable[TextExample | PairExample], *, progress: bool = False
    ) -> ClassificationScores:
        """Score the classifier on texts whose classes are known.

        Raises:
            DataError: there are none, or one has a class that the model does not know.
        """
        examples, labels = list(examples), self.labels
        truth = [
            labels.number(one.label, f"example {row}") for row, one in enumerate(examples, start=1)
        ]
        texts = [one.text for one in examples]
        probabilities = self.probabilities(texts, seconds_of(examples), progress=progress)
        return classification_report(truth, probabilities, labels.names)


def _plan(base: str | os.PathLike[str], *, pretrained: bool) -> tuple[str, list[str]]:
    """The architecture that classifies texts, and the parts of it that start fresh."""
    folder = whole_folder(locate(base))
    family = family_of(read_json(folder / CONFIG).get("model_type"))
    names = [one.name for one in family.architectures if one.model is SequenceClassifier]
    if not names:
        raise ConfigError(
            f"{base} is of the family {family.model_type}, for which no classifier of texts is "
            f"implemented; qkv models --family {family.model_type} lists what is"
        )
    if not pretrained:
        return names[0], ["classifier", "encoder"]
    # Of the families with a classifier, BERT alone reads through a pooler.
    pooled = family.model_type != "bert" or any("pooler" in name for name in open_weights(folder))
    return names[0], ["classifier"] if pooled else ["classifier", "encoder.pooler"]


def _longest(model: nn.Module) -> int | None:
    """The most tokens for which a model has positions; None where there is no limit."""
    tables = [m.max_length for m in model.modules() if isinstance(m, LearnedPositions)]
    return min(tables, default=None)


def _said_length(tokenizer: Tokenizer) -> int | None:
    """The most tokens by the tokenizer's files; they say a huge number where there is no limit."""
    said = _said(tokenizer, LENGTH)
    return None if said is None or said > 10**9 else int(said)


def _said(tokenizer: Tokenizer, name: str) -> Any:
    """What the tokenizer's files say; None if nothing."""
    return json.loads(tokenizer.files.get(SETTINGS, b"{}")).get(name)


def _for_classes(loaded: Loaded, said: dict[str, Any]) -> Loaded:
    """Leave out what config and files say of the base alone, and note what texts it reads."""
    files = {name: text for name, text in loaded.origin.files.items() if name in TOKENIZER_FILES}
    settings = json.loads(files.get(SETTINGS, b"{}")) | said
    files[SETTINGS] = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    other = ("problem_type", "num_labels", "_num_labels")
    config = {name: value for name, value in loaded.config.items() if name not in other}
    return replace(loaded, config=config, origin=replace(loaded.origin, files=files))
