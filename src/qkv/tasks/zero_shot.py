"""Classification without training: the classes are named when they are used.

An encoder compares the embedding of a text with those of the labels. A language model compares how
likely each label is after the text.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float64
from torch import Tensor

from qkv.data.labels import Labels, PairExample, TextExample
from qkv.errors import ConfigError, DataError
from qkv.evaluation.classification import ClassificationScores, classification_report
from qkv.json_fields import quoted
from qkv.models.bert import Bert
from qkv.models.causal import CausalLM
from qkv.tasks.embedding import Embedder
from qkv.tasks.generator import Generator
from qkv.tasks.labels import Prediction
from qkv.tasks.likelihood import continuation_log_likelihoods
from qkv.tasks.pipeline import Pipeline, check_strings
from qkv.tasks.pretrained import Loaded

# Descriptions of each class by its name; several are averaged.
Descriptions = Mapping[str, Sequence[str]]
ClassNames = str | Sequence[str] | Mapping[str, str | Sequence[str]]

TEMPLATES = ("{}", "This text is about {}.", "a text about {}", "This is {}.")
SCALE = 10.0  # of cosines, before the softmax; chosen on training texts of TREC and emotion
SPREAD = 25  # texts that each class needs before the clusters count
ROUNDS = 3
NEUTRAL = ("N/A", "...", "")  # texts without content (Zhao et al. 2021, section 4)
MAX_TOKENS = 1_024  # of a text that a language model reads


@dataclass(frozen=True)
class ZeroShotClassifier(Pipeline[TextExample, Prediction, ClassificationScores]):
    """A text classifier whose classes are described in words.

    Args:
        loaded: model and tokenizer.
        descriptions: words for each class, by its name.
        max_length: maximum number of tokens of a text; longer texts are truncated.
        independent: whether each text is classified by itself, even if there are many.
    """

    descriptions: Descriptions
    max_length: int | None = None
    independent: bool = field(default=False, kw_only=True)

    @property
    def labels(self) -> Labels:
        """The names of the classes."""
        return Labels([*self.descriptions])

    def logits(
        self, texts: Sequence[str], *, progress: bool
    ) -> tuple[Float64[Tensor, "texts classes"], list[str]]:
        """Return a logit for each text and class, and a note on each text."""
        raise NotImplementedError(f"{type(self).__name__} does not define logits")

    def predict(
        self,
        texts: Sequence[str],
        seconds: Sequence[str] | None = None,
        *,
        progress: bool = False,
    ) -> list[Prediction]:
        """Classify texts, in their order.

        Raises:
            DataError: a text is empty, or there are second texts.
        """
        check_strings(texts)
        if seconds is not None:
            raise DataError(
                "classes given by --labels are classes of single texts; expected no second texts"
            )
        logits, notes = self.logits(texts, progress=progress)
        names = self.labels.names
        return [
            Prediction(
                text,
                names[row.index(max(row))],
                max(row),
                dict(zip(names, row, strict=True)),
                note=note,
            )
            for text, row, note in zip(texts, logits.softmax(-1).tolist(), notes, strict=True)
        ]

    def evaluate(
        self, examples: Sequence[TextExample | PairExample], *, progress: bool = False
    ) -> ClassificationScores:
        """Score the classifier on texts whose classes are known.

        Raises:
            DataError: there are no texts, a text has a class without a label, or they are pairs.
        """
        examples, names = list(examples), self.labels.names
        if any(isinstance(one, PairExample) for one in examples):
            raise DataError("the data has pairs of texts; expected single texts for --labels")
        for one in examples:
            if one.label not in names:
                raise DataError(
                    f"text {quoted(one.text, 40)} has the class {quoted(one.label)}, but --labels "
                    f"has only {', '.join(names)}; expected all classes of the data, such as "
                    f'"{one.label}=words for it"'
                )
        logits, _ = self.logits([one.text for one in examples], progress=progress)
        truth = [names.index(one.label) for one in examples]
        return classification_report(truth, logits.softmax(-1), names)


@dataclass(frozen=True)
class EmbeddingClassifier(ZeroShotClassifier):
    """A zero-shot classifier by the cosine of the embeddings of text and label.

    Labels are inserted into several templates, whose embeddings are averaged. The mean of all
    labels is subtracted from each. If there are many texts, spread over all classes, their clusters
    count as much as the labels (k-means initialized with the labels); see `adapted`.
    """

    kinds: ClassVar = (Bert,)
    expected: ClassVar = Embedder.expected

    def logits(
        self, texts: Sequence[str], *, progress: bool
    ) -> tuple[Float64[Tensor, "texts classes"], list[str]]:
        """Return the scaled cosines of each text and class."""
        embedder = Embedder.of(self.loaded, max_length=self.max_length)
        encoded = embedder.encode(texts)
        vectors = embedder.embed(encoded, progress=progress).double()
        classes = self.vectors(embedder)
        if not self.independent:
            classes = adapted(classes, vectors)
        return SCALE * vectors @ classes.T, [encoded.note(i) for i in range(len(texts))]

    def vectors(self, embedder: Embedder) -> Float64[Tensor, "classes D"]:
        """Return a unit vector for each class, which distinguishes its words from the others'."""
        words = [one for several in self.descriptions.values() for one in several]
        filled = [template.format(one) for one in words for template in TEMPLATES]
        each = embedder.embed(embedder.encode(filled)).double()
        sizes = [len(several) * len(TEMPLATES) for several in self.descriptions.values()]
        means = torch.stack([part.mean(0) for part in each.split(sizes)])
        return _apart(F.normalize(means, dim=-1))


