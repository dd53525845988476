"""Train and test models on pairs of texts, all in the same way."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from qkv.data.batches import PairBatch, collate_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.models.seq2seq import Seq2Seq
from qkv.tasks.pretrained import Loaded
from qkv.tasks.translation import TextPair, Translator
from qkv.training.history import History
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.progress import Bar
from qkv.training.settings import Training

Tokenizers = tuple[Tokenizer, Tokenizer]  # of the sources, of the targets


class Learned(NamedTuple):
    """A trained model, its training history, and which test pairs it gets right."""

    translator: Translator
    history: History
    hits: list[bool]

    @property
    def exact(self) -> float:
        """The share of the test pairs that it gets right."""
        return sum(self.hits) / len(self.hits)


def learn(
    name: str,
    model: Seq2Seq[Any],
    pairs: Sequence[TextPair],
    tests: Sequence[TextPair],
    tokenizers: Tokenizers,
    training: Training,
) -> Learned:
    """Train a model on pairs of texts, and test it.

    If the settings ask for evaluations, they are on the first 200 of the test pairs.
    """
    source, target = tokenizers
    translator = Translator(Loaded(model, source), target=target, max_length=16)

    def evaluate(_: nn.Module) -> dict[str, float]:
        return {"exact match": translator.exact_match(tests[:200])}

    history = train(
        model,
        translator.batches(pairs, training.batching()),
        pair_loss,
        training,
        evaluate=evaluate if training.evaluate_every else None,
        callbacks=[Bar(f"{name:14}")],
    )
    outputs = translator([text for text, _ in tests])
    hits = [str(output) == answer for output, (_, answer) in zip(outputs, tests, strict=True)]
    return Learned(translator, history, hits)


def batch_of(pairs: Sequence[TextPair], tokenizers: Tokenizers) -> PairBatch:
    """Return one padded batch of pairs of texts."""
    source, target = tokenizers
    ids = [(source.encode(text), target.encode(answer)) for text, answer in pairs]
    return collate_pairs(ids, pad=target.pad, start=target.start, stop=target.stop)
