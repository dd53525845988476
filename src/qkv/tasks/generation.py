"""Text generation with a causal language model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from cyclopts import Parameter
from torch import Tensor

from qkv.attention.variants.registry import check_layers
from qkv.checkpoints.registry import family_of
from qkv.data.parts import hold_out_groups
from qkv.data.pretraining import causal_batches
from qkv.data.text import decode, read_content
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError
from qkv.evaluation.perplexity import LanguageModelScores
from qkv.generation.sampling import Sampling
from qkv.generation.stepping import check_max_length
from qkv.models.causal import CausalLM
from qkv.models.hybrid import Hybrid, HybridConfig
from qkv.models.llama import Llama, LlamaConfig
from qkv.tasks.commands import Predict, language_note, score_row
from qkv.tasks.generator import Generation, Generator
from qkv.tasks.inputs import Item, check_texts, text_items
from qkv.tasks.outputs import remark
from qkv.tasks.pretrained import Loaded
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.streams import as_text, is_interactive
from qkv.tasks.task import Tables, Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.training.pretraining import causal_loss
from qkv.training.settings import Training
from qkv.zoo.catalog import Entry

TEMPERATURE = 0.8  # of the command, if neither options nor files set one


@dataclass(frozen=True, kw_only=True)
class DecoderSizes:
    """The sizes of a decoder: pre-norm, RMS norm, rotary positions, SwiGLU (Touvron et al. 2023).

    Args:
        d_model: width of the model.
        n_heads: number of query heads.
        n_kv_heads: number of key and value heads; default: n_heads.
        d_ff: inner width of the feed-forward networks.
        n_layers: number of blocks.
        tied_output: use the embedding as the weight of the output layer.
        attention_dropout: dropout of the attention weights.
        layers: mechanism of each layer, repeated up to n_layers, such as gated_delta three times,
            then attention; default: attention. See `qkv.attention.variants.registry`.
        window: number of tokens that a query of a window layer attends to, including its own.
    """

    d_model: int = 128
    n_heads: int = 4
    n_kv_heads: int | None = None
    d_ff: int = 344
    n_layers: int = 4
    tied_output: bool = True
    attention_dropout: float = 0.0
    layers: tuple[str, ...] | None = None
    window: int | None = None

    def __post_init__(self) -> None:
        """Check the layers."""
        if self.layers is not None or self.window is not None:
            layers = ("attention",) if self.layers is None else self.layers
            check_layers(layers, self.n_layers, window=self.window)


@dataclass(frozen=True, kw_only=True)
class GenerationRecipe(Recipe[Generator]):
    """Train a causal language model, from random weights or from a base.

    Args:
        context: number of tokens of a training example, and of a new model's context.
        tokenizer: characters or byte-pair encoding, for a model without a base.
        vocab_size: vocabulary size of the byte-pair encoding.
        model: sizes of a model without a base.
    """

    data: DataConfig = DataConfig(train=("tinyshakespeare",))
    training: Training = Training(steps=2_000, batch_size=12, evaluate_every=500)
    context: int = 128
    tokenizer: Literal["characters", "bpe"] = "characters"
    vocab_size: int | None = None
    model: DecoderSizes = DecoderSizes()

    metric: ClassVar = "log-probability"
    hint: ClassVar = "qkv generate --model {} 'The'"
    sizes: ClassVar = ("tokenizer", "model", "vocab_size")
    batched_by: ClassVar = "batch_size"
    smooths: ClassVar = False  # a language model learns the probabilities themselves

    def check(self) -> None:
        """Check the vocabulary."""
        super().check()
        if (self.vocab_size is None) != (self.tokenizer == "characters"):
            raise ConfigError(
                f"tokenizer = {self.tokenizer} with vocab_size = {self.vocab_size}; expected a "
                "vocab_size for bpe, and none for characters"
            )

    def build(self, splits: Splits[str]) -> Generator:
        """Train a tokenizer and build a new model, or load the base."""
        if self.base is not None:
            return Generator.load(self.base)
        return fresh_generator(splits.train, self.model, self.context, self.vocab_size)

    def batches(self, pipeline: Generator, splits: Splits[str]) -> TrainingBatches:
        """Cut the texts into contexts."""
        documents = pipeline.tokenizer.encode_batch(splits.train)
        length = min(self.context, pipeline.context)
        stop = pipeline.stops[0]
        if stop < 0:
            raise ConfigError(f"base = {self.base} has no token that ends a text; expected one")
        batches = causal_batches(
            documents, length=length, stop=stop, batching=self.training.batching()
        )
        n_tokens = sum(map(len, documents))
        remark = (
            f"{len(documents):,} texts of {n_tokens:,} tokens; vocabulary of "
            f"{pipeline.tokenizer.vocab_size:,}"
        )
        return TrainingBatches(batches, length, (remark,), -(-n_tokens // length))

    def loss(self, model: CausalLM, batch: Any) -> Tensor:
        """Return the sum of the cross-entropies of the next tokens."""
        return causal_loss(model, batch)

    def metrics(self, scores: LanguageModelScores) -> dict[str, float]:
        """Return the mean log-probability of a token, and the perplexity."""
        return {"log-probability": -scores.loss, "perplexity": scores.perplexity}

    def facts(self, pipeline: Generator) -> dict[str, Any]:
        """Return the size of the vocabulary."""
        return {"vocab_size": pipeline.tokenizer.vocab_size}


def fresh_generator(
    texts: Sequence[str], sizes: DecoderSizes, context: int, vocab_size: int | None = None
) -> Generator:
    """Build a model with random weights, and a tokenizer from the texts.

    Args:
        texts: training texts.
        sizes: sizes of the model.
        context: number of tokens of its context.
        vocab_size: vocabulary size of a byte-pair encoding; None: characters.
    """
    if vocab_size is None:
        tokenizer = Tokenizer.train_characters(texts).begin_with_stop()
    else:
        tokenizer = Tokenizer.train_bpe(texts, vocab_size).begin_with_stop()
    fields: dict[str, Any] = asdict(sizes) | {
        "n_positions": context,
        "vocab_size": tokenizer.vocab_size,
    }
    if sizes.layers is None:
        del fields["layers"], fields["window"]
        family, model = "llama", Llama(LlamaConfig(**fields))
    else:
        family, model = "qkv_hybrid", Hybrid(HybridConfig(**fields))
    ends = {"bos_token_id": tokenizer.stop, "eos_token_id": tokenizer.stop}
    raw = family_of(family).write_config(model.config) | ends | {"pad_token_id": tokenizer.pad}
    return Generator(Loaded(model, tokenizer, config=raw))


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Sampling options; None: from the model's files.

    Args:
        temperature: values below 1 sharpen the distribution; 0 is greedy decoding; default: from
            the model's files, else 0.8.
        top_k: sample from the k most probable tokens.
        top_p: sample from the smallest set of most probable tokens with this total probability.
        min_p: sample from tokens at least this fraction as probable as the most probable one.
        repetition_penalty: values above 1 make tokens that already occur less probable.
        no_repeat_ngram: forbid repeating any n-gram of this length.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram: int | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The options that were set."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def over(self, generator: Generator) -> Sampling | None:
        """Return the options, completed with those of the model's files."""
        rules, usual = generator.decoding, generator.sampling
        if not self.changes and (rules.draws is not None or rules.beam.size > 1):
            return None
        if rules.draws is None:
            usual = replace(usual, temperature=TEMPERATURE)
        return replace(usual, **self.changes)


