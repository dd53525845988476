import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generation.toy import (
    GRU,
    START,
    STOP,
    VOCAB,
    Markov,
    Timed,
    nothing,
    rnn,
    sources,
    transformer,
)

from qkv.attention.record import record_attention
from qkv.errors import ConfigError, LengthError, ShapeError, VocabularyError
from qkv.generation.beam import beam_search
from qkv.generation.greedy import greedy
from qkv.generation.processors import allowed_tokens, no_repeat_ngram
from qkv.generation.ranking import Beam

MODELS = {"gru": GRU, "rnn": rnn, "transformer": transformer}
CROSS = {"rnn": "decoder.attention", "transformer": "decoder.blocks.1.cross_attention"}


def build(name):
    """Random weights, so large that answers differ and end at different lengths."""
    torch.manual_seed(0)
    model = MODELS[name]().double().eval().requires_grad_(False)
    for p in model.parameters():
        p.normal_()
    return model


@pytest.fixture(params=list(MODELS))
def model(request):
    return build(request.param)


def search(model, source, mask, beam, max_length=6, stop=STOP, **options):
    return beam_search(
        model,
        source,
        token_mask=mask,
        start=START,
        stop=stop,
        max_length=max_length,
        beam=beam,
        **options,
    )


def naive(model, source, beam, max_length=6, stops=(STOP,)):
    """One source, the whole prefix again at each step, and to the very end: no rule stops it."""
    alive, found = [(0.0, [])], []
    for length in range(1, max_length + 1):
        read = torch.tensor([[START, *tokens] for _, tokens in alive])
        logits = model(source.expand(len(read), -1), read)[:, -1].log_softmax(-1).tolist()
        candidates = [
            (total + logit, [*tokens, token])
            for (total, tokens), row in zip(alive, logits, strict=True)
            for token, logit in enumerate(row)
        ]
        candidates.sort(key=lambda candidate: -candidate[0])
        over = lambda tokens: tokens[-1] in stops or length == max_length  # noqa: B023, E731
        found += [c for c in candidates[: beam.size] if over(c[1])]
        alive = [c for c in candidates if not over(c[1])][: beam.size]
        if not alive or (beam.early_stopping and len(found) >= beam.size):
            break
    scored = [(score(model, source, total, tokens, beam), tokens) for total, tokens in found]
    return sorted(scored, key=lambda answer: -answer[0])[: beam.n_best]


def score(model, source, total, tokens, beam):
    """Wu et al. 2016, eq. 14 and 15, or transformers' division by the length."""
    if beam.length_rule == "gnmt":
        lp = (5 + len(tokens)) ** beam.length_penalty / (5 + 1) ** beam.length_penalty
    else:
        lp = len(tokens) ** beam.length_penalty
    cp = 0.0
    if beam.coverage_layer is not None:
        with record_attention(model, layers=[beam.coverage_layer]) as weights:
            model(source, torch.tensor([[START, *tokens[:-1]]]))
        attention = weights[beam.coverage_layer][0].mean(0)  # (target, source)
        cp = beam.coverage_penalty * sum(math.log(min(p, 1)) for p in attention.sum(0).tolist())
    return total / lp + cp


def assert_same(found, expected):
    assert [answer.tokens for answer in found] == [tokens for _, tokens in expected]
    assert [answer.score for answer in found] == pytest.approx([s for s, _ in expected], rel=1e-11)


beams = st.builds(
    lambda size, n_best, **options: Beam(size=size, n_best=min(size, n_best), **options),
    size=st.integers(1, 5),
    n_best=st.integers(1, 5),
    length_penalty=st.sampled_from([0.0, 0.6, 2.0, -1.0]),
    length_rule=st.sampled_from(["gnmt", "power"]),
    early_stopping=st.booleans(),
)


@pytest.mark.parametrize("name", list(MODELS))
@settings(max_examples=5)
@given(beam=beams, stops=st.sampled_from([(STOP,), (STOP, 5, 9)]))
def test_equals_a_search_that_recomputes_all_and_never_stops_early(name, beam, stops):
    model = build(name)
    source, mask = sources(rows=4)
    found = search(model, source, mask, beam, stop=stops)
    for row, answers in enumerate(found):
        expected = naive(model, source[row : row + 1, mask[row]], beam, stops=stops)
        assert_same(answers, expected)
        assert [a.ended for a in answers] == [tokens[-1] in stops for _, tokens in expected]


@settings(max_examples=150)
@given(seed=st.integers(0, 10**6))
def test_equals_it_where_many_answers_end_at_many_lengths(seed):
    chance = random.Random(seed)
    torch.manual_seed(seed)
    size = chance.randint(1, 5)
    beam = Beam(
        size=size,
        n_best=chance.randint(1, size),
        length_penalty=chance.choice([0.0, 0.6, 2.0, -1.0]),
        length_rule=chance.choice(["gnmt", "power"]),
        early_stopping=chance.random() < 0.3,
    )
    model = Timed(chance.choice([0.3, 1, 2]) * torch.randn(7, 5, 5).double())
    options = {"max_length": chance.randint(1, 7), "stops": [2, 3, 4][: chance.randint(1, 3)]}
    expected = naive(model, nothing(), beam, **options)
    options["stop"] = options.pop("stops")
    assert_same(search(model, nothing(), None, beam, **options)[0], expected)


