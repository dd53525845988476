"""`qkv train`: a recipe, typed by the dataclasses below, makes a folder with a translator."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from qkv.data.dates import LOCALES, date_pairs
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError
from qkv.files import write_atomically
from qkv.models.transformer import Transformer, TransformerConfig
from qkv.tasks.translation import TextPair, Translator, save_translator
from qkv.training.loop import train
from qkv.training.losses import pair_loss
from qkv.training.optim import adamw, cosine


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
class Training:
    """How long and how fast to learn.

    Args:
        steps: updates of the weights.
        max_tokens: positions of a batch, padding included.
        learning_rate: the highest; it falls along a cosine.
        warmup: steps until it is reached.
        weight_decay: of the matrices.
        smoothing: of the labels.
        evaluate_every: steps between two looks at the validation pairs.
        seed: of the weights, the dropout and the order of the pairs.
    """

    steps: int = 3_000
    max_tokens: int = 4_000
    learning_rate: float = 2e-3
    warmup: int = 300
    weight_decay: float = 0.01
    smoothing: float = 0.0
    evaluate_every: int = 500
    seed: int = 0


def train_recipe(
    *,
    output: Path,
    data: Dates = Dates(),
    model: dict[str, Any] | None = None,
    training: Training = Training(),
    device: str = "auto",
) -> None:
    """Train a Transformer as a recipe says, score it on the test split, and save it in a folder.

    Args:
        output: the folder, made or replaced file by file.
        data: what to learn from.
        model: fields of `TransformerConfig`; the vocabularies' sizes come from the data.
        training: how long and how fast.
        device: "auto", "cpu", "cuda" or "mps".
    """
    console = Console()
    torch.manual_seed(training.seed)
    pairs, validation = data.draw("train"), data.draw("validation")
    source = Tokenizer.train_characters(text for text, _ in pairs)
    target = Tokenizer.train_characters(text for _, text in pairs)
    config = make_config(model or {}, source, target)
    translator = Translator(Transformer(config), source, target, max_length=32)
    console.print(f"{len(pairs):,} pairs, {count(translator.model):,} parameters -> {output}")

    def evaluate(_: nn.Module) -> dict[str, float]:
        share = translator.exact_match(validation)
        console.print(f"exact match on {len(validation)} validation pairs: {share:.2%}")
        return {"exact_match": share}

    history = train(
        translator.model,
        translator.batches(pairs, max_tokens=training.max_tokens, seed=training.seed),
        lambda model, batch: pair_loss(model, batch, smoothing=training.smoothing),
        steps=training.steps,
        optimizer=adamw(
            translator.model,
            learning_rate=training.learning_rate,
            weight_decay=training.weight_decay,
        ),
        schedule=cosine(training.warmup, training.steps),
        evaluate=evaluate,
        evaluate_every=training.evaluate_every,
        device=device,
        description=output.name,
    )
    begin = time.perf_counter()
    results = {
        "test exact match": translator.exact_match(data.draw("test")),
        "test pairs": data.held_out,
        "parameters": count(translator.model),
        "seconds of training": round(history.seconds, 1),
        "seconds of testing": round(time.perf_counter() - begin, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "recipe": {"data": asdict(data), "model": model, "training": asdict(training)},
    }
    save_translator(translator, output)
    write_atomically(output / "results.json", json.dumps(results, indent=2) + "\n")
    console.print(f"exact match on the test split: {results['test exact match']:.2%}; see {output}")


def make_config(
    model: Mapping[str, Any], source: Tokenizer, target: Tokenizer
) -> TransformerConfig:
    """Build the model's configuration from a recipe's fields.

    Raises:
        ConfigError: on a field that there is not.
    """
    sizes = {"source_vocab_size": source.vocab_size, "target_vocab_size": target.vocab_size}
    known = {field.name for field in fields(TransformerConfig)} - set(sizes)
    if unknown := sorted(set(model) - known):
        raise ConfigError(
            f"model has no field {', '.join(unknown)}; expected some of {', '.join(sorted(known))} "
            "(the sizes of the vocabularies come from the data)"
        )
    return TransformerConfig(**sizes, **model)


def count(model: nn.Module) -> int:
    """Count the parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
