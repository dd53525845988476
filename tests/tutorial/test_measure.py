import pytest
import torch

from qkv.attention.core import attention, explicit_attention
from qkv.tutorial import measure
from qkv.tutorial.measure import flops, interleave, medians, peak_memory

MB = 2**20


def tensor(megabytes):
    return torch.ones(megabytes * MB // 4)


def test_rivals_take_turns_and_the_warmup_does_not_count():
    calls = []
    rivals = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = interleave(rivals, rounds=3, turn=2, warmup=2)
    assert calls == ["a", "a", "b", "b"] * 5
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}


@pytest.fixture
def sleep(monkeypatch):
    """Stop the clock, and return what alone moves it: a busy machine has no part in the seconds."""
    now = [100.0]
    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_seconds_are_those_of_one_call(sleep):
    (times,) = interleave({"a": lambda: sleep(0.5)}, rounds=2, turn=4, warmup=0).values()
    assert times == [0.5, 0.5]


def test_a_warmup_is_not_in_the_seconds(sleep):
    pauses = iter([8, 0.25, 0.5])
    (times,) = interleave({"a": lambda: sleep(next(pauses))}, rounds=2).values()
    assert times == [0.25, 0.5]


def test_a_bar_is_shown_only_when_asked_for(capsys):
    interleave({"a": lambda: None}, rounds=2)
    assert capsys.readouterr().out == ""


def test_medians_are_over_rounds():
    seconds = {"ours": [1.0, 2.0, 4.0], "rival": [3.0, 8.0, 4.0]}
    assert medians(seconds) == {"ours": 2.0, "rival": 4.0}


def test_peak_counts_what_is_alive_at_once():
    def one_after_the_other():
        a = tensor(4)
        del a
        tensor(4)

    def together():
        a = tensor(4)
        return a, tensor(4)

    assert peak_memory(one_after_the_other) == 4 * MB
    assert peak_memory(together) == 8 * MB
    assert peak_memory(lambda: None) == 0


def test_memory_of_before_does_not_count_even_when_it_is_freed():
    kept = [tensor(4)]
    assert peak_memory(lambda: tensor(1)) == MB
    assert peak_memory(lambda: (kept.clear(), tensor(4))) == 4 * MB


def test_what_an_earlier_measurement_left_is_memory_of_before():
    kept = []
    assert peak_memory(lambda: kept.append(tensor(4))) == 4 * MB
    assert peak_memory(lambda: (kept.clear(), tensor(4))) == 4 * MB


def test_peak_counts_the_backward_pass():
    x = torch.ones(MB // 4, requires_grad=True)
    forward = peak_memory(lambda: x.exp().sum())
    both = peak_memory(lambda: torch.autograd.grad(x.exp().sum(), x))
    assert MB <= forward < 1.1 * MB
    assert 2 * MB <= both < 3.1 * MB  # the exponential is kept until its gradient is there


def test_measuring_memory_is_silent(capfd):
    peak_memory(lambda: tensor(1))
    assert capfd.readouterr() == ("", "")


def test_explicit_attention_stores_the_weights_and_the_fused_kernel_does_not():
    n = 1021
    q, k, v = torch.randn(3, 1, 1, n, 17)
    assert peak_memory(lambda: explicit_attention(q, k, v)) >= n * n * 4
    assert peak_memory(lambda: attention(q, k, v)) < n * n * 4 / 2


@pytest.mark.parametrize("function", [explicit_attention, attention])
def test_attention_multiplies_queries_by_keys_and_weights_by_values(function):
    q, k, v = (torch.randn(2, 3, n, 7, requires_grad=True) for n in (5, 11, 11))
    product = 2 * 2 * 3 * 5 * 11 * 7
    assert flops(lambda: function(q, k, v)) == 2 * product
    # Backward: each product twice, and the fused kernel computes the scores once more.
    again = product if function is attention else 0
    both = flops(lambda: torch.autograd.grad(function(q, k, v).sum(), (q, k, v)))
    assert both == 6 * product + again
