"""Translators: texts to texts, by a model with an encoder and a decoder."""

import os
from collections.abc import Sequence
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
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
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
from qkv.tasks.reranking import NONE as NO_REVERSE
from qkv.tasks.reranking import Reverse, with_reverse
from qkv.tasks.seq2seq import (
    GREEDY,
    PLAIN,
    Alignment,
    Seq2SeqDecoder,
)
from qkv.tasks.sources import Choice, Part, Source, choose, note_on, read_source
from qkv.tasks.translate import (
    Candidate,
    Translation,
)

TextPair = tuple[str, str]  # source, target
USUAL_LENGTH = 256  # tokens of a translation, if the model's files have no limit
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
        reverse: a translator of the opposite direction that reranks the candidates of the beam;
            None: no reranking.

    Raises:
        ConfigError: the model is of another kind, or `max_length` is below 1.
    """

    target: Tokenizer = None  # type: ignore[assignment] # set from `loaded` where None
    max_length: int = USUAL_LENGTH
    limit: int | None = None
    beam: Beam = GREEDY
    decoding: Decoding = PLAIN
    copying: Copying | None = None
    reverse: Reverse | None = None

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
        reverse: str | None = None,
    ) -> Self:
        """Build a translator from a loaded model.

        Args:
            loaded: model and tokenizer.
            beam: how to search, or the beam size; default: from the model's files, else greedy.
            max_length: maximum number of tokens; default: from the files, else 256.
            n_best: number of candidates, at most the beam size; default: the beam's own.
            reverse: model of the opposite direction that reranks the candidates, or "none";
                default: from the files. A beam of 1 cannot be reranked.

        Raises:
            ConfigError: the model is of another kind, or its files request unsupported features.
            DataError: there is no such reverse model.
        """
        cls.check(loaded)
        decoding = read_decoding(loaded)
        beam = choose_beam(decoding, beam)
        if beam.size == 1 and reverse not in (None, NO_REVERSE):
            raise ConfigError(
                f"reverse = {reverse!r} with a beam of 1, which finds one candidate; expected a "
                "larger beam to choose from"
            )
        return cls(
            loaded,
            max_length=decoding.limits(1, usual=USUAL_LENGTH, most=max_length).most,
            limit=longest_input(loaded),
            beam=beam if n_best is None else replace(beam, n_best=n_best),
            decoding=decoding,
            copying=Copying.read(loaded.files[COPYING]) if COPYING in loaded.files else None,
            reverse=Reverse.named(reverse, loaded, cls) if beam.size > 1 else None,
        )

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write model, tokenizer and decoding settings in the Hugging Face layout.

        Only the name of a reverse model is written.

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
        loaded = with_reverse(loaded, self.reverse)
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
        """Return training batches of encoded pairs; `vary` resegments the words at random."""
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
            DataError: a text is empty or not a string.
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
        """Translate parts; a part that loses a stand-in is translated again without stand-ins."""
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
        """Translate a text, and record the attention of one pass over source and translation.

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
        """The decoder; it returns all hypotheses if one is chosen by copying or reranking."""
        start, beam, rank = self.decoding.start, self.beam, None
        if self.copying is not None or self.reverse is not None:
            beam = replace(beam, n_best=beam.size)
        if self.reverse is not None:
            rank = partial(self.reverse.rank, (self.tokenizer, self.target))
        return Seq2SeqDecoder(
            pad=self.tokenizer.pad,
            start=self.target.start if start is None else start,
            stops=self.decoding.stops or (self.target.stop,),
            max_length=self.max_length,
            beam=beam,
            decoding=self.decoding,
            rank=rank,
        )
