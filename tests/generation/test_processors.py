import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.toy import START, Markov, nothing

from qkv.errors import ConfigError, VocabularyError
from qkv.generation.greedy import greedy
from qkv.generation.processors import (
    allowed_tokens,
    min_p,
    no_repeat_ngram,
    process,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)

NO_TOKENS = torch.zeros(1, 1).long()
PROBABILITIES = torch.tensor([[0.05, 0.4, 0.1, 0.3, 0.15]], dtype=torch.float64)
numbers = st.floats(-9, 9)
rows = st.lists(st.lists(numbers, min_size=7, max_size=7), min_size=1, max_size=3)


def kept(processor, logits=None, tokens=NO_TOKENS):
    """Which tokens a processor leaves in each row; it changes no other logit."""
    logits = PROBABILITIES.log() if logits is None else logits
    found = processor(tokens.expand(len(logits), -1), logits)
    left = found > -torch.inf
    assert torch.equal(found[left], logits[left])
    return [row.nonzero().flatten().tolist() for row in left]


def test_temperature_divides_and_0_leaves_the_best():
    logits = torch.tensor([[1.0, -2.0, 3.0]])
    assert temperature(0.5)(NO_TOKENS, logits).tolist() == [[2.0, -4.0, 6.0]]
    assert temperature(0.0)(NO_TOKENS, logits).softmax(-1).tolist() == [[0.0, 0.0, 1.0]]
    equal = torch.ones(2, 5)
    assert temperature(0.0)(NO_TOKENS, equal).softmax(-1)[:, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("k", "left"), [(1, [1]), (3, [1, 3, 4]), (5, [*range(5)]), (99, [*range(5)])]
)
def test_top_k(k, left):
    assert kept(top_k(k)) == [left]


def test_top_k_keeps_equals():
    assert kept(top_k(2), torch.tensor([[1.0, 5.0, 1.0, 0.0]])) == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("p", "left"),
    [
        (1e-9, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.8, [1, 3, 4]),
        (1.0, [*range(5)]),
    ],
)
def test_top_p(p, left):
    assert kept(top_p(p)) == [left]


@pytest.mark.parametrize(
    ("p", "left"),
    [(1.0, [1]), (0.8, [1]), (0.7, [1, 3]), (0.24, [1, 2, 3, 4]), (1e-9, [*range(5)])],
)
def test_min_p(p, left):
    assert kept(min_p(p)) == [left]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_nucleus_of_transformers_own_example(dtype):
    """0.3 and 0.5 are 0.8 together: a third token came in by a rounding."""
    shares = torch.tensor([[0.3, 0.1, 0.1, 0.5], [0.15, 0.3, 0.3, 0.25]], dtype=dtype)
    assert kept(top_p(0.8), shares.log()) == [[0, 3], [1, 2, 3]]


@settings(max_examples=300)
@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    share=st.fractions(0, 1).filter(bool),
    data=st.data(),
)
def test_shares_that_meet_a_bound_exactly(counts, share, data):
    """What is kept is what exact fractions keep, in each dtype: no rounding adds or drops one."""
    total, likeliest = sum(counts), max(counts)
    order = sorted(range(len(counts)), key=lambda i: (-counts[i], i))
    sums = [sum(counts[i] for i in order[:n]) for n in range(len(order) + 1)]
    meets = data.draw(st.sampled_from(sums[1:]))
    ratio = Fraction(data.draw(st.sampled_from(counts)), likeliest)
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([counts], dtype=dtype).log()
        nucleus = order[: sums.index(meets)]
        assert kept(top_p(meets / total), logits) == [sorted(nucleus)]
        for bound in (ratio, share):
            if any(
                abs(Fraction(n, likeliest) / bound - 1) < 1e-5 for n in counts if bound != ratio
            ):
                continue  # so near that float32 cannot tell
            left = [i for i, n in enumerate(counts) if Fraction(n, likeliest) >= bound]
            assert kept(min_p(float(bound)), logits) == [left]


def test_the_nucleus_in_16_bits_is_that_of_32():
    torch.manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        logits = torch.randn(3, 997, dtype=torch.float32).to(dtype)
        for processor in (top_p(0.9), min_p(0.1)):
            assert kept(processor, logits) == kept(processor, logits.float())


@settings(max_examples=50)
@given(rows=rows, p=st.floats(0.01, 1), k=st.integers(1, 9))
def test_what_is_left_is_the_most_probable_in_each_row(rows, p, k):
    logits = torch.tensor(rows, dtype=torch.float64)
    for processor in (top_p(p), top_k(k), min_p(p)):
        for row, left in zip(logits, kept(processor, logits), strict=True):
            assert int(row.argmax()) in left
            others = [x for i, x in enumerate(row.tolist()) if i not in left]
            assert row[left].min() >= max(others, default=-math.inf)
    for row, left in zip(logits.softmax(-1), kept(top_p(p), logits), strict=True):
        assert row[left].sum() >= p - 1e-9
        assert len(left) == 1 or row[left].sum() - row[left].min() < p + 1e-9


