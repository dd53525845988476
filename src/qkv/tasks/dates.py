"""Translation of written dates into ISO 8601: the tutorial's Transformer, trained by a recipe."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, ClassVar, Literal

from qkv.blocks.config import FeedForwardKind
from qkv.data.dates import LOCALES, date_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.generation.ranking import Beam
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks import translation
from qkv.tasks.commands import score_row
from qkv.tasks.pretrained import Loaded
from qkv.tasks.seq2seq import GREEDY, PairRecipe, Sizes
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Task
from qkv.tasks.train import TrainingBatches
from qkv.tasks.translation import TextPair, Translator
from qkv.training.settings import Training

DATA = DataConfig(train=("dates",))  # only a name: the dates are drawn


@dataclass(frozen=True, kw_only=True)
class Dates:
    """The built-in corpus of dates; see `qkv.data.dates`.

    Args:
        locales: names of the locales; all if empty.
        pairs: number of training pairs.
        held_out: number of validation pairs, and of test pairs.
        seed: random seed.
    """

    locales: list[str] = field(default_factory=list)
    pairs: int = 400_000
    held_out: int = 2_000
    seed: int = 1

    def draw(self, split: str) -> list[TextPair]:
        """Draw the (text, ISO) pairs of a split; no date is in two splits."""
        endless = date_pairs(self.locales or LOCALES, split=split, seed=self.seed)
        n_pairs = self.pairs if split == "train" else self.held_out
        return [(pair.text, pair.iso) for pair in islice(endless, n_pairs)]


@dataclass(frozen=True, kw_only=True)
class DateSizes(Sizes):
    """Sizes, and the kind and position of the norms.

    Args:
        norm: layer norm or RMS norm.
        norm_first: normalize the input of each sublayer, instead of its sum with the residual.
    """

    feed_forward: FeedForwardKind = "relu"
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = False

    def config(self, tokenizer: Tokenizer) -> TransformerConfig:
        """Return the model's configuration; both vocabularies are the tokenizer's."""
        size = tokenizer.vocab_size
        return TransformerConfig(source_vocab_size=size, target_vocab_size=size, **asdict(self))


@dataclass(frozen=True, kw_only=True)
class DateScores:
    """The fraction of dates that are exactly right."""

    count: int
    exact_match: float


class DateTranslator(Translator):
    """A translator that is scored by the fraction of dates that are exactly right."""

    def evaluate(  # type: ignore[override] # other scores
        self, examples: Sequence[TextPair], *, progress: bool = False
    ) -> DateScores:
        """Return the fraction of dates that are exactly right."""
        return DateScores(count=len(examples), exact_match=self.exact_match(examples))


@dataclass(frozen=True, kw_only=True)
class DatesRecipe(PairRecipe[DateTranslator]):
    """Train a Transformer (Vaswani et al. 2017) on dates, character by character.

    Args:
        dates: settings of the corpus.
        model: sizes of the model.
    """

    data: DataConfig = DATA
    training: Training = Training(steps=3_000, max_tokens=4_000, evaluate_every=500)
    dates: Dates = field(default_factory=Dates)
    model: DateSizes = DateSizes()
    max_length: int = 32
    beam: Beam = GREEDY

    metric: ClassVar = "exact match"
    hint: ClassVar = "qkv translate --model {} '4 July 1976'"

    def check(self) -> None:
        """Reject a base and other data."""
        super().check()
        if self.base is not None:
            raise ConfigError(f"base = {self.base}; expected null: dates train a new model")
        if self.data != DATA:
            raise ConfigError(
                "data is set, but the dates are drawn; expected its default, and which dates to "
                "draw in dates, such as --dates.pairs 1000"
            )

    def read(self, task: Task[Any, Any]) -> Splits[TextPair]:
        """Draw the dates."""
        draw = self.dates.draw
        return Splits(train=draw("train"), validation=draw("validation"), test=draw("test"))

    def build(self, splits: Splits[TextPair]) -> DateTranslator:
        """Build a model with one vocabulary of characters."""
        tokenizer = Tokenizer.train_characters(text for pair in splits.train for text in pair)
        model = Transformer(self.model.config(tokenizer))
        return DateTranslator(Loaded(model, tokenizer), max_length=self.max_length, beam=self.beam)

    def batches(self, pipeline: DateTranslator, splits: Splits[TextPair]) -> TrainingBatches:
        """Batch all pairs: a date has few characters."""
        length = -(-sum(len(text) for text, _ in splits.train) // len(splits.train))
        return TrainingBatches(pipeline.batches(splits.train, self.training.batching()), length)

    def metrics(self, scores: DateScores) -> dict[str, float]:
        """Return the fraction of dates that are exactly right."""
        return {self.metric: scores.exact_match}

    def facts(self, pipeline: DateTranslator) -> dict[str, Any]:
        """Return the fraction of test dates that are exactly right."""
        return {"test_exact_match": pipeline.exact_match(self.dates.draw("test"))}


TASK = replace(
    translation.TASK,
    name="dates",
    default="dates",
    pipeline=DateTranslator,
    recipe=DatesRecipe,
    predict=None,
    tables=lambda scores: {
        f"{scores.count:,} dates": [score_row("exact match, %", 100 * scores.exact_match, None)]
    },
    summary=lambda scores: f"exact match {scores.exact_match:.2%} of {scores.count:,} dates",
)