def adapted(
    classes: Float64[Tensor, "classes D"], texts: Float64[Tensor, "texts D"]
) -> Float64[Tensor, "classes D"]:
    """Move the vectors of classes halfway to the means of their texts.

    They are unchanged unless each class has at least `SPREAD` texts and half of an equal share,
    because k-means would split texts that are all of one class.

    Args:
        classes: unit vectors of the labels.
        texts: unit vectors of the texts.
    """
    counts = (texts @ classes.T).argmax(-1).bincount(minlength=len(classes))
    if counts.min() < max(SPREAD, len(texts) / len(classes) / 2):
        return classes
    moved = classes
    for _ in range(ROUNDS):
        weights = (SCALE * texts @ moved.T).softmax(-1)
        means = weights.T @ texts / weights.sum(0)[:, None]
        moved = F.normalize(classes + _apart(means), dim=-1)
    return moved


def _apart(vectors: Float64[Tensor, "classes D"]) -> Float64[Tensor, "classes D"]:
    """Subtract the mean vector from each vector, and normalize to unit length."""
    return F.normalize(vectors - vectors.mean(0), dim=-1)


@dataclass(frozen=True)
class LikelihoodClassifier(ZeroShotClassifier):
    """A zero-shot classifier by the likelihood of each label after a prompt with the text.

    The likelihood is divided by the likelihood after texts without content, because a model prefers
    some labels whatever the text is (Zhao et al. 2021, "Calibrate before use").
    """

    kinds: ClassVar = (CausalLM,)
    expected: ClassVar = Generator.expected

    def logits(
        self, texts: Sequence[str], *, progress: bool
    ) -> tuple[Float64[Tensor, "texts classes"], list[str]]:
        """Return the log-likelihood ratio of each text and class."""
        generator = Generator.of(self.loaded)
        words = [" or ".join(several) for several in self.descriptions.values()]
        start = generator.encode_plain(f"Labels: {', '.join(words)}\nText:")
        end = self.tokenizer.encode("\nLabel:")
        labels = self.tokenizer.encode_batch([f" {one}" for one in words])
        room = generator.context - len(start) - len(end) - max(map(len, labels))
        most = min(room, self.max_length or MAX_TOKENS)
        if most < 1:
            raise ConfigError(
                f"the labels leave no room for a text in the {generator.context} tokens that the "
                "model reads; expected fewer or shorter labels"
            )
        encoded = self.tokenizer.encode_batch([f" {one}" for one in [*texts, *NEUTRAL]])
        notes = [
            ""
            if len(ids) <= most
            else f"{len(ids):,} tokens, of which the model read the first {most:,}"
            for ids in encoded[: len(texts)]
        ]
        for row, text in enumerate(texts, start=1):
            if not text.strip():
                raise DataError(f"text {row} is empty: {quoted(text)}; expected a text")
        rows = self.run(
            [None],
            lambda _: continuation_log_likelihoods(
                self.model,
                [[*ids[:most], *end] for ids in encoded],
                labels,
                start=start,
                progress=progress,
            ),
            "",
            progress=False,
        )[0]
        return rows[: len(texts)] - rows[len(texts) :].mean(0), notes


def zero_shot_classifier(
    loaded: Loaded,
    labels: ClassNames,
    *,
    max_length: int | None = None,
    independent: bool = False,
) -> ZeroShotClassifier:
    """Return the zero-shot classifier for a model's kind.

    Args:
        loaded: an encoder without a head, or a causal language model.
        labels: see `read_labels`.
        max_length: maximum number of tokens of a text.
        independent: whether each text is classified by itself, even if there are many.

    Raises:
        ConfigError: the model is of another kind, or there are fewer than two labels.
    """
    descriptions = read_descriptions(labels)
    for kind in (EmbeddingClassifier, LikelihoodClassifier):
        if isinstance(loaded.model, kind.kinds):
            kind.check(loaded)
            return kind(loaded, descriptions, max_length, independent=independent)
    name, has_own = type(loaded.model).__name__, hasattr(loaded.model, "n_classes")
    raise ConfigError(
        f"the labels are for a model without classes, but this {name} "
        f"{'has its own' if has_own else 'is of another kind'}; expected no labels, or a model "
        "without classes: an encoder without a head, such as all-MiniLM-L6-v2, or a language model"
    )


def read_descriptions(labels: ClassNames) -> dict[str, tuple[str, ...]]:
    """Return the words for each class, by its name.

    Args:
        labels: names, such as "billing, delivery"; or names with words for them, such as "LOC=a
            place, NUM=a number|a date"; or a mapping of names to one description or several.

    Raises:
        ConfigError: there are fewer than two names, an empty one, or one that occurs twice.
    """
    if isinstance(labels, Mapping):
        pairs: list[tuple[str, Any]] = list(labels.items())
    else:
        parts = labels.split(",") if isinstance(labels, str) else list(labels)
        split = [part.partition("=") for part in parts]
        pairs = [(name, words.split("|") if sign else name) for name, sign, words in split]
    found = dict[str, tuple[str, ...]]()
    names = Counter(name.strip() for name, _ in pairs)
    for name, words in pairs:
        several = (words,) if isinstance(words, str) else tuple(words)
        found[name.strip()] = tuple(" ".join(one.replace("_", " ").split()) for one in several)
    shown = ", ".join(quoted(name, 40) for name in names)
    for name, several in found.items():
        if not name or not several or not all(several):
            raise ConfigError(
                f"the labels {shown} have an empty {'description' if name else 'name'}; expected "
                'words, such as "billing, delivery" or "LOC=a place, NUM=a number"'
            )
    if len(names) < 2:
        raise ConfigError(
            f"one label, {shown}; expected two or more, separated by commas, such as "
            '"billing, delivery, praise"'
        )
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(f"the label {quoted(twice[0], 40)} occurs twice; expected each once")
    return found