def test_repetition_penalty():
    tokens = torch.tensor([[-1, 2, 2, 0], [1, 3, 1, 1]])
    logits = torch.tensor([[2.0, 2.0, -2.0, -2.0]]).repeat(2, 1)
    found = repetition_penalty(4.0)(tokens, logits)
    assert found.tolist() == [[0.5, 2.0, -8.0, -2.0], [2.0, 0.5, -2.0, -8.0]]


def naive_repeats(tokens, n):
    """The tokens that would complete an n-gram that the row has."""
    said = [i for i in tokens if i >= 0]
    ngrams = {tuple(said[at : at + n]) for at in range(len(said) - n + 1)}
    end = said[len(said) - n + 1 :]
    return [v for v in range(5) if len(said) >= n - 1 and (*end, v) in ngrams]


@settings(max_examples=100)
@given(
    texts=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=9), min_size=1, max_size=3),
    n=st.integers(1, 4),
)
def test_no_ngram_comes_twice(texts, n):
    width = max(map(len, texts))
    tokens = torch.tensor([[-1] * (width - len(text)) + text for text in texts])
    found = no_repeat_ngram(n)(tokens, torch.zeros(len(texts), 5))
    forbidden = [row.isinf().nonzero().flatten().tolist() for row in found]
    assert forbidden == [naive_repeats(text, n) for text in texts]


def test_allowed_tokens_are_told_each_row_without_padding():
    said = []

    def allowed(tokens):
        said.append(tokens)
        return [len(tokens), 4]

    tokens = torch.tensor([[-1, -1, 3], [2, 0, 1]])
    found = allowed_tokens(allowed)(tokens, torch.ones(2, 5))
    assert said == [[3], [2, 0, 1]]
    left = [row.isfinite().nonzero().flatten().tolist() for row in found]
    assert left == [[1, 4], [3, 4]]


def test_processors_run_in_their_order_and_leave_their_arguments_alone():
    logits = PROBABILITIES.log()
    before = logits.clone()
    tokens = torch.tensor([[1, 3]])
    every = [
        repetition_penalty(2.0),
        no_repeat_ngram(1),
        allowed_tokens(lambda _: [0, 2, 4]),
        temperature(0.5),
        top_k(2),
        top_p(0.9),
        min_p(0.1),
    ]
    found = process(every, tokens, logits)
    assert torch.equal(logits, before)
    assert tokens.tolist() == [[1, 3]]
    assert found[0].isfinite().nonzero().flatten().tolist() == [2, 4]
    # 1 is penalized and 3 takes its place: after top_k that would come too late.
    small = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    last = torch.tensor([[1]])
    assert process([repetition_penalty(9.0), top_k(1)], last, small).argmax() == 3
    assert process([top_k(1), repetition_penalty(9.0)], last, small).argmax() == 1


def test_where_no_token_is_left_decoding_says_after_which():
    table = torch.zeros(3, 3)
    options = {"start": START, "stop": -1, "max_length": 5}
    message = r"no token may follow \[1, 0, 2\]: the processors forbid them all"
    with pytest.raises(VocabularyError, match=message):
        greedy(Markov(table), nothing(), processors=[no_repeat_ngram(1)], **options)
    empty = allowed_tokens(lambda tokens: [] if len(tokens) > 1 else [0])
    with pytest.raises(
        VocabularyError, match=r"no token may follow \[1, 0\].*does a constraint end"
    ):
        greedy(Markov(table), nothing(), processors=[empty], **options)


def test_a_constraint_of_another_vocabulary_is_refused():
    processor = allowed_tokens(lambda _: [2, 5])
    with pytest.raises(VocabularyError, match=r"allows ids from 2 to 5, but the vocabulary has 5"):
        processor(NO_TOKENS, torch.zeros(1, 5))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (temperature, -0.1, "temperature is -0.1, expected at least 0 .0 is greedy"),
        (temperature, math.nan, "temperature is nan"),
        (temperature, math.inf, "temperature is inf"),
        (top_k, 0, "top_k is 0, expected at least 1; None keeps every token"),
        (top_p, 0.0, r"top_p is 0.0, expected a share in \(0, 1\]"),
        (top_p, 1.01, r"top_p is 1.01, expected a share in \(0, 1\]"),
        (min_p, 0.0, r"min_p is 0.0, expected a share in \(0, 1\]"),
        (min_p, 2.0, r"min_p is 2.0, expected a share in \(0, 1\]"),
        (repetition_penalty, 0.0, "repetition_penalty is 0.0, expected above 0; 1 changes nothing"),
        (no_repeat_ngram, 0, "no_repeat_ngram is 0, expected at least 1; None allows"),
    ],
)
def test_values_that_make_no_sense_are_refused(make, value, message):
    with pytest.raises(ConfigError, match=message):
        make(value)
