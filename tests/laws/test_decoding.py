"""Every way of decoding, for every model: batched == single, cached == uncached, beam 1 == greedy.

The laws of the state itself are in test_state.py, those of prompts in test_prompts.py. Sources are
padded on either side, rows end at different lengths and leave.
"""

import itertools
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import (
    MODELS,
    SOURCE_VOCAB,
    TARGET_VOCAB,
    S,
    right_mask,
    to_left,
    unchecked,
)

from qkv.generation.beam import beam_search
from qkv.generation.drafts import ModelDraft, PromptLookup
from qkv.generation.greedy import greedy
from qkv.generation.processors import allowed_tokens
from qkv.generation.ranking import Beam
from qkv.generation.sampling import Sampling, draw, sample, uniform_noise
from qkv.generation.speculative import speculative

B, LONGEST = 4, 6
STOPS = [2, 7, 11, 13]  # of 19 tokens: some answers end early, and at different lengths

build = cache(lambda name: MODELS[name]().requires_grad_(False))
every_model = pytest.mark.parametrize("name", list(MODELS))
seeds = st.integers(0, 10**6)


@pytest.fixture(autouse=True, scope="module")
def without_checks():
    """Shapes are checked in the other tests of decoding; here they would take half of the time."""
    with unchecked():
        yield


def problem(seed, left=False):
    """Sources of different lengths, their mask, and what each row begins with: ids, or several."""
    generator = torch.Generator().manual_seed(seed)
    draws = lambda high, *shape: torch.randint(high, shape, generator=generator)  # noqa: E731
    source, mask = draws(SOURCE_VOCAB, B, S), right_mask((1 + draws(S, B)).tolist(), S)
    start = [draws(TARGET_VOCAB, 1 + n).tolist() for n in draws(3, B).tolist()]
    if left:
        source, mask = to_left(source, mask)
    return source, mask, start


def by_greedy(model, source, options, row_seeds):
    answers = greedy(model, source, **options).tolist()
    return [(cut(row), None) for row in answers]


def cut(row):
    ends = [i + 1 for i, token in enumerate(row) if token in STOPS]
    return row[: min(ends, default=len(row))]


def by_sampling(model, source, options, row_seeds):
    processors = Sampling(temperature=1.4, top_k=11, no_repeat_ngram=3).processors()
    found = sample(model, source, seeds=row_seeds, processors=processors, **options)
    return [(answer.tokens, answer.score) for answer in found]


def by_beams(model, source, options, row_seeds):
    beam = Beam(size=3, n_best=2, length_penalty=0.6)
    return [
        ([answer.tokens for answer in answers], [answer.score for answer in answers])
        for answers in beam_search(model, source, beam=beam, **options)
    ]


@every_model
@pytest.mark.parametrize("decode", [by_greedy, by_sampling, by_beams])
@settings(max_examples=2)
@given(seed=seeds, left=st.booleans(), order=st.permutations(range(B)))
def test_a_row_is_decoded_the_same_whatever_else_is_in_the_batch(name, decode, seed, left, order):
    """Batched == single, left == right padding; whoever leaves, and when, changes no other."""
    model, (source, mask, start) = build(name), problem(seed, left)
    options = {"stop": STOPS, "max_length": LONGEST}
    together = decode(
        model, source, {"token_mask": mask, "start": start, **options}, list(range(B))
    )
    some = order[:2]
    begun = [start[row] for row in some]
    mixed = decode(model, source[some], {"token_mask": mask[some], "start": begun, **options}, some)
    row = order[2]
    alone = decode(model, source[row, mask[row]][None], {"start": [start[row]], **options}, [row])
    for found, at in (*zip(mixed, some, strict=True), (alone[0], row)):
        assert found[0] == together[at][0]
        assert found[1] == (together[at][1] and pytest.approx(together[at][1], rel=1e-9))


