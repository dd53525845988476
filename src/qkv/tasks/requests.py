"""Requests to a scheduler (`qkv.generation.scheduler`), from prompts and conversations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qkv.data.chat import Message
from qkv.errors import LengthError
from qkv.generation.request import Choose, most_probable
from qkv.generation.sampling import Drawing, Sampling
from qkv.generation.stepping import Ends
from qkv.generation.streaming import Decode, cut_text
from qkv.tasks.chat import Chat
from qkv.tasks.generator import Generator


@dataclass(frozen=True)
class Plan:
    """The parameters of a scheduler request, whose answer equals that of `Generator.predict`.

    Args:
        prompt: token ids of the prompt.
        stop: ids that end the answer.
        max_length: maximum number of tokens of the answer.
        choose: chooses each token.
        ends: ends the answer early; None if only `stop` and `max_length` do.
        decode: returns the text of an answer's ids.
        stop_strings: strings that end the text and are not part of it.
    """

    prompt: list[int]
    stop: frozenset[int]
    max_length: int
    choose: Choose
    ends: Ends | None
    decode: Decode
    stop_strings: tuple[str, ...]

    def text(self, answer: Sequence[int]) -> str:
        """Return the text of an answer."""
        return cut_text(self.decode(list(answer)), self.stop_strings)

    def ended(self, answer: Sequence[int]) -> bool:
        """Return whether an answer ended by itself, not at its maximum length."""
        ids = list(answer)
        if not ids:
            return False
        return ids[-1] in self.stop or (self.ends is not None and self.ends(ids))


def plan(
    generator: Generator,
    prompt: str,
    *,
    max_length: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_strings: Sequence[str] | None = None,
) -> Plan:
    """Return the plan of a prompt's continuation; see `Generator.predict`.

    Prompt and answer must fit the context, because the window does not slide. If no maximum length
    is set, the answer may fill the rest of the context.

    Raises:
        ConfigError: an option is wrong.
        DataError: the prompt is empty, and the model has no start token.
        LengthError: prompt and answer are longer than the model's context.
    """
    sampling, strings = generator.chosen(max_length, sampling, stop_strings)
    ids, decoding = generator.begin(prompt)
    room = generator.context - len(ids)
    limits = generator.limits(ids, max_length)
    if max_length is None and limits.most > room > 0:
        limits = generator.limits(ids, room)
    if limits.most > room:
        raise LengthError(
            f"the prompt has {len(ids):,} tokens and the answer may have {limits.most:,}, together "
            f"{len(ids) + limits.most:,}; expected at most {generator.context:,}, the model's "
            "context"
        )
    greedy = sampling.temperature == 0
    if greedy:  # the most probable token is the same at any temperature
        sampling = replace(sampling, temperature=1.0, top_k=None, top_p=None, min_p=None)
    continuation = generator.continuation(sampling, decoding)
    processors = continuation.processors(limits, begun=len(ids), source=ids)
    drawn = Drawing(ids, limits.most, None if greedy else seed, processors)
    choose = most_probable if greedy and not processors else drawn
    return Plan(
        ids,
        frozenset(generator.stops),
        limits.most,
        choose,
        generator.ending(prompt, limits, strings),
        generator.decoder(prompt),
        tuple(strings),
    )


def chat_plan(
    chat: Chat,
    messages: Sequence[Message],
    *,
    max_length: int | None = None,
    sampling: Sampling | None = None,
    seed: int = 0,
    stop_strings: Sequence[str] = (),
) -> Plan:
    """Return the plan of the reply to a conversation; see `Chat.predict`.

    Unlike `Chat.predict`, this function never drops old messages.

    Raises:
        ConfigError: an option is wrong, or the template rejects the messages.
        DataError: the messages are malformed.
        LengthError: conversation and reply are longer than the model's context.
    """
    text = chat.template.render(chat.conversation(messages), reply=True)
    options = {"max_length": max_length, "sampling": sampling, "seed": seed}
    return plan(chat.generator, text, stop_strings=stop_strings, **options)
