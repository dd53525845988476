"""Summarization: a model that reads a text and writes, or copies, what it is about."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from qkv.data.batches import Batches, Batching, pair_batches
from qkv.data.classification import encode_texts
from qkv.data.summaries import Summarized
from qkv.data.summary_batches import SummaryBatch, summary_batches
from qkv.errors import ConfigError
from qkv.evaluation.summarization import SummaryScores, summary_scores
from qkv.files import whole_folder
from qkv.generation.decoding import Decoding
from qkv.generation.processors import forbid_tokens
from qkv.generation.ranking import Beam
from qkv.inference.optimize import Choice
from qkv.models.bart import Bart
from qkv.models.modes import evaluating
from qkv.models.pointer_generator import PointerGenerator
from qkv.models.t5 import T5
from qkv.tasks.decoding import (
    DecodingConfig,
    read_summary_decoding,
    with_summary_decoding,
)
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.frozen_encoder import (
    DECODER_FILE,
    DecoderConfig,
    frozen_features,
    join_decoder,
    new_decoder,
    write_decoder,
)
from qkv.tasks.inputs import pick_device
from qkv.tasks.pipeline import Pipeline, check_positions, check_strings
from qkv.tasks.pretrained import Loaded, load, locate, save
from qkv.tasks.prose import (
    DEFAULT,
    METHODS,
    Summary,
    check_settings,
    lead_summarizer,
    method_of,
    prose_summarizer,
)
from qkv.tasks.seq2seq import PLAIN, Seq2SeqDecoder
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.summarize import Summarize, summary_line, summary_tables
from qkv.tasks.task import Task
from qkv.tasks.train import Recipe, RunFolder, TrainingBatches
from qkv.training.losses import pair_loss, summary_loss
from qkv.training.run import Callback
from qkv.training.settings import Training

ROWS = 64  # maximum batch size, counting beam hypotheses
SEQ2SEQ = (Bart, T5)
# Validation texts: for how many the likelihood is computed, and how many choose the penalty.
WATCHED, CHOOSING = 1_000, 300
PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class Summarizer(Pipeline[Summarized, Summary, SummaryScores]):
    """A model that writes summaries.

    Args:
        loaded: model and tokenizer.
        config: how summaries are decoded.
        decoding: other decoding settings, of a published model.

    Raises:
        ConfigError: texts are longer than the model's positions.
    """

    config: DecodingConfig = DecodingConfig()
    decoding: Decoding = PLAIN

    method: ClassVar = "model"
    kinds: ClassVar = (PointerGenerator, *SEQ2SEQ)
    expected: ClassVar = (
        "a model that writes summaries: a PointerGenerator (qkv train summarize_docstrings trains "
        "one), BART or T5; or a method for the model: extract for an encoder without a head, "
        "abstract for a language model"
    )

    def __post_init__(self) -> None:
        """Check the length."""
        check_positions(self.model, "max_source", self.config.max_source)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, method: str | None = None, **settings: Any
    ) -> Any:
        """Load a model; the method "lead" needs none, and its path is ""; see `of`."""
        if method != "lead":
            return super().load(path, method=method, **settings)
        if path:
            raise ConfigError(f"the method lead with the model {path}; expected no model")
        return lead_summarizer(settings)

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str | None,
        dtype: Choice | None,
        allow_download: bool,
    ) -> Loaded:
        """Read a model, or a decoder with the encoder that it names."""
        folder = whole_folder(locate(path))
        options = {"device": device, "allow_download": allow_download}
        if (folder / DECODER_FILE).is_file():
            return join_decoder(folder, **options)
        return load(path, dtype=dtype or torch.float32, **options)

    @classmethod
    def of(
        cls,
        loaded: Loaded,
        *,
        method: str | None = None,
        sentences: int | None = None,
        beam: int | None = None,
        **settings: Any,
    ) -> Any:
        """Build a summarizer from a loaded model.

        Args:
            loaded: model and tokenizer.
            method: "model" for a model that was trained to summarize, "extract" for an encoder
                without a head, "abstract" for a language model; None: by the kind of model.
            sentences: maximum number of sentences of a summary, for the methods without training.
            beam: beam size; default: the model's own.
            settings: other fields of `DecodingConfig`; default: the model's own.

        Raises:
            ConfigError: the model is of another kind, or its files request unsupported features.
        """
        method = method_of(loaded.model) if method is None else method
        check_settings(method, sentences=sentences, beam=beam)
        if method != "model":
            return prose_summarizer(loaded, method, sentences, settings)
        cls.check(loaded)
        known, decoding = read_summary_decoding(loaded, chosen=beam is not None)
        settings = settings if beam is None else {**settings, "beam": beam}
        return cls(loaded, DecodingConfig(**{**known, **settings}), decoding)

    @classmethod
    def fresh(
        cls,
        base: str | os.PathLike[str],
        config: DecodingConfig = DecodingConfig(),
        decoder: DecoderConfig = DecoderConfig(),
    ) -> Self:
        """Put a new decoder on a pretrained BERT, which is frozen, in float32.

        Args:
            base: a checkpoint's folder, the name of a shipped model, or an id of the Hub.
            config: how summaries are decoded; saved with the model.
            decoder: sizes of the decoder.

        Raises:
            ConfigError: the base is not a BERT, or has no tokenizer.
        """
        return cls(new_decoder(base, decoder), config).noted()

    def noted(self) -> Self:
        """Return a summarizer whose config.json has the decoding settings."""
        return replace(self, loaded=with_summary_decoding(self.loaded, self.config))

    def predict(self, texts: Sequence[str], *, progress: bool = False) -> list[Summary]:
        """Summarize texts, in their order.

        Raises:
            DataError: a text is empty.
        """
        check_strings(texts)
        if not texts:
            return []
        sources, longest = self.encode(texts), self.config.max_source
        with evaluating(self.model):
            answers = self.decoder(self.model, sources.ids, rows=ROWS, progress=progress)
        return [
            Summary(text, self.tokenizer.decode(best.text).strip(), best.score, length > longest)
            for text, length, (best, *_) in zip(texts, sources.lengths, answers, strict=True)
        ]

    def evaluate(self, examples: Iterable[Summarized], *, progress: bool = False) -> SummaryScores:
        """Score the summaries of texts against all reference summaries.

        Raises:
            DataError: there are no texts.
        """
        examples = list(examples)
        summaries = self.predict([one.text for one in examples], progress=progress)
        references = [one.summaries for one in examples]
        return summary_scores([one.summary for one in summaries], references)

    def encode(self, texts: Sequence[str]) -> Any:
        """Return the texts as `EncodedTexts`, each truncated to `max_source`."""
        whole = [self.config.prefix + text for text in texts]
        return encode_texts(self.tokenizer, whole, max_length=self.config.max_source)

    @property
    def decoder(self) -> Seq2SeqDecoder:
        """The decoding settings, ready for the model."""
        rules, beam = self.decoding, Beam(size=self.config.beam)
        stops = rules.stops or (self.tokenizer.stop,)
        special = sorted(self.tokenizer.special_ids - set(stops))
        if not isinstance(self.model, PointerGenerator):
            beam = replace(rules.beam, size=self.config.beam)
        return Seq2SeqDecoder(
            pad=self.tokenizer.pad,
            start=self.tokenizer.start if rules.start is None else rules.start,
            stops=stops,
            max_length=self.config.max_length,
            beam=replace(beam, length_penalty=self.config.length_penalty),
            decoding=rules,
            first=(forbid_tokens(special, self.tokenizer.vocab_size),),
        )

    def batches(self, examples: Sequence[Summarized], batching: Batching) -> Batches[Any]:
        """Return batches of texts and their first reference summaries.

        With a frozen encoder, they contain its outputs instead of the texts.
        """
        sources = self.encode([one.text for one in examples]).ids
        summaries = self.tokenizer.encode_batch([one.summaries[0] for one in examples])
        decoder, most = self.decoder, self.config.max_length - 1
        pad, start, stop = decoder.pad, decoder.start, decoder.stops[0]
        if not isinstance(self.model, PointerGenerator):
            pairs = [(s, t[:most]) for s, t in zip(sources, summaries, strict=True)]
            return pair_batches(pairs, pad=pad, start=start, stop=stop, batching=batching)
        features = frozen_features(self.model, sources, pad=pad, device=self.device)
        targets = [[*ids[:most], stop] for ids in summaries]
        return summary_batches(features, sources, targets, pad=pad, start=start, batching=batching)


@dataclass(frozen=True, kw_only=True)
class SummarizationRecipe(Recipe[Summarizer]):
    """Train a summarizer: a new decoder on a frozen BERT, or fine-tune a BART or T5.

    The best weights are those that make the validation summaries most likely; then the length
    penalty with the highest ROUGE is chosen.

    Args:
        decoder: sizes of the new decoder on a BERT.
        decoding: how summaries are decoded; settings left at their defaults do not override those
            of a BART or T5.
    """

    base: str | None = "all-MiniLM-L6-v2"
    data: DataConfig = DataConfig(train=("docstrings",))
    training: Training = Training(epochs=8.0, max_tokens=4_000, learning_rate=1e-3, warmup=0.05)
    decoder: DecoderConfig = DecoderConfig()
    decoding: DecodingConfig = DecodingConfig()

    metric: ClassVar = "log-likelihood per token"
    hint: ClassVar = "qkv summarize --model {} 'a text'"
    new_head: ClassVar = True
    batched_by: ClassVar = "max_tokens"
    smooths: ClassVar = False

    def check(self) -> None:
        """Reject random weights."""
        super().check()
        if self.finetuning.train == "scratch":
            raise ConfigError(
                "finetuning.train = scratch; expected another value: summarizers start from a base"
            )

    def build(self, splits: Splits[Summarized]) -> Summarizer:
        """Put a new decoder on the base, or load a base that has a decoder.

        Raises:
            ConfigError: fields that have no meaning for this base.
        """
        base = self.base or ""
        loaded = load(base, dtype=torch.float32)
        if not isinstance(loaded.model, SEQ2SEQ):
            self._refuse("finetuning", FineTuning(), "it stays frozen under a new decoder")
            return Summarizer.fresh(base, self.decoding, self.decoder)
        self._refuse("decoder", DecoderConfig(), "it has its own decoder")
        default = vars(DecodingConfig())
        changed = {name: v for name, v in vars(self.decoding).items() if v != default[name]}
        return Summarizer.of(loaded, **changed)

    def _refuse(self, name: str, default: object, why: str) -> None:
        if getattr(self, name) != default:
            raise ConfigError(
                f"base = {self.base} with {name}; expected no other value than the default: {why}"
            )

    def batches(self, pipeline: Summarizer, splits: Splits[Summarized]) -> TrainingBatches:
        """Compute the outputs of a frozen encoder once, and batch them with the summaries."""
        pipeline.model.to(pick_device(self.device))
        batches = pipeline.batches(splits.train, self.training.batching())
        return TrainingBatches(batches, pipeline.config.max_source)

    def loss(self, model: Any, batch: Any) -> Tensor:
        """Return the sum of the negative log-likelihoods of the summaries' tokens."""
        loss: Any = summary_loss if isinstance(batch, SummaryBatch) else pair_loss
        return loss(model, batch)

    def prepare(self, model: nn.Module, steps: int) -> list[Callback]:
        """Leave a frozen encoder frozen."""
        return [] if isinstance(model, PointerGenerator) else super().prepare(model, steps)

    def validator(
        self, pipeline: Summarizer, splits: Splits[Summarized]
    ) -> Callable[[nn.Module], dict[str, float]]:
        """Compute the likelihood of validation summaries."""
        batching = replace(self.training.batching(), epochs=1)
        batches = list(pipeline.batches(splits.validation[:WATCHED], batching))
        tokens = sum(batch.n_targets for batch in batches)

        def validate(model: nn.Module) -> dict[str, float]:
            device = next(model.parameters()).device
            with evaluating(model), torch.inference_mode():
                total = sum(float(self.loss(model, batch.to(device))) for batch in batches)
            return {self.metric: -total / tokens}

        return validate

    def settle(self, pipeline: Summarizer, splits: Splits[Summarized]) -> Summarizer:
        """Choose the length penalty."""
        return choose_penalty(pipeline, splits.validation[:CHOOSING]).noted()

    def facts(self, pipeline: Summarizer) -> dict[str, Any]:
        """Return the length penalty."""
        return {"length_penalty": pipeline.config.length_penalty}

    def save(self, pipeline: Summarizer, run: RunFolder) -> None:
        """Save the whole model, and a new decoder alone, which is small, in the run's folder."""
        save(pipeline.loaded, self.output)
        if isinstance(pipeline.model, PointerGenerator):
            write_decoder(self.output, run.folder / "decoder")
            run.print(f"the decoder alone: {run.folder / 'decoder'}")


