"""Shared code of encoder-decoder tasks: batched decoding, and common fields of recipes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from qkv.attention.record import AttentionRecord, record_attention
from qkv.blocks.config import FeedForwardKind
from qkv.data.batches import PairBatch, pad_sequences
from qkv.errors import ConfigError
from qkv.generation.answer import Answer
from qkv.generation.beam import Observer, beam_search
from qkv.generation.decoding import Decoding
from qkv.generation.processors import Processor
from qkv.generation.ranking import Beam
from qkv.generation.sampling import sample
from qkv.models.modes import evaluating
from qkv.models.seq2seq import Seq2Seq
from qkv.tasks.console import progress_bar
from qkv.tasks.decoding import decoding_fields
from qkv.tasks.train import P, Recipe
from qkv.training.losses import pair_loss

Ranker = Callable[[Sequence[list[int]], list[list[Answer]]], list[list[Answer]]]

GREEDY = Beam(size=1)
PLAIN = Decoding()
# Five hypotheses, compared by their mean log-probability per token, until five have ended: a
# longer search took 30 times as long for a model that had learned little.
BEAM = Beam(size=5, length_penalty=1.0, length_rule="power", early_stopping=True)


@dataclass(frozen=True)
class Alignment:
    """The attention weights for each token of `output`."""

    source: list[str]
    output: list[str]
    weights: AttentionRecord  # by module: (1, heads, len(output), len(source)) for cross-attention


@dataclass(frozen=True, kw_only=True)
class Seq2SeqDecoder:
    """Decodes sources in batches.

    Args:
        pad: id that fills short sources.
        start: id of the decoder's first input token.
        stops: ids that end an output.
        max_length: maximum number of tokens of an output.
        beam: beam size and length penalty; size 1 is greedy decoding.
        decoding: the model's other decoding settings.
        first: processors to apply before those of `decoding` that force tokens.
        observe: called at each step of beam search; see `beam_search`.
        rank: reorders and rescores the outputs for each source.
    """

    pad: int
    start: int
    stops: tuple[int, ...]
    max_length: int
    beam: Beam = GREEDY
    decoding: Decoding = PLAIN
    first: tuple[Processor, ...] = ()
    observe: Observer | None = None
    rank: Ranker | None = None

    def __call__(
        self, model: Any, sources: Sequence[list[int]], *, rows: int, progress: bool = False
    ) -> list[list[Answer]]:
        """Return the outputs for each source, in order, the best first.

        Args:
            model: model in evaluation mode.
            sources: token ids of each source.
            rows: maximum batch size, counting beam hypotheses; sources of similar length share a
                batch.
            progress: show a progress bar on standard error.
        """
        if self.decoding.reads_source:
            rows = 1  # the rules depend on the source
        order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
        rows = max(1, rows // self.beam.size)
        batches = [order[first : first + rows] for first in range(0, len(order), rows)]
        answers: list[list[Answer]] = [[] for _ in sources]
        for batch in progress_bar(batches, "decoding", show=progress):
            decoded = self._decode(model, [sources[i] for i in batch])
            for i, answer in zip(batch, decoded, strict=True):
                answers[i] = answer
        return answers if self.rank is None else self.rank(sources, answers)

    def record(
        self, model: Any, source: list[int], layers: Sequence[str] | None
    ) -> tuple[list[int], AttentionRecord]:
        """Return the best output with its stop token, and the attention of one forward pass.

        Args:
            model: the model.
            source: token ids.
            layers: names of the attention modules to record; None: all.
        """
        device = next(model.parameters()).device
        with evaluating(model):
            [[best, *_]] = self(model, [source], rows=1)
            output = [*best.tokens, *([] if best.ended else [self.stops[0]])]
            source_ids = torch.tensor([source], device=device)
            target_ids = torch.tensor([[self.start, *output[:-1]]], device=device)
            with torch.inference_mode(), record_attention(model, layers=layers) as weights:
                model(source_ids, target_ids)
        return output, weights

    def _decode(self, model: Any, sources: list[list[int]]) -> list[list[Answer]]:
        device = next(model.parameters()).device
        ids, token_mask = pad_sequences(sources, self.pad)
        searching = self.beam.size > 1
        options: dict[str, Any] = {
            "token_mask": token_mask.to(device),
            "start": self.start,
            "stop": self.stops,
            "max_length": self.max_length,
            "processors": self.decoding.processors(
                self.decoding.limits(1, usual=self.max_length, most=self.max_length),
                begun=1,
                source=sources[0],
                sampling=self.decoding.searched() if searching else self.decoding.greedy(),
                first=self.first,
                stops=self.stops,
            ),
        }
        if searching:
            return beam_search(
                model, ids.to(device), **options, beam=self.beam, observe=self.observe
            )
        # Sampling at temperature 0 is greedy decoding that keeps the log-probabilities.
        answers = sample(model, ids.to(device), **options, seeds=[0] * len(sources))
        return [
            [replace(one, score=self.beam.normalized(one.score, len(one.tokens)))]
            for one in answers
        ]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a Transformer; its vocabulary comes from the data.

    Args:
        d_model: width of the model.
        n_heads: number of heads of each attention.
        d_ff: inner width of the feed-forward networks.
        n_encoder_layers: number of encoder blocks.
        n_decoder_layers: number of decoder blocks.
        feed_forward: activation of the feed-forward networks, or a gated kind.
        dropout: dropout of each sublayer's output.
        attention_dropout: dropout of the attention weights.
    """

    d_model: int = 512
    n_heads: int = 8
    d_ff: int = 2048
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    feed_forward: FeedForwardKind = "silu"
    dropout: float = 0.1
    attention_dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class PairRecipe(Recipe[P]):
    """The common fields of translators' recipes.

    Args:
        max_length: maximum number of tokens of a sentence and of its translation; longer pairs are
            not trained on, and longer texts are split or truncated before translation.
        beam: beam search, also in each evaluation.
    """

    max_length: int = 100
    beam: Beam = BEAM

    hint: ClassVar = "qkv translate --model {} 'a sentence'"
    batched_by: ClassVar = "max_tokens"

    def check(self) -> None:
        """Check the length, and that the files of a model can express the beam."""
        super().check()
        if self.max_length < 1:
            raise ConfigError(f"max_length = {self.max_length}; expected at least 1")
        decoding_fields(self.beam, self.max_length)

    def loss(self, model: Seq2Seq[Any], batch: PairBatch) -> Tensor:
        """Return the sum of the cross-entropies of the target tokens."""
        return pair_loss(model, batch, smoothing=self.training.smoothing)

    def save(self, pipeline: Any, run: Any) -> None:
        """Save the model with its decoding settings."""
        pipeline.save(self.output)