@pytest.mark.parametrize("name", list(CROSS))
def test_coverage_is_of_the_attention_that_was_received(name):
    model = build(name)
    source, mask = sources(rows=4)
    plain = Beam(size=4, n_best=4)
    beam = Beam(size=4, n_best=4, coverage_penalty=0.7, coverage_layer=CROSS[name])
    found = search(model, source, mask, beam)
    for row, answers in enumerate(found):
        assert_same(answers, naive(model, source[row : row + 1, mask[row]], beam))
    tokens = lambda found: [[answer.tokens for answer in answers] for answers in found]  # noqa: E731
    assert tokens(found) != tokens(search(model, source, mask, plain))


def test_coverage_of_what_local_attention_never_sees_is_low_and_finite():
    score = Beam(coverage_penalty=0.5, coverage_layer="x").coverage(torch.tensor([0.0, 2.0, 1.0]))
    assert score == pytest.approx(0.5 * math.log(torch.finfo(torch.float32).tiny))


def test_the_logprobs_of_an_answer_are_the_models(model):
    source, mask = sources(rows=4)
    for row, answers in enumerate(search(model, source, mask, Beam(size=3, n_best=3))):
        for answer in answers:
            read = torch.tensor([[START, *answer.tokens[:-1]]])
            logits = model(source[row : row + 1, mask[row]], read)[0].log_softmax(-1)
            expected = logits[range(len(answer.tokens)), answer.tokens].tolist()
            assert answer.logprobs == pytest.approx(expected, rel=1e-11)
            assert answer.score == pytest.approx(sum(expected), rel=1e-11)


def test_a_beam_of_1_is_greedy(model):
    source, mask = sources()
    options = {"token_mask": mask, "start": START, "stop": STOP, "max_length": 9}
    expected = greedy(model, source, **options).tolist()
    for beam in (Beam(size=1), Beam(size=1, early_stopping=True, length_penalty=1.0)):
        for row, (answer,) in enumerate(beam_search(model, source, beam=beam, **options)):
            assert answer.tokens == expected[row][: len(answer.tokens)]
            assert answer.ended or len(answer.tokens) == 9


def test_sources_leave_when_their_search_ends():
    """The step asks for fewer rows as soon as a source has its answer."""
    asked = []

    class Counting(Markov):
        def step(self, tokens, state, token_mask=None):
            asked.append(len(tokens))
            return super().step(tokens, state, token_mask)

    table = torch.full((VOCAB, VOCAB), -30.0)
    table[3, STOP] = table[4, 5] = table[5, 6] = table[6, STOP] = 0
    model = Counting(table)
    options = {"start": [3, 4], "stop": STOP, "max_length": 9}
    found = beam_search(model, nothing(2), beam=Beam(size=2), **options)
    assert [answers[0].tokens for answers in found] == [[STOP], [5, 6, STOP]]
    assert asked == [2, 2, 2]  # a row for each source at first, then two for the second alone


