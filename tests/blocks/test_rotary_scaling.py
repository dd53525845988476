"""Golden values of scaled rotary positions; tests/parity/test_llama.py has published ones."""

import math

import torch
from tests.helpers import assert_close

from qkv.blocks.rotary_scaling import (
    DynamicScaling,
    LinearScaling,
    LongRopeScaling,
    TurnsScaling,
    YaRNScaling,
)


def frequencies(base=100.0, pairs=5):
    return base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)


def scaled(scaling, base=100.0, pairs=5):
    return scaling(frequencies(base, pairs), base)


def turns_of_pair(i):
    """In 1000 tokens, at base 100 and with five pairs."""
    return 1000 * 100 ** (-i / 5) / (2 * math.pi)


def test_linear_scaling_divides_positions():
    new, magnitude = scaled(LinearScaling(factor=7.0))
    assert_close(new, frequencies() / 7)
    assert magnitude == 1


def test_turns_decide_who_is_slowed():
    few, many = (turns / (2 * math.pi) for turns in (2, 4))  # a frequency f turns 10 f / 2 pi times
    scaling = TurnsScaling(factor=5.0, original_length=10, few_turns=few, many_turns=many)
    new, magnitude = scaling(torch.tensor([1, 0.4, 0.35, 0.3, 0.2, 0.1]).double(), 100.0)
    # 10, 4, 3.5, 3, 2 and 1 over 2 pi: kept, kept, three quarters kept, half kept, slowed, slowed
    expected = [1, 0.4, 0.35 * (0.75 + 0.25 / 5), 0.3 * (0.5 + 0.5 / 5), 0.04, 0.02]
    assert_close(new, torch.tensor(expected).double(), 1e-7)
    assert magnitude == 1


def test_yarn_mixes_by_the_number_of_the_pair():
    turns = [turns_of_pair(i) for i in (1, 3)]
    scaling = YaRNScaling(
        factor=4.0,
        original_length=1000,
        few_turns=turns[1],
        many_turns=turns[0],
        whole_pairs=False,
        magnitude=3.0,
    )
    new, magnitude = scaled(scaling)
    slowed = torch.tensor([0, 0, 0.5, 1, 1]).double()
    assert_close(new, frequencies() * (1 - slowed + slowed / 4), 1e-9)
    assert magnitude == 3


def test_yarn_begins_and_ends_at_whole_pairs():
    turns = [turns_of_pair(i) for i in (1.4, 2.2)]  # the mixture is from 1 to 3
    scaling = YaRNScaling(factor=4.0, original_length=1000, few_turns=turns[1], many_turns=turns[0])
    new, magnitude = scaled(scaling)
    slowed = torch.tensor([0, 0, 0.5, 1, 1]).double()
    assert_close(new, frequencies() * (1 - slowed + slowed / 4))
    assert magnitude == 0.1 * math.log(4) + 1


def test_yarn_where_all_pairs_turn_often_slows_none():
    few, many = turns_of_pair(8), turns_of_pair(6)  # there are pairs 0 to 4
    scaling = YaRNScaling(factor=4.0, original_length=1000, few_turns=few, many_turns=many)
    new, _ = scaled(scaling)
    assert_close(new, frequencies())
    assert YaRNScaling(factor=0.5, original_length=7)(frequencies(), 100.0)[1] == 1


def test_yarn_by_the_ratio_of_two_magnitudes():
    def magnitude(**options):
        return YaRNScaling(factor=math.e, original_length=7, **options)(frequencies(), 100.0)[1]

    assert magnitude() == 1.1
    assert magnitude(mscale=2.0, mscale_all_dim=1.0) == 1.2 / 1.1
    assert magnitude(mscale=2.0) == 1.1  # one alone says nothing
    assert magnitude(mscale=2.0, mscale_all_dim=1.0, magnitude=3.0) == 3


def test_dynamic_scaling_raises_the_base_by_the_length():
    scaling = DynamicScaling(factor=3.0, original_length=10)
    assert torch.equal(scaling(frequencies(), 100.0, torch.arange(10))[0].flatten(), frequencies())
    new, magnitude = scaling(frequencies(), 100.0, torch.arange(20))
    # 3 * 20 / 10 - 2 = 4: of pairs 0 to 4 the last turns 4 times as slowly, the first as before.
    assert_close(new.flatten(), frequencies() * 4 ** (-torch.arange(5).double() / 4))
    assert magnitude == 1


def test_long_texts_have_divisors_of_their_own():
    scaling = LongRopeScaling(
        short=(1.0, 1.0, 2.0, 2.0, 2.0),
        long=(1.0, 3.0, 5.0, 7.0, 9.0),
        original_length=10,
        factor=10.0,
    )
    both, magnitude = scaling(frequencies(), 100.0, torch.arange(10) + torch.tensor([[0], [1]]))
    assert both.shape == (2, 1, 5)
    assert_close(both[0, 0], frequencies() / torch.tensor(scaling.short))
    assert_close(both[1, 0], frequencies() / torch.tensor(scaling.long))
    assert magnitude == math.sqrt(2)
    short = LongRopeScaling(short=(1.0,), long=(2.0,), original_length=10, factor=1.0)
    assert short(frequencies(pairs=1), 100.0)[1] == 1


def test_when_the_keys_of_a_cache_were_turned_otherwise():
    past = torch.tensor([0, 5, 9, 10, 11, 11])
    total = torch.tensor([11, 10, 11, 11, 12, 11])
    dynamic = DynamicScaling(factor=3.0, original_length=10)
    assert dynamic.turns_otherwise(past, total).tolist() == [False, False, True, True, True, False]
    long = LongRopeScaling(short=(1.0,), long=(2.0,), original_length=10, factor=2.0)
    assert long.turns_otherwise(past, total).tolist() == [False, False, True, True, False, False]