def choose_penalty(summarizer: Summarizer, examples: Sequence[Summarized]) -> Summarizer:
    """Choose the length penalty with the highest geometric mean of ROUGE-1, ROUGE-2 and ROUGE-L.

    Only the first reference of each text counts: the model was trained on it, and the best of
    several would match a summary of a word or two. In a geometric mean, ten percent more ROUGE-2,
    which is low and which single words do not raise, counts as much as ten percent more ROUGE-1.
    """
    first = [one._replace(summaries=one.summaries[:1]) for one in examples]

    def rouge(penalty: float) -> float:
        config = replace(summarizer.config, length_penalty=penalty)
        scores = replace(summarizer, config=config).evaluate(first)
        return scores.rouge1.f1 * scores.rouge2.f1 * scores.rouge_l.f1

    best = max(PENALTIES, key=rouge)
    return replace(summarizer, config=replace(summarizer.config, length_penalty=best))


TASK = Task(
    name="summarize",
    default=METHODS[DEFAULT],
    methods=METHODS,
    pipeline=Summarizer,
    recipe=SummarizationRecipe,
    predict=Summarize,
    columns={"text": "text", "summary": "summary"},
    example=lambda text, summary: Summarized(text, (summary,)),
    tables=summary_tables,
    summary=summary_line,
    group=lambda example: example.text,
)