AS_FILES_SAY = SamplingOptions()


@dataclass(frozen=True, kw_only=True)
class Generate(Predict[Generator]):
    """Options of `qkv generate`.

    Args:
        max_length: maximum number of new tokens; default: from the model's files, else about 120,
            up to the end of a sentence.
        sampling: how tokens are sampled.
        seed: random seed; the second text for a prompt uses the next number, and so on.
        n: number of texts per prompt.
        stop: a string that ends a text and is not part of it; may be repeated.
        lookup: speculative decoding with drafts copied from the text so far, which may be faster;
            for a single prompt.
    """

    max_length: int | None = None
    sampling: Annotated[SamplingOptions, Parameter(name="*")] = AS_FILES_SAY
    seed: int = 0
    n: int = 1
    stop: list[str] | None = None
    lookup: bool = False

    inputs: ClassVar = "the texts to continue, one per argument"
    about: ClassVar = (
        "The continuation of a single prompt is printed as it is generated; several prompts get "
        "one line each. An empty prompt, '', starts a text from scratch. When the text outgrows "
        "the model's context, generation continues from its second half. Other settings "
        "come from the model's generation_config.json."
    )

    def check(self) -> None:
        """Check the options."""
        Sampling(**self.sampling.changes)
        if self.n < 1:
            raise ConfigError(f"n = {self.n}; expected at least 1 text for each prompt")
        if not 0 <= self.seed < 2**48:
            raise ConfigError(f"seed = {self.seed}; expected from 0 to {2**48 - 1}")
        if self.max_length is not None:
            check_max_length(self.max_length)

    def items(self, inputs: Sequence[str], columns: Mapping[str, str]) -> Iterable[Item]:
        """Return the prompts; they may be empty; the default on a terminal is one empty prompt."""
        if not inputs and self.file is None and is_interactive():
            inputs = [""]
        if inputs and self.file is None:
            check_texts(inputs)
            items = [
                Item(where=f"argument {i}", fields={"text": as_text(prompt)})
                for i, prompt in enumerate(inputs, start=1)
            ]
        else:
            items = text_items(inputs, self.file, columns, span=self.span, what="a prompt")
        if not self.lookup:
            return items
        items = list(items)
        if self.json or self.part or len(items) > 1:
            with_json = " with --json" if self.json else ""
            raise ConfigError(
                f"--lookup for {len(items)} prompts{with_json}; expected a single prompt, whose "
                "text is printed as it is generated"
            )
        return items

    def requested(self, inputs: Sequence[Any]) -> list[Item]:
        """Return the prompts of a request, `n` of each; they may be empty."""
        items = [
            Item(where=f"argument {i}", fields={"text": prompt})
            for i, prompt in enumerate(inputs, start=1)
        ]
        return self.repeated(items)

    def answer(self, pipeline: Generator, items: Sequence[Item], shipped: Entry | None) -> None:
        """Print the text of a single prompt as it is generated; otherwise, a line per text."""
        self._check_n(pipeline)
        for item in items:
            self._note_length(pipeline, item.fields.get("text", ""))
        if len(items) > 1 or items[0].problem or self.json or self.output is not None:
            super().answer(pipeline, self.repeated(items), shipped)
            return
        prompt, options = items[0].fields["text"], self._options(pipeline)
        remark(prompt, language_note(shipped, prompt))
        for i in range(self.n):
            print("\n---\n" if i else "", prompt, sep="", end="", flush=True)
            seed = self.seed + i
            for piece in pipeline.stream(prompt, seed=seed, lookup=self.lookup, **options):
                print(piece, end="", flush=True)
            print()

    def predict(self, pipeline: Generator, fields: Sequence[Mapping[str, str]]) -> list[Generation]:
        """Continue the prompts."""
        seeds, prompts = [int(one["seed"]) for one in fields], [one["text"] for one in fields]
        return pipeline.predict(prompts, seed=seeds, progress=True, **self._options(pipeline))

    def line(self, prediction: Generation) -> str:
        """Return prompt and continuation in one line."""
        return " ".join(f"{prediction.prompt}{prediction.text}".split())

    def _options(self, pipeline: Generator) -> dict[str, Any]:
        sampling = self.sampling.over(pipeline)
        return {"max_length": self.max_length, "sampling": sampling, "stop_strings": self.stop}

    def _check_n(self, pipeline: Generator) -> None:
        """Raise ConfigError if the texts for a prompt would all be the same."""
        sampling = self.sampling.over(pipeline) or pipeline.sampling
        if self.n > 1 and sampling.temperature == 0:
            raise ConfigError(
                f"n = {self.n} with greedy decoding writes the same text {self.n} times; expected "
                "a temperature, such as --temperature 0.7"
            )

    def _note_length(self, pipeline: Generator, prompt: str) -> None:
        """Report a prompt that is longer than the context."""
        if len(prompt.encode()) < pipeline.context:  # a token has at least one byte
            return
        length = len(pipeline.encode(prompt))
        if length > pipeline.context:
            read = f"of which the model read the last {pipeline.context // 2:,}"
            remark(prompt, f"{length:,} tokens, {read}")

    def repeated(self, items: Sequence[Item]) -> list[Item]:
        """Repeat each item n times with different seeds; a malformed item is not repeated."""
        return [
            replace(item, fields={**item.fields, "seed": str(self.seed + i)})
            for item in items
            for i in range(1 if item.problem else self.n)
        ]


