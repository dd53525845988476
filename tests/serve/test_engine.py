"""One model and its thread: answers as alone, calls together, errors, the end."""

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from tests.serve.conftest import language_model

from qkv.errors import BusyError, ConfigError
from qkv.generation.request import Request
from qkv.generation.sampling import Sampling
from qkv.serve import answers
from qkv.serve import engine as module
from qkv.serve.engine import Call, Engine
from qkv.tasks.chat import Chat
from qkv.tasks.generator import Generator
from qkv.tasks.prose import NO_MODEL
from qkv.tasks.requests import chat_plan, plan

PROMPTS = ["Is it", "", "It is old", "Is it red? It is blue. Is it new? ", "new", "It was before"]
SAMPLINGS = [
    Sampling(temperature=0.0),
    Sampling(temperature=0.9),
    Sampling(temperature=1.3, top_p=0.8, repetition_penalty=1.1),
    Sampling(temperature=0.7, top_k=7),
]


@pytest.fixture
def engine(talker):
    running = Engine("talker", lambda: talker, max_rows=3)
    running.start().result(60)
    yield running
    running.stop()
    running.join(10)


def submit(engine, planned):
    request = Request(
        planned.prompt, planned.stop, planned.max_length, planned.choose, planned.ends
    )
    engine.generate(request)
    return request


def asked(i):
    options = {"sampling": SAMPLINGS[i % len(SAMPLINGS)], "seed": 7 * i, "max_length": 5 + i % 11}
    if i % 5 == 3:
        options["stop_strings"] = ["e", "it "]
    return PROMPTS[i % len(PROMPTS)], options


def test_each_answer_is_the_same_as_alone(engine, talker):
    """Greedy and sampled, with and without stop strings, whatever runs beside it."""
    generator = Generator(talker)

    def one(i):
        prompt, options = asked(i)
        planned = plan(generator, prompt, **options)
        answer = list(submit(engine, planned))
        return planned.text(answer), planned.ended(answer), len(answer)

    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(one, range(29)))
    for i, (text, ended, n) in enumerate(answers):
        prompt, options = asked(i)
        [alone] = generator.predict([prompt], **options)
        assert (text, ended, n) == (alone.text, alone.ended, len(alone.tokens)), i


def test_a_reply_is_that_of_the_chat(engine, talker):
    chat = Chat(talker)
    messages = [{"role": "system", "content": "Be new."}, {"role": "user", "content": "Is it?"}]
    planned = chat_plan(chat, messages, max_length=23)
    answer = list(submit(engine, planned))
    assert planned.text(answer).strip() == chat(messages, max_length=23).text


def test_without_a_limit_the_answer_is_that_of_the_command(talker):
    long = language_model(n_positions=401)
    running = Engine("long", lambda: long)
    running.start().result(60)
    generator = Generator(long)
    planned = plan(generator, "Is it")
    answer = list(submit(running, planned))
    assert planned.text(answer) == generator("Is it").text
    assert plan(Generator(talker), "Is it blue? " * 9).max_length < planned.max_length  # the room
    running.stop()


def double(inputs):
    return [2 * one for one in inputs]


def hold(engine):
    """Keep the engine busy until the event is set."""
    gate, began = threading.Event(), threading.Event()

    def wait(inputs):
        began.set()
        gate.wait(60)
        return inputs

    future = engine.call(Call(None, [0], wait))
    began.wait(60)
    return gate, future


@pytest.fixture
def caller():
    running = Engine("caller", lambda: NO_MODEL, max_waiting=5)
    yield running
    running.stop()
    running.join(10)


def test_calls_with_the_same_key_are_made_together(caller):
    made = []

    def noted(inputs):
        made.append(list(inputs))
        return double(inputs)

    gate, _ = hold(caller)
    keys = ["a", "b", "a", None, "a"]
    futures = [
        caller.call(Call(key, [10 * i + j for j in range(i)], noted))
        for i, key in enumerate(keys, 1)
    ]
    gate.set()
    for i, future in enumerate(futures, 1):
        assert future.result(60) == [2 * (10 * i + j) for j in range(i)]
    assert made == [[10, 30, 31, 32, 50, 51, 52, 53, 54], [20, 21], [40, 41, 42, 43]]


