"""Translation: texts to texts, by a model with an encoder and a decoder."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import ClassVar, Self

from torch import nn

from qkv.data.batches import Batches, Batching, PairBatch, pair_batches
from qkv.data.copying import FILE_NAME as COPYING
from qkv.data.copying import Copying
from qkv.data.sentences import split_text
from qkv.data.subword_dropout import SubwordDropout
from qkv.data.text import read_aligned
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.evaluation.exact_match import exact_match
from qkv.evaluation.translation import TranslationScores, translation_scores
from qkv.generation.decoding import Decoding
from qkv.generation.ranking import Beam
from qkv.generation.stepping import check_max_length
from qkv.models.encoder_decoder import EncoderDecoder
from qkv.models.modes import evaluating
from qkv.models.rnn import RNNSeq2Seq
from qkv.tasks.decoding import choose_beam, read_decoding, with_decoding
from qkv.tasks.pipeline import Pipeline, check_strings, longest_input
from qkv.tasks.pretrained import Loaded, save
from qkv.tasks.seq2seq import (
    GREEDY,
    PLAIN,
    Alignment,
    PairRecipe,
    Seq2SeqDecoder,
)
from qkv.tasks.sources import Choice, Part, Source, choose, note_on, read_source
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.task import Task
from qkv.tasks.train import TrainingBatches
from qkv.tasks.translate import (
    Candidate,
    Translate,
    Translation,
    translation_line,
    translation_tables,
)
from qkv.tasks.translator_sizes import TranslatorSizes
from qkv.training.settings import Training

TextPair = tuple[str, str]  # source, target
USUAL_LENGTH = 256  # tokens of a translation, where the model's files have no limit
ROWS = 256  # maximum batch size, counting beam hypotheses


@dataclass(frozen=True)
class Translator(Pipeline[TextPair, Translation, TranslationScores]):
    """A translator.

    Args:
        loaded: model and tokenizer.
        target: tokenizer of the translations; default: the tokenizer's own target side.
        max_length: maximum number of tokens of a translation.
        limit: maximum number of tokens of an input; a longer text is split between sentences, and
            a longer sentence is truncated. None: no limit.
        beam: beam size and length penalty; greedy by default.
        decoding: other settings of the model; start and stop default to those of the tokenizer.
        copying: names and numbers that are copied, not translated; None: the model sees all words.

    Raises:
        ConfigError: the model is of another kind, or `max_length` is below 1.
    """

    target: Tokenizer = None  # type: ignore[assignment] # set from `loaded` where None
    max_length: int = USUAL_LENGTH
    limit: int | None = None
    beam: Beam = GREEDY
    decoding: Decoding = PLAIN
    copying: Copying | None = None

    kinds: ClassVar = (EncoderDecoder, RNNSeq2Seq)
    expected: ClassVar = (
        "a model that turns one text into another, with encoder, decoder and output layer (qkv "
        "train tatoeba trains one)"
    )

    def __post_init__(self) -> None:
        """Check the model and the length."""
        self.check(self.loaded)
        check_max_length(self.max_length)
        if self.target is None:
            object.__setattr__(self, "target", self.tokenizer.target)

    @classmethod
    def check(cls, loaded: Loaded) -> None:
        """Check the kind of the model, and that it has its output layer."""
        super().check(loaded)
        if isinstance(loaded.model.head, nn.Identity):
            raise ConfigError(
                f"the model is a {type(loaded.model).__name__} without an output layer; expected "
                f"{cls.expected}"
            )

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        *,
        beam: Beam | int | None = None,
        max_length: int | None = None,
        n_best: int | None = None,
    ) -> Self:
        """Make a translator of what `qkv.load` returned.

        Args:
            loaded: model and tokenizer.
            beam: how to search, or the beam size; default: as the model's files say, else greedy.
            max_length: maximum number of tokens; default: as the files say, else 256.
            n_best: number of candidates, at most the beam size; default: the beam's own.

        Raises:
            ConfigError: the model is of another kind, or its files ask for what is not implemented.
        """
        cls.check(loaded)
        decoding = read_decoding(loaded)
        beam = choose_beam(decoding, beam)
        return cls(
            loaded,
            max_length=decoding.limits(1, usual=USUAL_LENGTH, most=max_length).most,
            limit=longest_input(loaded),
            beam=beam if n_best is None else replace(beam, n_best=n_best),
            decoding=decoding,
            copying=Copying.read(loaded.files[COPYING]) if COPYING in loaded.files else None,
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model, tokenizer and decoding settings in the Hugging Face layout.

        Raises:
            ConfigError: there are two tokenizers, or the files cannot express model or beam.
        """
        if self.target is not self.tokenizer.target:
            raise ConfigError(
                "this translator has one tokenizer for its inputs and another for its outputs, but "
                "a folder has one: train a single tokenizer on both languages"
            )
        beam = replace(self.beam, n_best=1)
        loaded = with_decoding(self.loaded, beam, self.max_length, usual=USUAL_LENGTH)
        if self.copying is not None:
            loaded = replace(loaded, extra={**loaded.extra, COPYING: self.copying.file})
        save(loaded, folder)

    def batches(self, pairs: Sequence[TextPair], batching: Batching) -> Batches[PairBatch]:
        """Return training batches of (source, target) pairs."""
        return self.batch(self.encode(pairs), batching)

    def encode(self, pairs: Sequence[TextPair]) -> list[tuple[list[int], list[int]]]:
        """Return the token ids of (source, target) pairs; targets lack start and stop."""
        sources = self.tokenizer.encode_batch(source for source, _ in pairs)
        targets = self.target.encode_batch(target for _, target in pairs)
        wrapped = (self.tokenizer.add_special_tokens(ids).ids for ids in sources)
        return list(zip(wrapped, targets, strict=True))

    def batch(
        self,
        pairs: Sequence[tuple[list[int], list[int]]],
        batching: Batching,
        vary: SubwordDropout | None = None,
    ) -> Batches[PairBatch]:
        """Return training batches of what `encode` returned; `vary` segments them differently."""
        return pair_batches(
            pairs,
            pad=self.target.pad,
            start=self.decoder.start,
            stop=self.decoder.stops[0],
            batching=batching,
            vary=vary,
        )

    def predict(
        self, texts: Sequence[str], *, rows: int = ROWS, progress: bool = False
    ) -> list[Translation]:
        """Translate texts, in their order.

        Args:
            texts: the texts.
            rows: maximum batch size, counting beam hypotheses.
            progress: show a progress bar on standard error.

        Raises:
            DataError: a text is empty or no string.
        """
        check_strings(texts)
        sources = [read_source(text, self.tokenizer, self.limit, self.copying) for text in texts]
        parts = [part for source in sources for part in source.parts]
        choices = iter(self._choices(parts, rows, progress))
        return [
            self._translation(text, list(islice(choices, len(source.parts))), source)
            for text, source in zip(texts, sources, strict=True)
        ]

    def _choices(self, parts: Sequence[Part], rows: int, progress: bool) -> list[Choice]:
        """Translate parts; one that loses a stand-in is translated again as it was written."""
        choices = self._decode(parts, rows, progress)
        plain = {i: self._plain(parts[i]) for i, one in enumerate(choices) if not one.complete}
        again = {i: part for i, part in plain.items() if part is not None}
        if again and self.copying is not None:
            found = self._decode(list(again.values()), rows, progress)
            for i, choice in zip(again, found, strict=True):
                text, values = choice.texts[0], parts[i].values.values()
                lost = [v for v in values if v not in text and self.copying.written(v) not in text]
                choices[i] = replace(choice, lost=tuple(lost))
        return choices

    def _decode(self, parts: Sequence[Part], rows: int, progress: bool) -> list[Choice]:
        decoder, decode = self.decoder, self.target.decode
        if self.copying is not None:  # choose among all that the search has found
            decoder = replace(decoder, beam=replace(self.beam, n_best=self.beam.size))
        with evaluating(self.model):
            found = decoder(self.model, [p.tokens for p in parts], rows=rows, progress=progress)
        return [
            choose(part, answers, [decode(one.text) for one in answers], self.copying)
            for part, answers in zip(parts, found, strict=True)
        ]

    def _plain(self, part: Part) -> Part | None:
        """Return a part without stand-ins; None if it had none, or is too long without them."""
        split = split_text(part.text, self.tokenizer, self.limit)
        short = len(split.pieces) == 1 and not split.cut
        return Part(part.text, split.pieces[0]) if part.values and short else None

    def _translation(self, text: str, choices: Sequence[Choice], source: Source) -> Translation:
        """Join the translations of a text's parts."""
        n_best = min(self.beam.n_best, *(len(one.texts) for one in choices))
        candidates = [
            Candidate(
                " ".join(one.texts[k] for one in choices), sum(one.scores[k] for one in choices)
            )
            for k in range(n_best)
        ]
        best = candidates[0]
        return Translation(text, best.translation, best.score, candidates, note_on(source, choices))

    def exact_match(self, pairs: Sequence[TextPair]) -> float:
        """Return the fraction of sources whose translation is exactly the target."""
        translations = self.predict([source for source, _ in pairs])
        return exact_match(list(map(str, translations)), [target for _, target in pairs])

    def evaluate(
        self,
        examples: Sequence[TextPair],
        *,
        progress: bool = False,
        tokenizer: str = "13a",
        samples: int = 1_000,
    ) -> TranslationScores:
        """Score translations; `tokenizer` and `samples` are those of `translation_scores`."""
        translations = self.predict([source for source, _ in examples], progress=progress)
        targets = [target for _, target in examples]
        return translation_scores(
            list(map(str, translations)), targets, tokenizer=tokenizer, samples=samples
        )

    def align(self, text: str, *, layers: Sequence[str] | None = None) -> Alignment:
        """Translate a text, and record the attention of one pass over both.

        Args:
            text: the source; only its first part if it has to be split.
            layers: names of the attention modules to record; None: all.
        """
        part = read_source(text, self.tokenizer, self.limit, self.copying).parts[0]
        output, weights = self.decoder.record(self.model, part.tokens, layers)
        tokens, others = self.tokenizer.tokens(part.tokens), self.target.tokens(output)
        if self.copying is not None:
            restore = partial(self.copying.restore, translated=False)
            tokens = [restore(token, part.values) for token in tokens]
            others = [self.copying.restore(token, part.values) for token in others]
        return Alignment(tokens, others, weights)

    @property
    def decoder(self) -> Seq2SeqDecoder:
        """How tokens are decoded."""
        start = self.decoding.start
        return Seq2SeqDecoder(
            pad=self.tokenizer.pad,
            start=self.target.start if start is None else start,
            stops=self.decoding.stops or (self.target.stop,),
            max_length=self.max_length,
            beam=self.beam,
            decoding=self.decoding,
        )


@dataclass(frozen=True, kw_only=True)
class TranslationRecipe(PairRecipe[Translator]):
    """Train a model to translate, from random weights or from a base.

    Args:
        model: kind and sizes of a model without a base.
        vocab_size: number of subwords of a model without a base, for both languages together.
        lowercase: lowercase all texts of a model without a base.
        copying: replace names and numbers by stand-ins, which are copied (`Copying`). A base that
            does so already goes on doing so.
        subword_dropout: probability that a merge of BPE does not happen, drawn anew each time that
            a sentence is in a batch (Provilkov et al. 2020); 0.03 suits small data sets.
        both_ways: learn the opposite direction, too, as a start for either (Ding et al. 2021,
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

    metric: ClassVar = "chrF"  # BLEU is 0 where no text has four words in common
    sizes: ClassVar = ("model", "vocab_size", "lowercase")

    def build(self, splits: Splits[TextPair]) -> Translator:
        """Train a tokenizer and build a new model, or load the base."""
        if self.base is not None:
            translator = Translator.load(self.base, beam=self.beam, max_length=self.max_length)
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
        """Learn what is copied; a named set has its languages as columns."""
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
