"""Translation: any text to any text, by a model with an encoder, a decoder and two tokenizers."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qkv.attention.record import AttentionRecord, record_attention
from qkv.data.batches import PairBatch, batches_by_tokens, pad_sequences
from qkv.data.tokenizers import Tokenizer
from qkv.evaluation.exact_match import exact_match
from qkv.generation.greedy import greedy

TextPair = tuple[str, str]  # source, target


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Alignment:
    """Where the model looked, token by token, while it wrote `output`."""

    source: list[str]
    output: list[str]
    weights: AttentionRecord  # by module: (1, heads, len(output), len(source)) for cross-attention


@dataclass(frozen=True)
class Translator:
    """A trained (or still to be trained) model between two vocabularies.

    Args:
        model: Transformer or RNN; whatever has `hidden`, `head`, `start` and `step`.
        source: tokenizer of the inputs.
        target: tokenizer of the outputs.
        max_length: tokens after which an output is cut, if it has not ended by itself.
    """

    model: nn.Module
    source: Tokenizer
    target: Tokenizer
    max_length: int = 256

    def batches(
        self,
        pairs: Sequence[TextPair],
        *,
        max_tokens: int,
        seed: int = 0,
    ) -> Iterator[PairBatch]:
        """Yield training batches without end, epoch after epoch; see `batches_by_tokens`."""
        sources = self.source.encode_batch(source for source, _ in pairs)
        targets = self.target.encode_batch(target for _, target in pairs)
        return batches_by_tokens(
            list(zip(sources, targets, strict=True)),
            max_tokens=max_tokens,
            pad=self.target.pad,
            start=self.target.start,
            stop=self.target.stop,
            seed=seed,
            epochs=itertools.count(),
        )

    def __call__(self, texts: Sequence[str], *, rows: int = 256) -> list[str]:
        """Translate each text greedily; inputs of like length share a batch of at most `rows`."""
        sources = self.source.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda i: len(sources[i]))
        outputs = [""] * len(texts)
        for first in range(0, len(order), rows):
            chosen = order[first : first + rows]
            tokens = self._decode([sources[i] for i in chosen])
            for i, ids in zip(chosen, tokens.tolist(), strict=True):
                outputs[i] = self.target.decode(ids)
        return outputs

    def exact_match(self, pairs: Sequence[TextPair]) -> float:
        """Return the share of sources whose translation is the target, character for character."""
        return exact_match(self([source for source, _ in pairs]), [target for _, target in pairs])

    def align(self, text: str, *, layers: Sequence[str] | None = None) -> Alignment:
        """Translate one text, then record one pass over it: row t is the look before token t.

        Args:
            text: the source.
            layers: which attention modules to record; None records all.
        """
        source = self.source.encode(text)
        ids = self._decode([source])[0].tolist()
        output = [*itertools.takewhile(lambda i: i != self.target.stop, ids), self.target.stop]
        device = next(self.model.parameters()).device
        source_ids = torch.tensor([source], device=device)
        target_ids = torch.tensor([[self.target.start, *output[:-1]]], device=device)
        with (
            evaluating(self.model),
            torch.inference_mode(),
            record_attention(self.model, layers=layers) as weights,
        ):
            self.model(source_ids, target_ids)
        return Alignment(self.source.tokens(source), self.target.tokens(output), weights)

    def _decode(self, sources: Sequence[Sequence[int]]) -> Tensor:
        device = next(self.model.parameters()).device
        ids, token_mask = pad_sequences(sources, self.source.pad)
        with evaluating(self.model):
            return greedy(
                self.model,
                ids.to(device),
                token_mask=token_mask.to(device),
                start=self.target.start,
                stop=self.target.stop,
                max_length=self.max_length,
            )
