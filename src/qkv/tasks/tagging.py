"""Token classification: entities in texts, such as names of people and places."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar, NamedTuple, Self

import torch.nn.functional as F
from torch import Tensor

from qkv.data.classification import evaluation_batches, tokens_at_once
from qkv.data.labels import Labels
from qkv.data.pretraining import MaskedExample, TokenBatch, token_batches
from qkv.data.tagging import TaggedSentence, read_tagged
from qkv.errors import ConfigError, DataError, LengthError
from qkv.evaluation.entities import EntityScores, entity_scores, spans
from qkv.json_fields import quoted
from qkv.models.heads import QuestionAnswering, TokenClassifier
from qkv.tasks.commands import Predict, score_row
from qkv.tasks.finetuning import load_with_head
from qkv.tasks.labels import classes_line, labels_of, percent
from qkv.tasks.outputs import remark
from qkv.tasks.pipeline import (
    Pipeline,
    check_positions,
    check_strings,
    longest_input,
    without_base_files,
)
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Tables, Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.training.settings import Training

# A combining mark, such as a separate accent, belongs to the letter before it.
WORD = re.compile(r"(?:\w[\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]*)+|[^\w\s]")
MAX_LENGTH = 512  # where neither the tokenizer's files nor the model have a limit


class Entity(NamedTuple):
    """An entity: its characters from `start` to `end`, and its kind."""

    text: str
    label: str
    start: int
    end: int


@dataclass(frozen=True)
class Tagging:
    """The entities of a text.

    Args:
        text: the text.
        entities: its entities, in order.
        note: remark for the reader, such as that the text was truncated.
    """

    text: str
    entities: tuple[Entity, ...]
    note: str = ""


@dataclass(frozen=True)
class Tagger(Pipeline[TaggedSentence, Tagging, EntityScores]):
    """A model that tags words; the first token of a word has its tag (Devlin et al. 2019, 5.3).

    Args:
        loaded: model and tokenizer; config.json names the tags.
        max_length: maximum number of tokens of a text; words beyond it have the tag O.

    Raises:
        ConfigError: `max_length` exceeds the model's positions.
    """

    max_length: int = MAX_LENGTH

    kinds: ClassVar = (TokenClassifier,)
    expected: ClassVar = "a model that was trained to tag words (qkv train tag trains one)"

    def __post_init__(self) -> None:
        """Check the length."""
        check_positions(self.model, "max_length", self.max_length)

    @classmethod
    def of(cls, loaded: Loaded, *, max_length: int | None = None) -> Self:
        """Build a tagger from a loaded model."""
        cls.check(loaded)
        if isinstance(loaded.model, QuestionAnswering):
            raise ConfigError(f"the model is a QuestionAnswering; expected {cls.expected}")
        if max_length is None:
            max_length = longest_input(loaded) or MAX_LENGTH
        return cls(loaded, max_length)

    @property
    def labels(self) -> Labels:
        """The names of the tags, in the order of the logits."""
        return labels_of(self.loaded)

    def encode(self, words: Sequence[str]) -> tuple[list[int], list[int | None]]:
        """Return the token ids of a sentence, and the position of each word's first token.

        Words beyond `max_length`, and words without tokens, have the position None.

        Raises:
            DataError: the sentence has no words, or none of them has a token.
            LengthError: `max_length` leaves no room for words.
        """
        if not words:
            raise DataError("a text has no words; expected at least one (is it empty?)")
        room = self.max_length - len(self.tokenizer.add_special_tokens([]).ids)
        if room < 1:
            raise LengthError(
                f"max_length = {self.max_length} leaves no room for words: the special tokens "
                f"around them take {self.max_length - room}"
            )
        ids, offsets = self.tokenizer.encode_with_offsets(" ".join(words))
        if not ids:
            raise DataError(f"a text has no tokens: {quoted(' '.join(words), 40)}")
        row = self.tokenizer.add_special_tokens(ids[:room])
        first = row.sequence.index(0)
        positions = first_tokens(words, offsets[:room])
        return row.ids, [None if i is None else first + i for i in positions]

    def tags(
        self, sentences: Sequence[Sequence[str]], *, progress: bool = False
    ) -> list[list[str]]:
        """Return the tag of each word of each sentence."""
        return self._tags([self.encode(words) for words in sentences], progress=progress)

    def _tags(
        self, encoded: Sequence[tuple[list[int], list[int | None]]], *, progress: bool
    ) -> list[list[str]]:
        batches = evaluation_batches(
            [ids for ids, _ in encoded],
            pad=self.tokenizer.filler,
            max_tokens=max(tokens_at_once(self.device), self.max_length),
        )

        def forward(batch: Any) -> list[list[int]]:
            moved = batch.to(self.device)
            return self.model(moved.tokens, token_mask=moved.token_mask).argmax(-1).tolist()

        names, best = self.labels.names, dict[int, list[int]]()
        results = self.run(batches, forward, "tagging", progress=progress)
        for batch, rows in zip(batches, results, strict=True):
            best.update(zip(batch.rows, rows, strict=True))
        return [
            ["O" if at is None else names[best[i][at]] for at in positions]
            for i, (_, positions) in enumerate(encoded)
        ]

    def predict(self, texts: Sequence[str], *, progress: bool = False) -> list[Tagging]:
        """Find the entities of texts, in their order.

        Raises:
            DataError: a text has no words.
        """
        check_strings(texts)
        words = [list(WORD.finditer(text)) for text in texts]
        encoded = [self.encode([word[0] for word in row]) for row in words]
        tags = self._tags(encoded, progress=progress)
        return [
            _tagging(text, row, row_tags, positions)
            for text, row, row_tags, (_, positions) in zip(texts, words, tags, encoded, strict=True)
        ]

    def evaluate(
        self, examples: Sequence[TaggedSentence], *, progress: bool = False
    ) -> EntityScores:
        """Score the tagger on sentences whose tags are known.

        Raises:
            DataError: there are no sentences.
        """
        tags = self.tags([one.tokens for one in examples], progress=progress)
        return entity_scores([one.tags for one in examples], tags)


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return the index of each word's first token; None for a word without tokens.

    Args:
        words: the words of a text, which joins them with single spaces.
        offsets: range of characters [start, end) of each token in the text.
    """
    starts = [0, *accumulate(len(word) + 1 for word in words)]
    positions: list[int | None] = [None] * len(words)
    k = 0  # the first word that may still begin
    for i, (start, end) in enumerate(offsets):
        while k < len(words) and starts[k] + len(words[k]) <= start:
            k += 1  # a word of which the tokenizer keeps nothing, such as a control character
        while k < len(words) and starts[k] < end:
            positions[k] = i
            k += 1
    return positions


