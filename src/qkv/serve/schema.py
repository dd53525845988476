"""The bodies of OpenAI's routes. A field that would change the answer is honored or rejected."""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    create_model,
)
from pydantic_core import core_schema

from qkv.web.content import LONGEST_TEXT

LONGEST_PROMPT = 1_000_000  # characters; the model's context is the actual limit
PROMPTS, TEXTS = 64, 2_048  # of a request
SEEDS = 2**48


class Only:
    """The values with which an unsupported field is accepted, because they change nothing.

    Args:
        neutral: these values.
    """

    def __init__(self, *neutral: Any):
        self.neutral = neutral

    def check(self, value: Any) -> Any:
        """Return the value if it is neutral."""
        if any(value is one or (type(value) is type(one) and value == one) for one in self.neutral):
            return value
        expected = " or ".join(map(json.dumps, self.neutral))
        raise ValueError(f"expected {expected}: others are not supported")

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        """Return the schema by which values are checked."""
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """Return the schema that is documented."""
        return {"enum": list(self.neutral)}


Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT)]
StopString = Annotated[str, Field(min_length=1, max_length=1_000)]
Share = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    """A body that rejects unknown fields, and never converts values."""

    model_config = ConfigDict(extra="forbid", strict=True)


class StreamOptions(Strict):
    """The contents of a stream besides the answer."""

    include_usage: bool = False
    include_obfuscation: Any = None


class Generating(Strict):
    """The common fields of completions and replies.

    Args:
        model: name of the model.
        temperature: values below 1 sharpen the distribution; 0 is greedy decoding; default: from
            the model's files, else 0.8.
        top_p: sample from the smallest set of most probable tokens with this total probability.
        top_k: sample from the k most probable tokens.
        min_p: sample from tokens at least this fraction as probable as the most probable one.
        repetition_penalty: values above 1 make tokens that already occur less probable.
        seed: random seed; an answer depends on nothing else. Default: a random one.
        stop: strings that end the answer and are not part of it.
        stream: whether to send the answer in pieces, by server-sent events.
    """

    model: str
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=1, le=2**31)] | None = None
    min_p: Share | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Accepted with the value that changes nothing:
    n: Annotated[Any, Only(1, None)] = None
    frequency_penalty: Annotated[Any, Only(0, 0.0, None)] = None
    presence_penalty: Annotated[Any, Only(0, 0.0, None)] = None
    logit_bias: Annotated[Any, Only({}, None)] = None
    # Ignored:
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None


class CompletionRequest(Generating):
    """Continue texts.

    Args:
        prompt: a text, or a list of texts.
        max_tokens: maximum number of new tokens; default: from the model's files, else about
            120, up to the end of a sentence, if the context has room.
    """

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=PROMPTS)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    best_of: Annotated[Any, Only(1, None)] = None
    echo: Annotated[Any, Only(False, None)] = None
    logprobs: Annotated[Any, Only(None)] = None
    suffix: Annotated[Any, Only("", None)] = None


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: Prompt


class Said(Strict):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Prompt | Annotated[list[TextPart], Field(min_length=1, max_length=PROMPTS)]
    # Fields of replies that clients send back:
    refusal: Annotated[Any, Only(None)] = None
    annotations: Annotated[Any, Only(None, [])] = None
    audio: Annotated[Any, Only(None)] = None
    function_call: Annotated[Any, Only(None)] = None
    tool_calls: Annotated[Any, Only(None, [])] = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class ChatRequest(Generating):
    """Reply to a conversation.

    Args:
        messages: the conversation; an optional system message, then questions and answers.
        max_tokens: maximum number of tokens of the reply; default: from the model's files, else
            about 200, up to the end of a sentence, if the context has room.
        max_completion_tokens: another name for max_tokens.
    """

    messages: Annotated[list[Said], Field(min_length=1, max_length=1_000)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    logprobs: Annotated[Any, Only(False, None)] = None
    top_logprobs: Annotated[Any, Only(0, None)] = None
    response_format: Annotated[Any, Only({"type": "text"}, None)] = None
    tools: Annotated[Any, Only([], None)] = None
    tool_choice: Annotated[Any, Only("none", None)] = None
    parallel_tool_calls: Any = None


class EmbeddingRequest(Strict):
    """Embed texts as unit vectors.

    Args:
        model: name of the model.
        input: a text, or a list of texts.
        encoding_format: numbers, or base64 of float32 in little-endian order.
        truncate: whether to truncate texts that are too long for the model, which otherwise are
            errors.
    """

    model: str
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=TEXTS)]
    encoding_format: Literal["float", "base64"] | None = None
    truncate: bool = False
    dimensions: Annotated[Any, Only(None)] = None
    user: Any = None


def with_models(kind: type[Any], names: list[str]) -> type[Any]:
    """Return a body whose documentation lists the models; other names are rejected later."""
    if not names:
        return kind
    listed = WithJsonSchema({"type": "string", "enum": names})
    named: Any = Annotated[str, listed]
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, model=(named, ...))
