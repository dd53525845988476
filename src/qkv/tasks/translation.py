"""Translation: recipes that train translators, and the task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from qkv.data.copying import Copying
from qkv.data.subword_dropout import SubwordDropout
from qkv.data.text import read_aligned
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.tasks.pretrained import Loaded
from qkv.tasks.seq2seq import (
    PairRecipe,
)
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Task
from qkv.tasks.train import TrainingBatches
from qkv.tasks.translate import (
    Translate,
    translation_line,
    translation_tables,
)
from qkv.tasks.translator import TextPair, Translator
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.settings import Training


@dataclass(frozen=True, kw_only=True)
class TranslationRecipe(PairRecipe[Translator]):
    """Train a model to translate, from random weights or from a base.

    Args:
        model: kind and sizes of a model without a base.
        vocab_size: number of subwords of a model without a base, for both languages together.
        lowercase: lowercase all texts of a model without a base.
        copying: replace names and numbers by stand-ins, which are copied (`Copying`). A base that
            already does so keeps doing so.
        subword_dropout: probability of skipping a BPE merge, drawn anew each time that a sentence
            is in a batch (Provilkov et al. 2020), such as 0.03; for long trainings.
        both_ways: also learn the opposite direction, which initializes either (Ding et al. 2021,
            https://arxiv.org/abs/2109.07780).
    """

    data: DataConfig = DataConfig(train=("tatoeba",), validation_fraction=0.02)
    training: Training = Training(
        steps=10_000, max_tokens=4_000, smoothing=0.1, evaluate_every=1_000
    )
    model: TranslatorSizes = TranslatorSizes()
    vocab_size: int = 8_000
    lowercase: bool = False
    copying: bool = False
    subword_dropout: float = 0.0
    both_ways: bool = False

    metric: ClassVar = "chrF"  # BLEU is 0 if no 4-gram matches
    sizes: ClassVar = ("model", "vocab_size", "lowercase")

    def build(self, splits: Splits[TextPair]) -> Translator:
        """Train a tokenizer and build a new model, or load the base."""
        if self.base is not None:
            translator = Translator.load(
                self.base, beam=self.beam, max_length=self.max_length, reverse="none"
            )
            if translator.limit is not None and self.max_length > translator.limit:
                raise ConfigError(
                    f"max_length = {self.max_length}, but {self.base} reads at most "
                    f"{translator.limit} tokens; expected at most that many"
                )
            if translator.copying is not None:
                return replace(translator, copying=translator.copying.extended(splits.train))
            return replace(translator, copying=self._copying(splits.train))
        copying = self._copying(splits.train)
        tokenizer = Tokenizer.train_bpe(
            (text for pair in self._pairs(splits.train, copying) for text in pair),
            self.vocab_size,
            lowercase=self.lowercase,
        )
        longest = self.max_length
        loaded = Loaded(self.model.build(tokenizer.vocab_size, longest), tokenizer)
        return Translator(
            loaded, max_length=longest, limit=longest, beam=self.beam, copying=copying
        )

    def _copying(self, pairs: Sequence[TextPair]) -> Copying | None:
        """Learn which words are copied; the columns of a named set are its languages."""
        columns = [self.data.columns.get(role, role) for role in ("source", "target")]
        return Copying.learn(pairs, *columns) if self.copying else None

    def _pairs(self, pairs: Sequence[TextPair], copying: Copying | None) -> Sequence[TextPair]:
        """Return the pairs to train on: with stand-ins, and in both directions."""
        back = [(target, source) for source, target in pairs] if self.both_ways else []
        if copying is not None:
            pairs = copying.mask_pairs(pairs)
            back = Copying.learn(back, copying.target, copying.source).mask_pairs(back)
        return [*pairs, *back]

    def batches(self, pipeline: Translator, splits: Splits[TextPair]) -> TrainingBatches:
        """Batch the pairs that are not too long."""
        pairs = pipeline.encode(self._pairs(splits.train, pipeline.copying))
        # One more token for the start, or the end.
        kept = [pair for pair in pairs if max(map(len, pair)) < self.max_length]
        if not kept:
            text = (
                f"max_length = {self.max_length} tokens leaves no pair to train on; expected more"
            )
            raise DataError(text)
        left_out = len(pairs) - len(kept)
        note = f"{left_out:,} pairs of more than {self.max_length} tokens are left out"
        length = -(-sum(max(map(len, pair)) for pair in kept) // len(kept))
        rate, most = self.subword_dropout, self.max_length - 1
        vary = SubwordDropout.of(pipeline.tokenizer, rate, most) if rate else None
        batches = pipeline.batch(kept, self.training.batching(), vary)
        return TrainingBatches(batches, length, (note,) if left_out else ())

    def validator(
        self, pipeline: Translator, splits: Splits[TextPair]
    ) -> Callable[[nn.Module], dict[str, float]]:
        """Score the validation split, without confidence intervals."""
        return lambda _: pipeline.evaluate(splits.validation, samples=2).named


TASK = Task(
    name="translate",
    default="translator-en-de",
    pipeline=Translator,
    recipe=TranslationRecipe,
    predict=Translate,
    columns={"source": "source", "target": "target"},
    example=lambda source, target: (source, target),
    tables=translation_tables,
    summary=translation_line,
    read=lambda source, problems: read_aligned(source),
    group=lambda pair: pair[0],
)