def _tagging(
    text: str, words: list[re.Match[str]], tags: list[str], positions: list[int | None]
) -> Tagging:
    entities = list[Entity]()
    for span in spans(tags):
        start, end = words[span.start].start(), words[span.end - 1].end()
        entities.append(Entity(text[start:end], span.label, start, end))
    read = max((i for i, at in enumerate(positions, start=1) if at is not None), default=0)
    note = f"{len(words):,} words, of which the model read the first {read:,}"
    return Tagging(text, tuple(entities), note if read < len(words) else "")


@dataclass(frozen=True, kw_only=True)
class TaggingRecipe(Recipe[Tagger]):
    """Fine-tune an encoder to tag words.

    Args:
        max_length: maximum number of tokens of a sentence; longer sentences are truncated.
    """

    base: str | None = "all-MiniLM-L6-v2"
    data: DataConfig = DataConfig(train=("town_news",))
    # Devlin et al. 2019, appendix A.3: batches of 32, 2 to 4 epochs; a rate for a small model.
    training: Training = Training(
        epochs=4.0, batch_size=32, learning_rate=3e-4, schedule="linear", betas=(0.9, 0.999)
    )
    max_length: int = 128

    metric: ClassVar = "F1"
    unit: ClassVar = "words"
    hint: ClassVar = "qkv tag --model {} 'a text'"
    new_head: ClassVar = True

    def remarks(self, splits: Splits[TaggedSentence]) -> list[str]:
        """Return the tags, and how often each occurs."""
        return [classes_line(Counter(tag for one in splits.train for tag in one.tags))]

    def build(self, splits: Splits[TaggedSentence]) -> Tagger:
        """Put a new head on the base."""
        labels = Labels.of(tag for one in splits.train for tag in one.tags)
        pretrained = self.finetuning.train != "scratch"
        loaded = load_with_head(
            self.base or "", TokenClassifier, pretrained=pretrained, labels=labels.names
        )
        other = ("problem_type", "num_labels", "_num_labels")
        return Tagger(
            without_base_files(loaded, other, model_max_length=self.max_length), self.max_length
        )

    def batches(self, pipeline: Tagger, splits: Splits[TaggedSentence]) -> TrainingBatches:
        """Encode the training sentences; words beyond the maximum length have no targets."""
        rows, labels = list[MaskedExample](), pipeline.labels
        for one in splits.train:
            ids, positions = pipeline.encode(one.tokens)
            tagged = [
                (at, labels.number(tag))
                for at, tag in zip(positions, one.tags, strict=True)
                if at is not None
            ]
            rows.append((ids, [at for at, _ in tagged], [number for _, number in tagged]))
        batches = token_batches(
            rows, pad=pipeline.tokenizer.filler, batching=self.training.batching()
        )
        return TrainingBatches(batches, -(-sum(len(ids) for ids, _, _ in rows) // len(rows)))

    def loss(self, model: TokenClassifier, batch: TokenBatch) -> Tensor:
        """Return the sum of the cross-entropies of the words' tags."""
        logits = model(batch.tokens, token_mask=batch.token_mask).flatten(0, 1)[batch.positions]
        smoothing = self.training.smoothing
        return F.cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=smoothing)

    def metrics(self, scores: EntityScores) -> dict[str, float]:
        """Return entity F1 and token accuracy."""
        return {"F1": scores.f1, "token accuracy": scores.token_accuracy}


@dataclass(frozen=True, kw_only=True)
class Tag(Predict[Tagger]):
    """Options of `qkv tag`."""

    inputs: ClassVar = "the texts to tag, one per argument"

    def line(self, prediction: Tagging) -> str:
        """Return the entities in one line: LABEL and text, separated by tabs."""
        remark(prediction.text, prediction.note)
        return "\t".join(
            f"{one.label}: {' '.join(one.text.split())}" for one in prediction.entities
        )


def entity_tables(scores: EntityScores) -> Tables:
    """Return the scores as tables."""
    low, high = scores.f1_interval
    return {
        f"{scores.count:,} sentences, {scores.entities:,} entities": [
            score_row("F1, %", 100 * scores.f1, (100 * low, 100 * high)),
            score_row("precision, %", 100 * scores.precision, None),
            score_row("recall, %", 100 * scores.recall, None),
            score_row("token accuracy, %", 100 * scores.token_accuracy, None),
            score_row("token accuracy of the most frequent tag, %", 100 * scores.majority, None),
        ],
        "kinds": [
            {
                "kind": one.label,
                "precision": percent(one.precision),
                "recall": percent(one.recall),
                "F1": percent(one.f1),
                "entities": f"{one.support:,}",
            }
            for one in scores.labels
        ],
    }


def entity_line(scores: EntityScores) -> str:
    """Return the scores as one line."""
    low, high = scores.f1_interval
    return (
        f"entity F1 {scores.f1:.2%} (95 %: {low:.2%} to {high:.2%}) of {scores.entities:,} "
        f"entities in {scores.count:,} sentences; token accuracy {scores.token_accuracy:.2%} (most "
        f"frequent tag: {scores.majority:.2%})"
    )


TASK = Task(
    name="tag",
    default="tagger",
    pipeline=Tagger,
    recipe=TaggingRecipe,
    predict=Tag,
    columns={},
    example=TaggedSentence,
    tables=entity_tables,
    summary=entity_line,
    read=lambda source, problems: read_tagged(source, problems=problems),
    group=lambda sentence: " ".join(sentence.tokens),
)