@every_model
@settings(max_examples=2)
@given(seed=seeds)
def test_cached_equals_uncached(name, seed):
    """Each drawn token, and its log-probability, is what one pass over the whole answer says."""
    model, (source, mask, start) = build(name), problem(seed)
    answers = sample(
        model,
        source,
        token_mask=mask,
        start=start,
        stop=STOPS,
        max_length=LONGEST,
        seeds=range(B),
    )
    numbers = uniform_noise(range(B), source, LONGEST)
    for row, answer in enumerate(answers):
        read = torch.tensor([[*start[row], *answer.tokens[:-1]]])
        logits = model(source[row : row + 1, mask[row]], read)[0, len(start[row]) - 1 :]
        drawn = draw(logits.softmax(-1), numbers[row, : len(logits)])
        assert drawn.tolist() == answer.tokens
        expected = logits.log_softmax(-1)[range(len(drawn)), drawn]
        assert answer.logprobs == pytest.approx(expected.tolist(), rel=1e-9)


@every_model
@settings(max_examples=2)
@given(seed=seeds)
def test_a_beam_of_1_is_greedy(name, seed):
    model, (source, mask, start) = build(name), problem(seed)
    options = {"token_mask": mask, "start": start, "stop": STOPS, "max_length": LONGEST}
    expected = [cut(row) for row in greedy(model, source, **options).tolist()]
    beams = beam_search(model, source, beam=Beam(size=1), **options)
    assert [answer.tokens for (answer,) in beams] == expected


@every_model
@settings(max_examples=1)
@given(seed=seeds, size=st.integers(2, 5))
def test_the_n_best_are_sorted_and_no_two_alike(name, seed, size):
    model, (source, mask, start) = build(name), problem(seed)
    beam = Beam(size=size, n_best=size, length_penalty=1.0)
    options = {"token_mask": mask, "start": start, "stop": STOPS, "max_length": LONGEST}
    for answers in beam_search(model, source, beam=beam, **options):
        scores = [answer.score for answer in answers]
        assert len(answers) == size
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(answer.tokens) for answer in answers}) == size


@every_model
@settings(max_examples=1)
@given(seed=seeds, length_penalty=st.sampled_from([0.0, 1.0, -0.5]))
def test_a_wide_beam_finds_the_best_of_all_answers(name, seed, length_penalty):
    """Four tokens, of which one ends: 1 + 3 + 9 * 4 answers of up to three tokens."""
    model, (source, mask, _) = build(name), problem(seed)
    source, tokens, stop, longest = source[:1, mask[0]], [2, 3, 5, 7], 2, 3
    beam = Beam(size=36, n_best=36, length_penalty=length_penalty)
    (found,) = beam_search(
        model,
        source,
        start=1,
        stop=stop,
        max_length=longest,
        beam=beam,
        processors=[allowed_tokens(lambda _: tokens)],
    )
    every = torch.tensor(list(itertools.product(tokens, repeat=longest)))
    read = torch.cat((torch.ones(len(every), 1).long(), every[:, :-1]), 1)
    logprobs = model(source.expand(len(every), -1), read).log_softmax(-1)
    logprobs = logprobs.gather(-1, every[..., None])[..., 0]
    answers = {}
    for row, scores in zip(every.tolist(), logprobs, strict=True):
        n = row.index(stop) + 1 if stop in row else longest
        answers[tuple(row[:n])] = scores[:n].sum().item() / ((5 + n) / 6) ** length_penalty
    assert len(answers) == 40
    best = sorted(answers, key=answers.__getitem__, reverse=True)[:36]
    assert [tuple(answer.tokens) for answer in found] == best
    scores = [answer.score for answer in found]
    assert scores == pytest.approx([answers[tokens] for tokens in best], rel=1e-9)


@every_model
@settings(max_examples=1)
@given(seed=seeds, n_drafted=st.integers(1, 4), looked_up=st.booleans())
def test_speculative_greedy_is_greedy(name, seed, n_drafted, looked_up):
    model, (source, mask, start) = build(name), problem(seed)
    options = {"token_mask": mask, "start": start, "stop": STOPS, "max_length": LONGEST}
    expected = [cut(row) for row in greedy(model, source, **options).tolist()]
    draft = PromptLookup(in_source=False) if looked_up else ModelDraft(build("luong-lstm"))
    found = speculative(
        model,
        source,
        draft=draft,
        n_drafted=n_drafted,
        seeds=range(B),
        processors=Sampling(temperature=0.0).processors(),
        **options,
    )
    assert [answer.tokens for answer in found] == expected
