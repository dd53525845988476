"""Summaries of prose by models that were not trained to summarize, or by none.

The first sentences, the sentences whose embeddings are the most central, or what a language model
replies when it is asked for a summary.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from qkv.data.prose import prose_sentences, text_parts
from qkv.data.sentences import split_sentences
from qkv.data.summaries import Summarized
from qkv.errors import ConfigError, DataError
from qkv.evaluation.summarization import SummaryScores, summary_scores
from qkv.generation.sampling import Sampling
from qkv.json_fields import quoted
from qkv.models.bert import Bert
from qkv.models.causal import CausalLM
from qkv.tasks.chat import Chat
from qkv.tasks.embedding import Embedder
from qkv.tasks.pipeline import Pipeline, check_strings
from qkv.tasks.pretrained import Loaded
from qkv.zoo.catalog import MINILM, SMOLLM2

# The shipped model of each method.
METHODS = {"extract": MINILM, "abstract": SMOLLM2, "lead": "", "model": "summarizer"}
DEFAULT = "extract"  # the method with the best mean ROUGE, see benchmarks/prose.py
SENTENCES = {"extract": 1, "abstract": 2, "lead": 1}
# How a summary was made, for people.
MADE = {
    "extract": "the most central sentences of the text",
    "abstract": "written by a language model, which can be wrong",
    "lead": "the beginning of the text",
    "model": "written by a model that was trained to summarize",
}
NO_MODEL = Loaded(nn.Identity())
# These, like the numbers of sentences, were chosen on the validation splits of AESLC and DialogSum.
POSITION = 0.4  # extra cosine that the last sentence needs to count like the first
SIMILAR = 0.8  # cosine of sentences that say the same
PROMPT = "Summarize the following text in {length}.\n\n{text}"
ASKED = {1: "one sentence", 2: "one sentence"}  # it often writes one more than it is asked for
PART = 1_000  # tokens of a text that a language model summarizes at once
SLACK = 5  # tokens, because a text may have another number of tokens within a prompt
TOKENS, FEWEST_TOKENS = 30, 60  # of a summary by a language model: for each sentence, and at least


@dataclass(frozen=True)
class Summary:
    """The summary of a text.

    Args:
        text: the text.
        summary: its summary.
        score: log-probability divided by the length penalty, by which beam search chose; None for
            other methods.
        cut: whether the text, or a sentence of it, was too long and only its beginning was read.
        method: "model", "extract", "abstract" or "lead".
        note: remark for the reader, such as that the text was summarized in parts.
    """

    text: str
    summary: str
    score: float | None
    cut: bool
    method: str = "model"
    note: str = ""


@dataclass(frozen=True)
class ProseSummarizer(Pipeline[Summarized, Summary, SummaryScores]):
    """A summarizer that needs no training.

    Args:
        loaded: model and tokenizer.
        sentences: maximum number of sentences of a summary.

    Raises:
        ConfigError: the number is not positive.
    """

    sentences: int = 1

    method: ClassVar[str]

    def __post_init__(self) -> None:
        """Check the number of sentences."""
        check_sentences(self.sentences)

    def summarize(self, texts: Sequence[str], *, progress: bool) -> list[Summary]:
        """Return the summaries of texts that are not empty."""
        raise NotImplementedError(f"{type(self).__name__} does not define summarize")

    def predict(self, texts: Sequence[str], *, progress: bool = False) -> list[Summary]:
        """Summarize texts, in their order.

        Raises:
            DataError: a text is empty.
        """
        check_strings(texts)
        for row, text in enumerate(texts, start=1):
            if not text.strip():
                raise DataError(f"text {row} is empty: {quoted(text)}; expected a text")
        return self.summarize(texts, progress=progress) if texts else []

    def evaluate(self, examples: Iterable[Summarized], *, progress: bool = False) -> SummaryScores:
        """Score the summaries of texts against all reference summaries.

        Raises:
            DataError: there are no texts.
        """
        examples = list(examples)
        summaries = self.predict([one.text for one in examples], progress=progress)
        references = [one.summaries for one in examples]
        return summary_scores([one.summary for one in summaries], references)

    def size(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.tokenizer.encode(text))


@dataclass(frozen=True)
class LeadSummarizer(ProseSummarizer):
    """The first sentences of a text: the baseline of news, where they say what happened."""

    loaded: Loaded = NO_MODEL

    method: ClassVar = "lead"

    def summarize(self, texts: Sequence[str], *, progress: bool) -> list[Summary]:
        """Return the first sentences of each text."""
        return [
            Summary(text, " ".join(prose_sentences(text)[: self.sentences]), None, False, "lead")
            for text in texts
        ]


@dataclass(frozen=True)
class ExtractiveSummarizer(ProseSummarizer):
    """The most central sentences of a text, by the embeddings of an encoder.

    A sentence is central if its embedding is close to that of the text, and early sentences are
    preferred: the centroid and the position of MEAD (Radev et al. 2004, "Centroid-based
    summarization of multiple documents"). A sentence that says the same as one that was chosen is
    skipped. A text that is too long for the encoder is embedded in parts, which are averaged.
    """

    method: ClassVar = "extract"
    kinds: ClassVar = (Bert,)
    expected: ClassVar = Embedder.expected

    def summarize(self, texts: Sequence[str], *, progress: bool) -> list[Summary]:
        """Return the most central sentences of each text, in their order in the text."""
        embedder = Embedder.of(self.loaded)
        room = embedder.max_length - len(self.tokenizer.add_special_tokens([]).ids)
        several = [prose_sentences(text) for text in texts]
        parts = [text_parts(" ".join(one), self.size, room) for one in several]
        rows = [one for pair in zip(several, parts, strict=True) for some in pair for one in some]
        encoded = embedder.encode(rows)
        vectors = embedder.embed(encoded, progress=progress).double()
        cut = [length > embedder.max_length for length in encoded.lengths]
        summaries, first = list[Summary](), 0
        for text, sentences, whole in zip(texts, several, parts, strict=True):
            last = first + len(sentences)
            end = last + len(whole)
            chosen = central(vectors[first:last], vectors[last:end].mean(0), self.sentences)
            summary = " ".join(sentences[i] for i in chosen)
            summaries.append(Summary(text, summary, None, any(cut[first:last]), "extract"))
            first = end
        return summaries


def central(
    vectors: Float[Tensor, "sentences D"], whole: Float[Tensor, " D"], most: int
) -> list[int]:
    """Return the indices of the most central sentences, in order.

    Args:
        vectors: unit vectors of the sentences.
        whole: vector of the whole text.
        most: maximum number of sentences.
    """
    places = torch.arange(len(vectors), dtype=vectors.dtype, device=vectors.device) / len(vectors)
    scores = vectors @ F.normalize(whole, dim=0) - POSITION * places
    chosen = list[int]()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if len(chosen) < most and all(vectors[i] @ vectors[j] < SIMILAR for j in chosen):
            chosen.append(i)
    return sorted(chosen)


@dataclass(frozen=True)
class AbstractiveSummarizer(ProseSummarizer):
    """Summaries by a language model with a chat template.

    A long text is split between sentences; its parts are summarized, and then their joined
    summaries. Decoding is greedy.
    """

    method: ClassVar = "abstract"
    kinds: ClassVar = (CausalLM,)
    expected: ClassVar = Chat.expected

    def __post_init__(self) -> None:
        """Check the model and its template."""
        super().__post_init__()
        _ = self.chat

    @cached_property
    def chat(self) -> Chat:
        """The model as a chat model."""
        return Chat(self.loaded)

    @cached_property
    def room(self) -> int:
        """The maximum number of tokens of a text that is summarized at once.

        Raises:
            ConfigError: the model's context is too short.
        """
        asked = self.chat.template.render(self.chat.conversation(self._prompt("")), reply=True)
        around = len(self.chat.generator.encode(asked))
        room = self.chat.generator.context - around - self._tokens - SLACK
        if room < 2 * self._tokens:
            raise ConfigError(
                f"the model reads {self.chat.generator.context} tokens at once, too few for a text "
                f"beside the prompt ({around}) and the summary ({self._tokens}); expected a model "
                "with a longer context"
            )
        return min(PART, room)

    def summarize(self, texts: Sequence[str], *, progress: bool) -> list[Summary]:
        """Return the model's summary of each text."""
        several = [self._parts(text) for text in texts]
        replies = self._ask([part for parts in several for part in parts], progress=progress)
        summaries, first = list[Summary](), 0
        for text, parts in zip(texts, several, strict=True):
            mine = replies[first : first + len(parts)]
            first += len(parts)
            note = f"too long, summarized in {len(parts)} parts" if len(parts) > 1 else ""
            summary = self._joined(mine)
            if not summary:
                summary = " ".join(prose_sentences(text)[: self.sentences])
                note = "the model wrote nothing; this is the beginning of the text"
            summaries.append(Summary(text, summary, None, False, "abstract", note))
        return summaries

    def _joined(self, replies: Sequence[str]) -> str:
        """Return the summary of the summaries of parts; "" if the model wrote nothing."""
        kept = [*filter(None, replies)]
        while len(kept) > 1:
            parts = self._parts("\n".join(kept))
            if len(parts) >= len(kept):  # no progress
                break
            kept = [*filter(None, self._ask(parts, progress=False))]
        return kept[0] if kept else ""

    def _parts(self, text: str) -> list[str]:
        return [*filter(str.strip, text_parts(text, self.size, self.room))]

    def _ask(self, texts: Sequence[str], *, progress: bool) -> list[str]:
        replies = self.chat.predict(
            [self._prompt(text.strip()) for text in texts],
            max_length=self._tokens,
            sampling=Sampling(temperature=0.0),
            progress=progress,
        )
        return [whole_sentences(one.text, self.sentences, ended=one.ended) for one in replies]

    def _prompt(self, text: str) -> str:
        length = ASKED.get(self.sentences, f"{self.sentences} sentences")
        return PROMPT.format(length=length, text=text)

    @property
    def _tokens(self) -> int:
        return max(FEWEST_TOKENS, TOKENS * self.sentences)


def whole_sentences(text: str, most: int, *, ended: bool) -> str:
    """Return the first sentences of a reply; a truncated one is dropped unless it is the only one.

    Args:
        text: the reply.
        most: maximum number of sentences.
        ended: whether the reply ended by itself.
    """
    sentences = split_sentences(" ".join(text.split()))
    if not ended and len(sentences) > 1:
        sentences.pop()
    return "".join(sentences[:most]).strip()


def prose_summarizer(
    loaded: Loaded, method: str, sentences: int | None, others: Mapping[str, Any]
) -> ProseSummarizer:
    """Return the summarizer for a method that needs no training.

    Args:
        loaded: a model of the kind that the method needs.
        method: "extract" or "abstract".
        sentences: maximum number of sentences of a summary; None: the method's default.
        others: settings of trained summarizers, which are rejected.

    Raises:
        ConfigError: the model is of another kind, or a setting is wrong for the method.
    """
    if method == "lead":
        raise ConfigError("the method lead with a model; expected none: it repeats the beginning")
    _refuse(others, method)
    kind = {"extract": ExtractiveSummarizer, "abstract": AbstractiveSummarizer}[method]
    kind.check(loaded)
    return kind(loaded, SENTENCES[method] if sentences is None else sentences)


def method_of(model: Any) -> str:
    """Return the method that suits the kind of a model."""
    if isinstance(model, ExtractiveSummarizer.kinds):
        return "extract"
    return "abstract" if isinstance(model, AbstractiveSummarizer.kinds) else "model"


def lead_summarizer(settings: Mapping[str, Any]) -> LeadSummarizer:
    """Return the summarizer of the first sentences.

    Args:
        settings: keyword arguments of `Summarizer.load`, of which only `sentences` has an effect.

    Raises:
        ConfigError: a setting is wrong for this method.
    """
    known = ("sentences", "beam", "device", "allow_download")
    given = {name for name, value in settings.items() if name != "dtype" or value is not None}
    _refuse(sorted(given.difference(known)), "lead")
    sentences, beam = settings.get("sentences"), settings.get("beam")
    check_settings("lead", sentences=sentences, beam=beam)
    return LeadSummarizer(sentences=SENTENCES["lead"] if sentences is None else sentences)


def _refuse(others: Iterable[str], method: str) -> None:
    if others := [*others]:
        raise ConfigError(
            f"{', '.join(others)} with the method {method}; expected no other setting of this "
            "method than sentences"
        )


def check_settings(
    method: str | None, *, sentences: int | None = None, beam: int | None = None
) -> None:
    """Raise ConfigError for a method that does not exist, or settings that it does not support."""
    if method is not None and method not in METHODS:
        raise ConfigError(f"method = {method!r}; expected one of {', '.join(METHODS)}")
    if method == "model" and sentences is not None:
        raise ConfigError(
            f"sentences = {sentences} with the method model, which writes what it was trained to "
            "write; expected none, or the method extract, abstract or lead"
        )
    if method not in (None, "model") and beam is not None:
        raise ConfigError(
            f"beam = {beam} with the method {method}, which does not search; expected none, or the "
            "method model"
        )
    if sentences is not None:
        check_sentences(sentences)


def check_sentences(sentences: int) -> None:
    """Raise ConfigError for a number of sentences that is not positive."""
    if sentences < 1:
        raise ConfigError(f"sentences = {sentences}; expected at least 1")
