"""Translation: any text to any text, by a model with an encoder, a decoder and two tokenizers."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from qkv.attention.record import AttentionRecord, record_attention
from qkv.data.batches import PairBatch, batches_by_tokens, pad_sequences
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.evaluation.exact_match import exact_match
from qkv.files import write_atomically
from qkv.generation.greedy import greedy
from qkv.models.rnn import RNNConfig, RNNSeq2Seq
from qkv.models.transformer import Transformer, TransformerConfig

TextPair = tuple[str, str]  # source, target
KINDS = {"transformer": (Transformer, TransformerConfig), "rnn": (RNNSeq2Seq, RNNConfig)}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """Where the model looked, token by token, while it wrote `output`."""

    source: list[str]
    output: list[str]
    weights: AttentionRecord  # by module: (1, heads, len(output), len(source)) for cross-attention


@dataclasses.dataclass(frozen=True)
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


def save_translator(translator: Translator, folder: Path) -> None:
    """Write the model (config.json, model.safetensors) and its tokenizers, each file atomically.

    Raises:
        ConfigError: if the model is no Transformer or RNN of this library.
    """
    kind = next((kind for kind, (cls, _) in KINDS.items() if type(translator.model) is cls), None)
    if kind is None:
        raise ConfigError(
            f"a {type(translator.model).__name__} cannot be saved; expected one of "
            f"{', '.join(cls.__name__ for cls, _ in KINDS.values())}"
        )
    config = {"model_type": kind, "max_length": translator.max_length}
    config["model"] = dataclasses.asdict(translator.model.config)
    # A tensor that two names share is written under the first of them.
    weights = {name: p.detach().contiguous() for name, p in translator.model.named_parameters()}
    translator.source.save(folder / "source")
    translator.target.save(folder / "target")
    write_atomically(folder / "model.safetensors", save(weights))
    write_atomically(folder / "config.json", json.dumps(config, indent=2) + "\n")


def load_translator(folder: Path) -> Translator:
    """Read what `save_translator` wrote.

    Raises:
        DataError: if the folder lacks a file, or names a model that there is not.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        weights = load((folder / "model.safetensors").read_bytes())
    except OSError as error:
        raise DataError(f"{folder} holds no saved translator: {error}") from error
    if config.get("model_type") not in KINDS:
        raise DataError(
            f"{folder / 'config.json'} has model_type {config.get('model_type')!r}; "
            f"expected {' or '.join(KINDS)}"
        )
    model_class, config_class = KINDS[config["model_type"]]
    model = model_class(config_class(**config["model"]))
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or set(missing) & {name for name, _ in model.named_parameters()}:
        raise DataError(
            f"{folder / 'model.safetensors'} does not fit its config.json: missing {missing}, "
            f"unknown {unknown}"
        )
    model.eval()
    source, target = Tokenizer.load(folder / "source"), Tokenizer.load(folder / "target")
    return Translator(model, source, target, max_length=config["max_length"])
