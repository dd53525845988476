"""Requests that join and leave a running batch get the answers that they would get alone."""

import threading
import time

import pytest
import torch

from qkv.errors import BusyError, ConfigError, LengthError
from qkv.generation.greedy import greedy
from qkv.generation.request import Request
from qkv.generation.sampling import Drawing, Sampling, sample
from qkv.generation.scheduler import Scheduler
from qkv.inference.optimize import optimize
from qkv.models.gpt import GPT, GPTConfig
from qkv.models.llama import Llama, LlamaConfig

VOCAB = 37
SIZES = {"vocab_size": VOCAB, "d_model": 24, "n_heads": 2, "d_ff": 31, "n_layers": 2}
MODELS = {
    "gpt": lambda: GPT(GPTConfig(**SIZES, n_positions=128)),
    "llama": lambda: Llama(LlamaConfig(**SIZES, n_kv_heads=1)),
    "window": lambda: Llama(LlamaConfig(**SIZES, window=5)),
}
STOP = frozenset({3})


def prompts(lengths):
    return [torch.randint(4, VOCAB, (n,)).tolist() for n in lengths]


def alone(model, prompt, max_length):
    ids = torch.tensor([prompt])
    found = greedy(model, ids[:, :-1], start=prompt[-1], stop=3, max_length=max_length)[0].tolist()
    return found[: found.index(3) + 1] if 3 in found else found


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]().double().eval()


def finish(scheduler):
    while scheduler.n_waiting or scheduler.n_running:
        scheduler.step()


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_each_answer_is_the_same_as_alone(model, max_rows):
    scheduler = Scheduler(model, max_rows=max_rows, chunk=4)
    requests = []
    for i, prompt in enumerate(prompts([1, 5, 13, 2, 9, 1, 30])):
        requests.append(scheduler.submit(Request(prompt, STOP, 5 + 3 * i)))
        scheduler.step()  # the next one comes while these run
    finish(scheduler)
    for request in requests:
        assert list(request) == alone(model, request.prompt, request.max_length)


def test_a_drawing_chooses_what_sample_does(model):
    """Whatever runs beside it, and with processors that see the prompt."""
    processors = Sampling(temperature=1.2, top_p=0.9, repetition_penalty=1.3).processors()
    wanted = [(5, [5, 6, 7]), (6, [8]), (7, [9, 10]), (8, [11] * 5)]
    scheduler, requests = Scheduler(model, max_rows=3), []
    for seed, prompt in wanted:
        drawing = Drawing(prompt, 12, seed, processors)
        requests.append(scheduler.submit(Request(prompt, STOP, 12, drawing)))
        scheduler.step()
    finish(scheduler)
    for (seed, prompt), request in zip(wanted, requests, strict=True):
        options = {"start": [prompt], "stop": 3, "max_length": 12, "seeds": [seed]}
        nothing = torch.zeros(1, 0, dtype=torch.long)
        [alone] = sample(model, nothing, **options, processors=processors)
        assert list(request) == alone.tokens


def test_an_optimized_model_is_served_the_same():
    model = MODELS["llama"]().eval()
    scheduler = Scheduler(optimize(model), max_rows=4)
    requests = [scheduler.submit(Request(p, STOP, 9)) for p in prompts([3, 7, 1, 12, 5])]
    finish(scheduler)
    for request in requests:
        assert list(request) == alone(model, request.prompt, 9)


class Counting:
    """A model that counts what it is asked, and fails when told to."""

    def __init__(self, model):
        self.model, self.rows, self.broken = model, [], False

    def start(self, source, token_mask=None):
        if (source == 13).any():
            raise RuntimeError("a prompt that breaks the model")
        return self.model.start(source, token_mask)

    def step(self, tokens, state, token_mask=None):
        self.rows.append(len(tokens))
        if self.broken:
            raise RuntimeError("out of memory")
        return self.model.step(tokens, state, token_mask)


def test_rows_that_end_leave_room_at_once(model):
    counting = Counting(model)
    scheduler = Scheduler(counting, max_rows=2)
    for length in (2, 20, 2, 2):
        scheduler.submit(Request([5], frozenset(), length))
    finish(scheduler)
    # Prompts of one token need no reading; the long answer never runs alone while others wait.
    assert sum(counting.rows) == 26
    assert len(counting.rows) == 20


def test_a_long_prompt_starves_nobody(model):
    scheduler = Scheduler(model, chunk=2)
    running = scheduler.submit(Request([5, 6], frozenset(), 9))
    scheduler.step()
    slow = scheduler.submit(Request([7] * 60, frozenset(), 1))
    quick = scheduler.submit(Request([8, 9], frozenset(), 1))
    for _ in range(4):
        scheduler.step()
    assert len(running.answer) == 5
    assert len(quick.answer) == 1
    assert len(slow.answer) == 0
    finish(scheduler)
    assert list(slow) == alone(model, slow.prompt, 1)