def test_processors_weigh_log_probabilities_which_are_not_normalized_again():
    table = torch.log(torch.tensor([[0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]))
    options = {"start": 0, "stop": -1, "max_length": 2, "beam": Beam(size=3, n_best=2)}
    rule = allowed_tokens(lambda tokens: [2] if len(tokens) == 1 else [0, 1])
    ((first, second),) = beam_search(Markov(table), nothing(), processors=[rule], **options)
    assert (first.tokens, second.tokens) == ([2, 0], [2, 1])
    assert first.score == pytest.approx(math.log(0.3 * 0.4))
    assert first.logprobs == pytest.approx([math.log(0.3), math.log(0.4)])


def test_a_constraint_sees_only_what_it_allowed():
    """Beginnings that cannot go on are no dead ends for the others, and are not continued."""
    trie = {(1,): [3, 4, 5], (1, 3): [], (1, 4): [6], (1, 4, 6): [STOP], (1, 5): [STOP]}
    processor = allowed_tokens(lambda tokens: trie[tuple(tokens)])
    options = {"start": 1, "stop": STOP, "max_length": 5, "beam": Beam(size=4, n_best=4)}
    table = torch.zeros(VOCAB, VOCAB)
    table[:, 3] = 5  # the most probable beginning leads nowhere
    ((*answers,),) = beam_search(Markov(table), nothing(), processors=[processor], **options)
    assert [answer.tokens for answer in answers] == [[5, STOP], [4, 6, STOP]]
    trie = {(1,): [3], (1, 3): []}
    with pytest.raises(VocabularyError, match=r"no token may follow \[1, 3\]"):
        beam_search(Markov(table), nothing(), processors=[processor], **options)


def test_fewer_answers_than_asked_for_where_there_are_not_so_many():
    table = torch.zeros(3, 3)
    found = beam_search(
        Markov(table),
        nothing(),
        start=0,
        stop=2,
        max_length=9,
        beam=Beam(size=7, n_best=7),
        processors=[no_repeat_ngram(1)],
    )
    assert sorted(answer.tokens for answer in found[0]) == [[1, 2], [2]]


def test_early_stopping_may_miss_the_best():
    p = torch.full((VOCAB, VOCAB), 1e-9)
    p[1, 3], p[1, STOP] = 0.6, 0.4
    p[3, 4], p[3, STOP] = 0.5, 0.5
    p[4, 5] = p[5, STOP] = 1
    options = {"start": 1, "stop": STOP, "max_length": 9}
    beam = {"size": 2, "length_penalty": 1.0, "length_rule": "power"}
    exact = beam_search(Markov(p.log()), nothing(), beam=Beam(**beam), **options)
    early = beam_search(
        Markov(p.log()), nothing(), beam=Beam(**beam, early_stopping=True), **options
    )
    assert exact[0][0].tokens == [3, 4, 5, STOP]
    assert early[0][0].tokens == [3, STOP]


def test_the_search_goes_on_while_a_longer_answer_may_be_the_best():
    p = torch.full((VOCAB, VOCAB), 1e-9)
    p[1, STOP], p[1, 3] = 0.7, 0.3
    p[3, 4] = p[4, 5] = p[5, 6] = p[6, 7] = p[7, STOP] = 1
    beam = Beam(size=2, length_penalty=1.0, length_rule="power")
    options = {"start": 1, "stop": STOP, "max_length": 9}
    ((answer,),) = beam_search(Markov(p.log()), nothing(), beam=beam, **options)
    assert answer.tokens == [3, 4, 5, 6, 7, STOP]  # one token more would not make it the best


def test_the_search_goes_on_while_the_next_step_may_be_the_best():
    p = torch.full((VOCAB, VOCAB), 1e-9)
    p[1, 3], p[1, 4] = math.exp(-1), math.exp(-0.5)
    p[3, STOP] = p[4, 5] = p[5, STOP] = 1
    beam = Beam(size=2, length_penalty=-1.0, length_rule="power")
    options = {"start": 1, "stop": STOP, "max_length": 9}
    ((answer,),) = beam_search(Markov(p.log()), nothing(), beam=beam, **options)
    assert answer.tokens == [4, 5, STOP]  # at the longest it would be the worse one


def test_answers_continue_prefixes_of_different_lengths(model):
    source, mask = sources(rows=3)
    prefixes = [[START], [START, 3, 4, 5], [START, 7]]
    options = {"stop": STOP, "max_length": 5, "beam": Beam(size=3, n_best=3)}
    found = beam_search(model, source, token_mask=mask, start=prefixes, **options)
    for row, answers in enumerate(found):
        alone = source[row : row + 1, mask[row]]
        (expected,) = beam_search(model, alone, start=[prefixes[row]], **options)
        assert_same(answers, [(answer.score, answer.tokens) for answer in expected])


def test_no_rows_give_no_answers():
    found = beam_search(
        Markov(torch.zeros(3, 3)), nothing(0), start=1, stop=2, max_length=3, beam=Beam()
    )
    assert found == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "a beam of size 0, expected at least 1"),
        ({"size": 3, "n_best": 4}, "n_best is 4, expected 1 to 3, the size of the beam"),
        ({"n_best": 0}, "n_best is 0, expected 1 to"),
        ({"length_rule": "mean"}, "length_rule is 'mean', expected 'gnmt' or 'power'"),
        ({"coverage_penalty": -0.1}, "coverage_penalty is -0.1, expected at least 0"),
        ({"coverage_penalty": 0.1}, "coverage_layer None: a penalty above 0 needs the name"),
        ({"coverage_layer": "decoder.attention"}, "and 0 needs None"),
    ],
)
def test_beams_that_make_no_sense_are_refused(options, message, unchecked_types):
    with pytest.raises(ConfigError, match=message):
        Beam(**options)


def test_no_place_and_no_beginning_are_refused():
    model = Markov(torch.zeros(3, 3))
    with pytest.raises(ConfigError, match="max_length is 0, expected at least 1"):
        search(model, nothing(), None, Beam(), max_length=0)
    with pytest.raises(LengthError, match="row 0 of start is empty"):
        beam_search(model, nothing(), start=[[]], stop=2, max_length=3, beam=Beam())


def test_coverage_needs_attention_to_the_source():
    model = build("transformer")
    source, mask = sources(rows=2)
    for layer, error, message in (
        ("decoder.blocks.1.self_attention", ShapeError, "attends to 1 keys, but the source has 5"),
        ("attention", ConfigError, "no attention to record under .*decoder.blocks.0"),
    ):
        with pytest.raises(error, match=message):
            search(model, source, mask, Beam(coverage_penalty=0.2, coverage_layer=layer))