def read_texts(source: str, problems: list[str] | None) -> list[str] | None:
    """Read a .txt file, which is one text.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    if Path(source).suffix != ".txt":
        return None
    text = decode(read_content(Path(source)), source)
    if not text.strip():
        raise DataError(f"{source} has no text: expected at least one")
    return [text]


def hold_out_end(texts: Sequence[str], fraction: float) -> tuple[Sequence[str], Sequence[str]]:
    """Hold out a fraction of the texts, or the end of a single text."""
    if len(texts) > 1:
        return hold_out_groups(texts, texts, fraction)
    end = round(len(texts[0]) * (1 - fraction))
    return [texts[0][:end]], [texts[0][end:]]


def likelihood_tables(scores: LanguageModelScores) -> Tables:
    """Return the scores as a table."""
    rows = [
        score_row("loss per token, nats", scores.loss, scores.loss_interval, digits=4),
        score_row("perplexity", scores.perplexity, scores.perplexity_interval),
    ]
    if scores.bits_per_character is not None:
        rows.append(score_row("bits per character", scores.bits_per_character, None, digits=4))
    return {f"{scores.count:,} texts, {scores.tokens:,} tokens": rows}


def likelihood_line(scores: LanguageModelScores) -> str:
    """Return the scores as one line."""
    return (
        f"loss {scores.loss:.4f} nats per token, perplexity {scores.perplexity:.2f}, "
        f"{scores.bits_per_character:.3f} bits per character, over all {scores.tokens:,} tokens"
    )


TASK = Task(
    name="generate",
    default="smollm2",
    pipeline=Generator,
    recipe=GenerationRecipe,
    predict=Generate,
    columns={"text": "text"},
    example=lambda text: text,
    tables=likelihood_tables,
    summary=likelihood_line,
    read=read_texts,
    hold_out=hold_out_end,
)
