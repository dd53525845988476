"""The contract with OpenAI's own client, over a real socket."""

import base64

import numpy as np
import openai
import pytest

from qkv.tasks.chat import Chat
from qkv.tasks.embedding import Embedder
from qkv.tasks.generator import Generator

MESSAGES = [{"role": "system", "content": "Be new."}, {"role": "user", "content": "Is it old?"}]


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.base, api_key="none", max_retries=0) as client:
        yield client


def test_models(client):
    listed = list(client.models.list())
    assert [one.id for one in listed] == ["talker", "plain", "encoder", "opinions"]
    assert {one.object for one in listed} == {"model"}
    assert client.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError, match="the model 'x' is not served; expected one of"):
        client.models.retrieve("x")


def test_a_completion(client, talker):
    [alone] = Generator(talker).predict(["Is it"], max_length=17)
    answer = client.completions.create(model="talker", prompt="Is it", max_tokens=17)
    assert answer.object == "text_completion"
    [choice] = answer.choices
    assert choice.text == alone.text
    assert choice.finish_reason == ("stop" if alone.ended else "length")
    assert answer.usage.completion_tokens == len(alone.tokens)
    assert answer.usage.prompt_tokens == len(Generator(talker).encode("Is it"))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + len(alone.tokens)


def test_several_prompts_have_an_answer_each(client, talker):
    prompts = ["Is it", "It was", "", "new"]
    answer = client.completions.create(model="talker", prompt=prompts, max_tokens=7, seed=3)
    alone = Generator(talker).predict(prompts, max_length=7)
    assert [one.text for one in answer.choices] == [one.text for one in alone]
    assert [one.index for one in answer.choices] == [0, 1, 2, 3]


def test_a_seed_decides_and_a_stop_string_ends(client, talker):
    options = {"model": "talker", "prompt": "Is it", "max_tokens": 31, "temperature": 1.1}

    def text(**more):
        return client.completions.create(**options, **more).choices[0].text

    assert text(seed=5) == text(seed=5)
    assert len({text() for _ in range(5)}) > 1  # without one, it is random
    whole = text(seed=5)
    stop = whole[3:5]
    for stops in (stop, ["§§", stop]):
        answer = client.completions.create(**options, seed=5, stop=stops)
        assert answer.choices[0].text == whole[: whole.index(stop)]
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens <= 31


def test_the_pieces_of_a_stream_are_the_whole(client):
    options = {"model": "talker", "prompt": ["Is it", "It was"], "max_tokens": 23}
    whole = client.completions.create(**options)
    texts, reasons = ["", ""], [None, None]
    for chunk in client.completions.create(**options, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [one.text for one in whole.choices]
    assert reasons == [one.finish_reason for one in whole.choices]


def test_a_chat_and_its_stream(client, talker):
    options = {"model": "talker", "messages": MESSAGES, "max_tokens": 29, "temperature": 0}
    answer = client.chat.completions.create(**options)
    message = answer.choices[0].message
    assert message.role == "assistant"
    assert message.content.strip() == Chat(talker)(MESSAGES, max_length=29).text
    chunks = list(
        client.chat.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [one.delta.content or "" for chunk in chunks for one in chunk.choices]
    assert "".join(pieces) == message.content
    assert [c.choices[0].finish_reason for c in chunks[:-1]][-1] == answer.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage == answer.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_reply_goes_back_into_the_conversation(client):
    first = client.chat.completions.create(model="talker", messages=MESSAGES, max_tokens=5, seed=1)
    said = first.choices[0].message.model_dump()
    parts = [{"type": "text", "text": "Is it "}, {"type": "text", "text": "red?"}]
    if not said["content"].strip():
        said["content"] = "It is."
    more = [*MESSAGES, said, {"role": "user", "content": parts}]
    options = {"model": "talker", "max_completion_tokens": 5, "seed": 1}
    second = client.chat.completions.create(messages=more, **options)
    more[-1] = {"role": "user", "content": "Is it red?"}
    third = client.chat.completions.create(messages=more, **options)
    assert second.choices[0].message == third.choices[0].message


@pytest.mark.parametrize("encoding", [None, "float", "base64"])
def test_embeddings(client, encoder, encoding):
    """The client asks for base64 unless told otherwise, and decodes it."""
    texts = ["the film was fine", "the soup was dull .", "a book"]
    alone = Embedder.of(encoder).predict(texts)
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="encoder", input=texts, **options)
    vectors = [one.embedding for one in answer.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(one), "<f4") for one in vectors]
    assert np.allclose(vectors, alone, atol=1e-7 if encoding != "float" else 1e-12, rtol=0)
    single = client.embeddings.create(model="encoder", input=texts[1], **options)
    assert len(single.data) == 1
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 12