def test_cancelled_requests_leave_the_batch(model):
    scheduler = Scheduler(model, max_rows=2)
    first, second, third = (scheduler.submit(Request([5], frozenset(), 30)) for _ in range(3))
    for _ in range(3):
        scheduler.step()
    first.cancel()
    third.cancel()
    finish(scheduler)
    assert 1 <= len(list(first)) < 30
    assert len(list(second)) == 30
    assert list(third) == []
    assert scheduler._state is None


def test_cancelled_requests_leave_the_queue(model):
    scheduler = Scheduler(model, max_waiting=2)
    first, second = (scheduler.submit(Request([5], STOP, 1)) for _ in range(2))
    first.cancel()
    third = scheduler.submit(Request([6], STOP, 1))
    assert list(first) == []  # before any step
    with pytest.raises(BusyError):
        scheduler.submit(Request([7], STOP, 1))
    finish(scheduler)
    assert [len(list(one)) for one in (second, third)] == [1, 1]


def test_the_batch_forgets_what_no_row_needs(model):
    """A batch that is never empty does not grow: its longest row may leave."""
    scheduler = Scheduler(model, max_rows=3)
    lengths = []
    for i in range(40):
        scheduler.submit(Request([5, 6 + i % 7], frozenset(), 5 + i % 4))
        scheduler.step()
        scheduler.step()
        lengths.append(scheduler._state._taken if scheduler._state else 0)
    assert scheduler.n_running > 1
    assert max(lengths[20:]) <= 2 + 8
    finish(scheduler)


def test_an_answer_ends_where_it_is_told_to(model):
    scheduler = Scheduler(model)
    ended = scheduler.submit(Request([5], frozenset(), 9, ends=lambda ids: len(ids) == 4))
    finish(scheduler)
    assert len(list(ended)) == 4


def test_all_requests_end_with_the_scheduler(model):
    scheduler = Scheduler(model, max_rows=2)
    requests = [scheduler.submit(Request([5] * 9, frozenset(), 9)) for _ in range(4)]
    scheduler.step()
    scheduler.end(BusyError("the server stops"))
    for request in requests:
        with pytest.raises(BusyError, match="the server stops"):
            list(request)
    assert not scheduler.busy
    with pytest.raises(BusyError, match="is closed"):
        scheduler.submit(Request([5], STOP, 1))


def test_an_error_ends_the_requests_that_it_concerns(model):
    counting = Counting(model)
    scheduler = Scheduler(counting)
    good, bad = (scheduler.submit(Request(p, frozenset(), 3)) for p in ([5, 6], [13, 6]))
    finish(scheduler)
    assert len(list(good)) == 3
    with pytest.raises(RuntimeError, match="a prompt that breaks the model"):
        list(bad)
    running = [scheduler.submit(Request([5, 6], frozenset(), 9)) for _ in range(2)]
    scheduler.step()
    counting.broken = True
    scheduler.step()
    for request in running:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(request)
    counting.broken = False
    again = scheduler.submit(Request([5, 6], STOP, 4))
    finish(scheduler)
    assert list(again) == alone(model, [5, 6], 4)


def test_a_choice_that_fails_ends_its_own_request(model):
    def fail(logits):
        raise ValueError("no token is allowed")

    scheduler = Scheduler(model)
    bad = scheduler.submit(Request([5], STOP, 4, fail))
    good = scheduler.submit(Request([5], STOP, 4))
    finish(scheduler)
    with pytest.raises(ValueError, match="no token is allowed"):
        list(bad)
    assert list(good) == alone(model, [5], 4)


def test_too_many_requests_are_refused(model):
    scheduler = Scheduler(model, max_waiting=2)
    for _ in range(2):
        scheduler.submit(Request([5], STOP, 1))
    with pytest.raises(BusyError, match="has 2 waiting requests; expected room for another"):
        scheduler.submit(Request([5], STOP, 1))
    scheduler.close()
    with pytest.raises(BusyError, match="the scheduler is closed"):
        scheduler.submit(Request([5], STOP, 1))


def test_bad_input(model):
    with pytest.raises(LengthError, match="the prompt is empty"):
        Request([], STOP, 1)
    with pytest.raises(ConfigError, match="max_length is 0, expected at least 1"):
        Request([5], STOP, 0)
    with pytest.raises(ConfigError, match="max_rows = 0, max_waiting = 256, chunk = 128"):
        Scheduler(model, max_rows=0)


def test_a_thread_answers_many_others():
    model = MODELS["gpt"]().double().eval()
    scheduler = Scheduler(model, max_rows=5)
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    wanted = prompts([1 + i % 7 for i in range(24)])
    answers = [None] * len(wanted)

    def ask(i):
        time.sleep(0.001 * (i % 5))
        answers[i] = list(scheduler.submit(Request(wanted[i], STOP, 6)))

    clients = [threading.Thread(target=ask, args=(i,)) for i in range(len(wanted))]
    for client in clients:
        client.start()
    for client in clients:
        client.join(timeout=60)
    scheduler.close()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert answers == [alone(model, prompt, 6) for prompt in wanted]
