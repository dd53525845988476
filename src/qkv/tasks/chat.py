"""Chat with a language model, and fine-tuning on conversations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar

from cyclopts import Parameter
from torch import Tensor

from qkv.data.chat import ChatTemplate, Message, read_template
from qkv.data.conversations import (
    Conversation,
    check_messages,
    conversation,
    encode_answers,
    packed_batches,
    read_conversations,
    refuse_special,
)
from qkv.errors import ConfigError, DataError, LengthError
from qkv.evaluation.perplexity import LanguageModelScores, language_model_scores
from qkv.generation.sampling import Sampling
from qkv.generation.stepping import check_max_length
from qkv.models.causal import CausalLM
from qkv.models.modes import evaluating
from qkv.tasks.commands import Predict, language_note
from qkv.tasks.conversation import talk
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.generation import AS_FILES_SAY, SamplingOptions, likelihood_line, likelihood_tables
from qkv.tasks.generator import Generator
from qkv.tasks.inputs import Item, text_items
from qkv.tasks.likelihood import target_losses
from qkv.tasks.outputs import remark
from qkv.tasks.pipeline import Pipeline
from qkv.tasks.splits import DataConfig, Splits
from qkv.tasks.streams import is_interactive
from qkv.tasks.task import Task
from qkv.tasks.train import Recipe, TrainingBatches
from qkv.training.pretraining import packed_loss
from qkv.training.settings import Training
from qkv.zoo.catalog import Entry

MAX_LENGTH = 200  # tokens of a reply, if neither caller nor files set a limit


@dataclass(frozen=True)
class Reply:
    """The reply to a conversation.

    Args:
        message: the last message.
        text: the reply.
        ended: whether it ended by itself, not at the maximum length.
        seed: random seed.
        forgotten: number of old messages that were left out, for lack of room.
    """

    message: str
    text: str
    ended: bool
    seed: int
    forgotten: int = 0


class _Rendered(Generator):
    """Continues rendered conversations, whose special tokens the template has written."""

    usual: ClassVar = MAX_LENGTH

    def encode(self, prompt: str) -> list[int]:
        """Return the token ids of a rendered conversation."""
        return self.tokenizer.parse(prompt)[0]


@dataclass(frozen=True)
class Chat(Pipeline[Conversation, Reply, LanguageModelScores]):
    """A language model with a chat template.

    If a conversation and a reply do not fit the context, the oldest question and its answer are
    left out, as often as needed; a system message stays.

    Args:
        loaded: model and tokenizer, whose files have a chat template.

    Raises:
        ConfigError: the model is of another kind, or has no chat template.
    """

    kinds: ClassVar = (CausalLM,)
    expected: ClassVar = (
        "a causal language model with a chat template, such as smollm2 (qkv generate continues "
        "texts without one)"
    )

    def __post_init__(self) -> None:
        """Check the model and its template."""
        self.check(self.loaded)
        _ = self.generator, self.template

    @cached_property
    def generator(self) -> Generator:
        """The model as a text generator."""
        return _Rendered(self.loaded)

    @cached_property
    def template(self) -> ChatTemplate:
        """The chat template of the model's files."""
        template = read_template({**self.tokenizer.files, **self.loaded.files})
        if template is None:
            raise ConfigError(f"the model's files have no chat template; expected {self.expected}")
        return template

    def fit(
        self, messages: Sequence[Message], max_length: int | None = None
    ) -> tuple[str, list[Message]]:
        """Return the rendered conversation without old messages that do not fit, and its messages.

        Args:
            messages: a conversation that ends with a question.
            max_length: maximum number of tokens of the reply.

        Raises:
            LengthError: the last message alone does not fit.
        """
        kept = list(messages)
        generator = self.generator
        limits = generator.decoding.limits(0, usual=MAX_LENGTH, most=max_length)
        room = generator.context - min(limits.most, generator.context // 2)
        while True:
            text = self.template.render(kept, reply=True)
            length = len(generator.encode(text))
            if length <= room:
                return text, kept
            first = 1 if kept[0]["role"] == "system" else 0
            following = [i for i in range(first + 1, len(kept)) if kept[i]["role"] == "user"]
            if not following:
                raise LengthError(
                    f"the message and what the template adds have {length:,} tokens; expected at "
                    f"most {room:,}: the context of {generator.context:,} without room for a reply"
                )
            kept = [*kept[:first], *kept[following[0] :]]

    def predict(
        self,
        prompts: Sequence[str | Sequence[Message]],
        *,
        system: str | None = None,
        max_length: int | None = None,
        sampling: Sampling | None = None,
        seed: int | Sequence[int] = 0,
        stop_strings: Sequence[str] | None = None,
        progress: bool = False,
    ) -> list[Reply]:
        """Reply to messages or conversations, in their order.

        Args:
            prompts: messages, or conversations as lists of {"role": ..., "content": ...}.
            system: a system message before each message; default: that of the template, if any.
            max_length: maximum number of tokens of a reply; default: from the model's files, else
                about 200, up to the end of a sentence.
            sampling: how tokens are sampled; default: from the model's files.
            seed: random seed of all replies, or one each.
            stop_strings: strings that end a reply and are not part of it; default: none.
            progress: show a progress bar on standard error.

        Raises:
            ConfigError: an option is wrong, or the template rejects the messages.
            DataError: the messages are malformed.
            LengthError: a message is too long.
        """
        whole = [self.conversation(one, system) for one in prompts]
        fitted = [self.fit(one, max_length) for one in whole]
        outputs = self.generator.predict(
            [text for text, _ in fitted],
            max_length=max_length,
            sampling=sampling,
            seed=seed,
            stop_strings=stop_strings or (),
            progress=progress,
        )
        return [
            Reply(one[-1]["content"], out.text.strip(), out.ended, out.seed, len(one) - len(kept))
            for one, (_, kept), out in zip(whole, fitted, outputs, strict=True)
        ]

    def __call__(self, text: Any, *more: Any, progress: bool = False, **options: Any) -> Any:
        """Return the reply to a message or a conversation, or the replies to a list of them."""
        if isinstance(text, list | tuple) and text and isinstance(text[0], Mapping):
            return self.predict([list(text)], *more, progress=progress, **options)[0]
        return super().__call__(text, *more, progress=progress, **options)

    def conversation(
        self, prompt: str | Sequence[Message], system: str | None = None
    ) -> tuple[Message, ...]:
        """Return a message, or messages, as a conversation that ends with a question.

        Raises:
            DataError: the messages are malformed, or contain the name of a special token.
        """
        messages: Any = prompt
        if isinstance(prompt, str):
            messages = [{"role": "user", "content": prompt}]
        if system is not None and isinstance(messages, list | tuple):
            messages = [{"role": "system", "content": system}, *messages]
        checked = check_messages(messages, "the conversation", last="user")
        refuse_special(self.tokenizer, checked)
        return checked

    def reply(
        self, messages: Sequence[Message], *, max_length: int | None = None, **options: Any
    ) -> Iterator[str]:
        """Yield the reply to a conversation in pieces, as it is generated; see `predict`."""
        text, _ = self.fit(self.conversation(messages), max_length)
        return self.generator.stream(text, max_length=max_length, stop_strings=(), **options)

    def evaluate(
        self, examples: Sequence[Conversation], *, progress: bool = False
    ) -> LanguageModelScores:
        """Score the likelihood of the answers, each with the tokens that end it.

        Raises:
            DataError: there are no conversations, or an answer lies beyond the context.
        """
        if not examples:
            raise DataError("there are no conversations to score; expected at least one")
        rows = [
            encode_answers(
                self.tokenizer, self.template, one.messages, max_length=self.generator.context
            )
            for one in examples
        ]
        if beyond := [i for i, row in enumerate(rows, start=1) if not row.targets]:
            raise DataError(f"conversation {beyond[0]} has no answer within the model's context")
        with evaluating(self.model):
            losses = target_losses(self.model, rows, progress=progress)
        answers = [
            sum(len(m["content"]) + 1 for m in one.messages if m["role"] == "assistant")
            for one in examples
        ]
        return language_model_scores(losses, [len(row.targets) for row in rows], answers)


@dataclass(frozen=True, kw_only=True)
class ChatRecipe(Recipe[Chat]):
    """Fine-tune a language model on conversations; only the answers are learned.

    Args:
        max_length: maximum number of tokens of a conversation, and the length of a packed row.
    """

    base: str | None = "smollm2"
    data: DataConfig
    finetuning: FineTuning = FineTuning(train="lora")
    training: Training = Training(
        epochs=3.0, max_tokens=1_024, learning_rate=1e-3, schedule="linear", warmup=0.1
    )
    max_length: int = 512

    metric: ClassVar = "log-probability"
    hint: ClassVar = "qkv chat --model {}"
    batched_by: ClassVar = "max_tokens"
    smooths: ClassVar = False

    def build(self, splits: Splits[Conversation]) -> Chat:
        """Load the base."""
        return Chat.load(self.base or "")

    def check(self) -> None:
        """Check that there is a base."""
        super().check()
        if self.max_length < 2:
            raise ConfigError(f"max_length = {self.max_length}; expected at least 2 tokens")
        if self.base is None:
            raise ConfigError("base = null; expected a model with a chat template, such as smollm2")

    def batches(self, pipeline: Chat, splits: Splits[Conversation]) -> TrainingBatches:
        """Encode the conversations, and pack them into rows."""
        length = min(self.max_length, pipeline.generator.context)
        rows = [
            encode_answers(pipeline.tokenizer, pipeline.template, one.messages, max_length=length)
            for one in splits.train
        ]
        kept = [row for row in rows if row.targets]
        if not kept:
            raise DataError(
                f"no conversation has an answer within max_length = {length} tokens; expected a "
                "larger max_length"
            )
        cut = sum(len(row.tokens) == length for row in rows)
        batches = packed_batches(
            kept, length=length, pad=pipeline.tokenizer.filler, batching=self.training.batching()
        )
        answers, tokens = sum(len(r.targets) for r in kept), sum(len(r.tokens) for r in kept)
        remarks = [f"{tokens:,} tokens, of which {answers:,} are answers to learn"]
        if cut:
            remarks.append(f"{cut:,} conversations are cut off at {length} tokens")
        if len(kept) < len(rows):
            remarks.append(f"{len(rows) - len(kept):,} are left out: their answers begin later")
        return TrainingBatches(batches, length, tuple(remarks), -(-tokens // length))

    def loss(self, model: CausalLM, batch: Any) -> Tensor:
        """Return the sum of the cross-entropies of the answers' tokens."""
        return packed_loss(model, batch)

    def metrics(self, scores: LanguageModelScores) -> dict[str, float]:
        """Return the mean log-probability of a token of an answer, and the perplexity."""
        return {"log-probability": -scores.loss, "perplexity": scores.perplexity}


@dataclass(frozen=True, kw_only=True)
class ChatCommand(Predict[Chat]):
    """Options of `qkv chat`.

    Args:
        system: the system message: how the model should reply.
        max_length: maximum number of tokens of a reply; default: from the model's files, else
            about 200, up to the end of a sentence.
        sampling: how tokens are sampled.
        seed: random seed.
    """

    system: str | None = None
    max_length: int | None = None
    sampling: Annotated[SamplingOptions, Parameter(name="*")] = AS_FILES_SAY
    seed: int = 0

    inputs: ClassVar = (
        "messages, each answered by itself; without any, a terminal has a conversation"
    )
    about: ClassVar = (
        "In a conversation, /help lists what you can type. When it outgrows the model's context, "
        "the oldest questions and answers are left out. The shipped model is small: it answers "
        "fluently, and invents facts."
    )

    def check(self) -> None:
        """Check the options."""
        Sampling(**self.sampling.changes)
        if self.max_length is not None:
            check_max_length(self.max_length)
        if self.system is not None and not self.system.strip():
            raise ConfigError("--system is empty; expected a text")
        if not 0 <= self.seed < 2**48:
            raise ConfigError(f"seed = {self.seed}; expected from 0 to {2**48 - 1}")

    def items(self, inputs: Sequence[str], columns: Mapping[str, str]) -> Iterable[Item]:
        """Return the messages; none for a conversation on a terminal."""
        if not inputs and self.file is None and is_interactive():
            return []
        return text_items(inputs, self.file, columns, span=self.span, what="a message")

    def answer(self, pipeline: Chat, items: Sequence[Item], shipped: Entry | None) -> None:
        """Converse, or print a single reply as it is generated, or several, one per line."""
        options = self._options(pipeline)
        if not items:
            talk(pipeline, self.system, **options)
        elif len(items) > 1 or items[0].problem or self.json or self.output is not None:
            super().answer(pipeline, items, shipped)
        else:
            text = items[0].fields["text"]
            remark(text, language_note(shipped, text))
            messages = pipeline.conversation(text, self.system)
            for piece in pipeline.reply(messages, **options):
                print(piece, end="", flush=True)
            print()

    def predict(self, pipeline: Chat, fields: Sequence[Mapping[str, str]]) -> list[Reply]:
        """Reply to the messages."""
        messages = [one["text"] for one in fields]
        options = self._options(pipeline)
        return pipeline.predict(messages, system=self.system, progress=True, **options)

    def line(self, prediction: Reply) -> str:
        """Return the reply in one line."""
        if not prediction.ended:
            remark(prediction.message, "the reply was cut off at its maximum length")
        return " ".join(prediction.text.split())

    def _options(self, pipeline: Chat) -> dict[str, Any]:
        sampling = self.sampling.over(pipeline.generator)
        return {"max_length": self.max_length, "sampling": sampling, "seed": self.seed}


TASK = Task(
    name="chat",
    default="smollm2",
    pipeline=Chat,
    recipe=ChatRecipe,
    predict=ChatCommand,
    columns={"prompt": "prompt", "response": "response", "system": None},
    example=conversation,
    tables=likelihood_tables,
    summary=likelihood_line,
    read=read_conversations,
    group=lambda example: str(example.messages[:-1]),
)
