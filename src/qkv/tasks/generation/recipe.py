"""`qkv train tinyshakespeare`: a language model with the modern block."""

import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tokenizers
from tokenizers.processors import TemplateProcessing

from qkv.checkpoints.registry import family_of
from qkv.data.pretraining import causal_batches
from qkv.data.tokenizers import FILE_NAME, Tokenizer
from qkv.data.tokenizers.training import STOP
from qkv.errors import ConfigError
from qkv.evaluation.perplexity import LanguageModelScores
from qkv.models.llama import Llama, LlamaConfig
from qkv.tasks.generation.data import Corpus, CorpusParts
from qkv.tasks.generation.generator import Generator
from qkv.tasks.pretrained import Loaded, save
from qkv.tasks.recipe import Place, Training, begin, count, finish, run_training
from qkv.training.history import History
from qkv.training.pretraining import causal_loss

CORPUS = Corpus()
TRAINING = Training(steps=2_000, batch_size=12, evaluate_every=500)


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The model's sizes: pre-norm, RMS norm, rotary positions, SwiGLU (Touvron et al. 2023).

    Args:
        context: tokens that it reads at once.
        d_model: width.
        n_heads: of the queries.
        n_kv_heads: of keys and values; as many if not given.
        d_ff: width inside of the feed-forward layers.
        n_layers: blocks.
        tied_output: the output layer's weight is the embedding.
        attention_dropout: share of the attention weights that are dropped in training.
    """

    context: int = 128
    d_model: int = 128
    n_heads: int = 4
    n_kv_heads: int | None = None
    d_ff: int = 344
    n_layers: int = 4
    tied_output: bool = True
    attention_dropout: float = 0.0

    def build(self, vocab_size: int) -> Llama:
        """Build the model, with random weights."""
        sizes = asdict(self)
        return Llama(LlamaConfig(n_positions=sizes.pop("context"), vocab_size=vocab_size, **sizes))


MODEL = Decoder()


def train_language_model(
    *,
    output: Path,
    data: Corpus = CORPUS,
    tokenizer: Literal["characters", "bpe"] = "characters",
    vocab_size: int | None = None,
    model: Decoder = MODEL,
    training: Training = TRAINING,
    device: str = "auto",
    fresh: bool = False,
) -> None:
    """Train a causal language model on texts, score it, and save it as transformers does.

    Args:
        output: the folder, made or replaced; OUTPUT.training keeps the run, so that the same
            command goes on where it was stopped.
        data: what to learn to write.
        tokenizer: characters, or byte-pair encoding.
        vocab_size: of the byte-pair encoding.
        model: its sizes.
        training: how long and how fast; a batch has so many contexts.
        device: "auto", "cpu", "cuda" or "mps".
        fresh: begin anew, whatever an earlier run left.
    """
    if training.batch_size is None or training.smoothing:
        raise ConfigError(
            f"training.max_tokens = {training.max_tokens}, smoothing = {training.smoothing}; "
            "expected training.batch_size, in contexts, and no smoothing: a language model learns "
            "the probabilities themselves"
        )
    if (vocab_size is None) != (tokenizer == "characters"):
        raise ConfigError(
            f"tokenizer = {tokenizer} with vocab_size = {vocab_size}; expected a vocab_size for "
            "bpe, and none for characters, which are counted"
        )
    parts = data.parts()
    sizes = {"tokenizer": tokenizer, "vocab_size": vocab_size, "model": model}
    recipe = {"data": data, **sizes, "training": training}
    recipe["checksum of the texts"] = parts.checksum
    place = begin(output, recipe, seed=training.seed, fresh=fresh)
    generator = fresh_generator(parts, model, vocab_size)
    history = _fit(generator, parts, training, place, device)
    about = {
        "texts to learn from": len(parts.train),
        "parameters": count(generator.model),
        "vocabulary": generator.tokenizer.vocab_size,
        "seconds of training": round(history.seconds, 1),
    }
    finish(
        place,
        generator.evaluate,
        parts.validation,
        parts.test,
        save=partial(save, generator.loaded),
        about=about,
        line=say,
        hint="qkv generate --model {} 'The'",
    )


def fresh_generator(parts: CorpusParts, model: Decoder, vocab_size: int | None) -> Generator:
    """A model with random weights and a tokenizer of the training texts; of characters for None."""
    if vocab_size is None:
        tokenizer = Tokenizer.train_characters(parts.train)
    else:
        tokenizer = Tokenizer.train_bpe(parts.train, vocab_size)
    tokenizer = begin_with_stop(tokenizer)
    built = model.build(tokenizer.vocab_size)
    ends = {"bos_token_id": tokenizer.stop, "eos_token_id": tokenizer.stop}
    config = family_of("llama").write_config(built.config) | ends | {"pad_token_id": tokenizer.pad}
    return Generator(Loaded(built, tokenizer, config=config))


def begin_with_stop(tokenizer: Tokenizer) -> Tokenizer:
    """Make `add_special_tokens` put `stop` first, after which texts begin in training.

    The file says so, for transformers to do the same.
    """
    files = tokenizer.files
    library = tokenizers.Tokenizer.from_str(files[FILE_NAME].decode())
    special = [(STOP, tokenizer.stop)]
    library.post_processor = TemplateProcessing(
        single=f"{STOP} $A", pair=f"{STOP} $A {STOP} $B", special_tokens=special
    )
    files[FILE_NAME] = library.to_str(pretty=True).encode()
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        return Tokenizer.load(folder)


def _fit(
    generator: Generator, parts: CorpusParts, training: Training, place: Place, device: str
) -> History:
    """Train, once it is said what."""
    model, tokenizer = generator.model, generator.tokenizer
    assert training.batch_size is not None
    documents = tokenizer.encode_batch(parts.train)
    batches = causal_batches(
        documents,
        length=generator.context,
        stop=tokenizer.stop,
        batching=training.batching(),
    )
    n_tokens = sum(map(len, documents))
    place.console.print(
        f"{len(documents):,} texts of {n_tokens:,} tokens to learn from, {tokenizer.vocab_size:,} "
        f"different ones; {len(parts.validation):,} to choose the best weights by, "
        f"{len(parts.test):,} to test; {count(model):,} parameters, {training.n_steps(batches):,} "
        f"steps -> {place.output}"
    )
    return run_training(
        model,
        batches,
        causal_loss,
        training,
        place,
        evaluate=lambda _: _scores(generator, parts),
        metric="log-probability",
        optimizer=training.optimizer(model),
        device=device,
    )


def _scores(generator: Generator, parts: CorpusParts) -> dict[str, float]:
    scores = generator.evaluate(parts.validation)
    return {"log-probability": -scores.loss, "perplexity": scores.perplexity}


def say(scores: LanguageModelScores) -> str:
    """The scores in a line."""
    return (
        f"loss {scores.loss:.4f} nats a token, perplexity {scores.perplexity:.2f}, "
        f"{scores.bits_per_character:.3f} bits a character, over all {scores.tokens:,} tokens"
    )