def test_a_call_has_at_most_so_many_inputs(caller, monkeypatch):
    monkeypatch.setattr(module, "TOGETHER", 5)
    sizes = []

    def noted(inputs):
        sizes.append(len(inputs))
        return inputs

    gate, _ = hold(caller)
    futures = [caller.call(Call("a", [0] * n, noted)) for n in (3, 2, 4, 7)]
    gate.set()
    assert [len(future.result(60)) for future in futures] == [3, 2, 4, 7]
    assert sizes == [5, 4, 7]


def test_a_call_that_has_waited_too_long_is_refused_and_leaves_the_queue(caller, monkeypatch):
    monkeypatch.setattr(answers, "LONGEST_WAIT", 0.05)
    gate, first = hold(caller)
    with pytest.raises(BusyError, match="caller has been busy for 0 s: try again later"):
        asyncio.run(answers.made(caller, Call("a", [1], double)))
    gate.set()
    assert first.result(60) == [0]
    assert asyncio.run(answers.made(caller, Call("a", [2], double))) == [4]


def test_an_error_concerns_its_own_call(caller):
    def fail(inputs):
        if 13 in inputs:
            raise RuntimeError("thirteen")
        return double(inputs)

    gate, _ = hold(caller)
    good, bad, other = (caller.call(Call("a", [n], fail)) for n in (11, 13, 17))
    gate.set()
    assert (good.result(60), other.result(60)) == ([22], [34])
    with pytest.raises(RuntimeError, match="thirteen"):
        bad.result(60)
    assert caller.call(Call("a", [1], double)).result(60) == [2]


def test_the_queue_is_bounded_and_cancelled_calls_leave_it(caller):
    gate, _ = hold(caller)
    futures = [caller.call(Call("a", [i], double)) for i in range(5)]
    with pytest.raises(BusyError, match="5 requests wait for caller; expected room for another"):
        caller.call(Call("a", [5], double))
    assert futures[2].cancel()
    last = caller.call(Call("a", [6], double))
    gate.set()
    assert [one.result(60) for one in (*futures[:2], *futures[3:], last)] == [
        [0], [2], [6], [8], [12],
    ]  # fmt: skip


def test_a_model_that_breaks_in_the_middle_of_a_batch(engine, talker, monkeypatch):
    step, broken = talker.model.step, threading.Event()

    def fail(*arguments):
        if broken.is_set():
            raise RuntimeError("out of memory")
        return step(*arguments)

    monkeypatch.setattr(talker.model, "step", fail)
    generator = Generator(talker)
    planned = [plan(generator, "Is it", max_length=97, stop_strings=()) for _ in range(5)]
    requests = [submit(engine, one) for one in planned]
    assert next(iter(requests[0])) >= 0
    broken.set()
    for request in requests:  # also those that waited: they were read, and failed at once
        with pytest.raises(RuntimeError, match="out of memory"):
            list(request)
    broken.clear()
    assert list(submit(engine, planned[0]))


def test_the_end_answers_all_that_wait(talker):
    running = Engine("talker", lambda: talker, max_rows=2)
    running.start().result(60)
    planned = plan(Generator(talker), "Is it", max_length=150)
    gate, first = hold(running)
    requests = [submit(running, planned) for _ in range(3)]
    call = running.call(Call(None, [1], double))
    running.stop()
    gate.set()
    running.join(10)
    assert first.result(60) == [0]
    for waiting in (lambda: call.result(60), *(lambda one=one: list(one) for one in requests)):
        with pytest.raises(BusyError, match="the server is stopping"):
            waiting()
    assert not running.healthy
    with pytest.raises(BusyError, match="is not served any more"):
        running.call(Call(None, [1], double))
    with pytest.raises(BusyError, match="is not served any more"):
        running.generate(Request([1], set(), 1))


def test_a_model_that_cannot_be_loaded():
    def load():
        raise ConfigError("no such model")

    running = Engine("broken", load)
    call = running.call(Call(None, [1], double))
    with pytest.raises(ConfigError, match="no such model"):
        running.start().result(60)
    with pytest.raises(ConfigError, match="no such model"):
        call.result(60)
    assert not running.healthy


def test_a_future_that_was_cancelled_is_left_alone(caller):
    gate, _ = hold(caller)
    future: Future = caller.call(Call("a", [1], double))
    future.cancel()
    caller.stop()
    gate.set()
    caller.join(10)
    assert future.cancelled()
