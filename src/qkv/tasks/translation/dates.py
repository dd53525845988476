"""`qkv train dates`: a Transformer that turns dates into ISO 8601."""

import time
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from torch import nn

from qkv.blocks.config import FeedForwardKind
from qkv.data.dates import LOCALES, date_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.recipe import Training, begin, count, run_training, timed
from qkv.tasks.translation.data import TextPair
from qkv.tasks.translation.recipe import Sizes
from qkv.tasks.translation.translator import Translator
from qkv.training.losses import pair_loss

TRAINING = Training(steps=3_000, max_tokens=4_000, evaluate_every=500)


@dataclass(frozen=True, kw_only=True)
class Dates:
    """The built-in corpus of dates; see `qkv.data.dates`.

    Args:
        locales: which; all where empty.
        pairs: how many pairs to train on.
        held_out: how many to validate on, and how many to test on.
        seed: of the drawing.
    """

    locales: list[str] = field(default_factory=list)
    pairs: int = 400_000
    held_out: int = 2_000
    seed: int = 1

    def draw(self, split: str) -> list[TextPair]:
        """Draw (text, ISO) pairs of a split: no date is in two splits."""
        endless = date_pairs(self.locales or LOCALES, split=split, seed=self.seed)
        n_pairs = self.pairs if split == "train" else self.held_out
        return [(pair.text, pair.iso) for pair in islice(endless, n_pairs)]


@dataclass(frozen=True, kw_only=True)
class DateSizes(Sizes):
    """Sizes, and where the norms stand.

    Args:
        norm: layer norm or RMS norm.
        norm_first: whether a sublayer's input is normalized, instead of its sum with the stream.
    """

    feed_forward: FeedForwardKind = "relu"
    norm: Literal["layer", "rms"] = "layer"
    norm_first: bool = False


SIZES = DateSizes()


def train_dates(
    *,
    output: Path,
    data: Dates = Dates(),
    model: DateSizes = SIZES,
    training: Training = TRAINING,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Train a Transformer on dates, score it on the test split, and save it in a folder.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped.
        data: what to learn from.
        model: the sizes of the Transformer.
        training: how long and how fast.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.
    """
    if training.max_tokens is None:
        raise ConfigError(
            f"training.batch_size = {training.batch_size}: dates are batched by tokens; expected "
            "training.max_tokens"
        )
    recipe = {"data": data, "model": model, "training": training}
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    pairs, validation = data.draw("train"), data.draw("validation")
    tokenizer = Tokenizer.train_characters(text for pair in pairs for text in pair)
    config = make_config(model, tokenizer)
    translator = Translator(Transformer(config), tokenizer, tokenizer, max_length=32)
    parameters = count(translator.model)
    place.console.print(f"{len(pairs):,} pairs, {parameters:,} parameters -> {output}")

    def loss(model: nn.Module, batch: Any) -> Any:
        return pair_loss(model, batch, smoothing=training.smoothing)

    history = run_training(
        translator.model,
        translator.batches(pairs, max_tokens=training.max_tokens, seed=training.seed),
        loss,
        training,
        place,
        evaluate=lambda _: {"exact match": translator.exact_match(validation)},
        metric="exact match",
        optimizer=training.optimizer(translator.model),
        device=device,
    )
    before = time.perf_counter()
    score = translator.exact_match(data.draw("test"))
    results = {
        "test exact match": score,
        "test pairs": data.held_out,
        "parameters": parameters,
        "seconds of training": round(history.seconds, 1),
        "seconds of testing": timed(before),
    }
    translator.save(output)
    place.write_results(results)
    place.console.print(f"exact match on the test split: {score:.2%}; see {output}")


def make_config(model: DateSizes, tokenizer: Tokenizer) -> TransformerConfig:
    """Build the model's configuration: both vocabularies are the tokenizer's."""
    size = tokenizer.vocab_size
    return TransformerConfig(source_vocab_size=size, target_vocab_size=size, **asdict(model))