WRONG = [
    ({"model": "talker", "prompt": "x", "n": 2}, "n = 2: expected 1 or null: others are not"),
    ({"model": "talker", "prompt": "x", "logprobs": 3}, "logprobs = 3: expected null"),
    ({"model": "talker", "prompt": "x", "logit_bias": {"3": 9}}, "logit_bias"),
    ({"model": "talker", "prompt": "x", "frequency_penalty": 0.5}, "frequency_penalty = 0.5"),
    ({"model": "talker", "prompt": "x", "suffix": "y"}, "suffix = 'y'"),
    ({"model": "talker", "prompt": "x", "temperature": -1}, "temperature = -1"),
    ({"model": "talker", "prompt": "x", "top_p": 0}, "top_p = 0"),
    ({"model": "talker", "prompt": "x", "max_tokens": 0}, "max_tokens = 0"),
    ({"model": "talker", "prompt": "x", "seed": -1}, "seed = -1"),
    ({"model": "talker", "prompt": "x", "stop": ""}, "stop"),
    ({"model": "talker", "prompt": [5, 6]}, "prompt"),
    (
        {"model": "talker", "prompt": "x" * 50, "max_tokens": 200},
        "the prompt has 50 tokens and the answer may have 200, together 250; expected at most 211",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[one[1][:20] for one in WRONG])
def test_what_is_refused_says_why(client, options, message):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**options)
    assert message in caught.value.message
    assert caught.value.type == "invalid_request_error"


def test_other_errors_are_exceptions_of_the_client(client):
    def chat(model, **more):
        return client.chat.completions.create(model=model, messages=MESSAGES, **more)

    with pytest.raises(openai.NotFoundError, match="the model 'gpt-5' is not served") as caught:
        chat("gpt-5")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError, match="POST /v1/tasks/embed serves this one"):
        chat("encoder")
    with pytest.raises(openai.BadRequestError, match="plain: the model's files have no chat temp"):
        chat("plain")
    with pytest.raises(openai.BadRequestError, match="is not supported: it would change"):
        chat("talker", extra_body={"guided_json": "{}"})
    with pytest.raises(openai.BadRequestError, match="expected user, perhaps after a system"):
        client.chat.completions.create(
            model="talker", messages=[{"role": "assistant", "content": "x"}]
        )
    with pytest.raises(openai.NotFoundError, match="expected a model that embeds: encoder"):
        client.embeddings.create(model="talker", input="x")
    with pytest.raises(openai.BadRequestError, match="dimensions = 3: expected null"):
        client.embeddings.create(model="encoder", input="x", dimensions=3)
    with pytest.raises(openai.BadRequestError, match="a text of input is empty"):
        client.embeddings.create(model="encoder", input=["film", " "])
    long = "film " * 100
    with pytest.raises(openai.BadRequestError, match=r"text 1 of input has 102 tokens; expected"):
        client.embeddings.create(model="encoder", input=["film", long])
    cut = client.embeddings.create(model="encoder", input=long, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 41


def test_what_changes_nothing_is_ignored(client):
    answer = client.completions.create(
        model="talker",
        prompt="Is it",
        max_tokens=3,
        user="someone",
        extra_body={"metadata": {"a": "b"}, "n": 1, "echo": False, "presence_penalty": 0},
    )
    assert answer.choices[0].text


def test_an_error_in_a_stream_ends_it(client, server, monkeypatch, capfd):
    model = server.models.find("talker").engine.start().result().model
    step, n = model.step, iter(range(10**6))

    def fail(*arguments):
        if next(n) > 4:
            raise RuntimeError("out of memory")
        return step(*arguments)

    monkeypatch.setattr(model, "step", fail)
    options = {"model": "talker", "prompt": "Is it", "max_tokens": 50, "temperature": 0, "seed": 0}
    with pytest.raises(openai.APIError, match="the model failed: RuntimeError"):
        list(client.completions.create(**options, stream=True))
    with pytest.raises(openai.InternalServerError, match="the model failed: RuntimeError"):
        client.completions.create(**options)
    monkeypatch.undo()
    assert client.completions.create(**options).choices[0].text
    assert "qkv: error: RuntimeError: out of memory" in capfd.readouterr().err
