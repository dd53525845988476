import dataclasses

import pytest
import torch
from scipy.stats import chisquare
from tests.generation.toy import GRU, START, STOP, VOCAB, Markov, Scripted, nothing, sources

from qkv.errors import ConfigError
from qkv.generation.greedy import greedy
from qkv.generation.processors import allowed_tokens
from qkv.generation.sampling import Sampling, draw, sample, uniform_noise


@pytest.fixture
def model():
    """Random weights, so large that answers differ and end at different lengths."""
    torch.manual_seed(0)
    model = GRU().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def test_tokens_are_drawn_with_their_probabilities():
    table = torch.tensor([[0.1, 1.0, -0.5, 0.0, -torch.inf]], dtype=torch.float64).expand(5, -1)
    n = 4000
    answers = sample(Markov(table), nothing(n), start=0, stop=-1, max_length=2, seeds=range(n))
    for t in range(2):
        counts = torch.tensor([answer.tokens[t] for answer in answers]).bincount(minlength=5)
        assert counts[4] == 0
        assert chisquare(counts[:4], n * table[0].softmax(-1)[:4]).pvalue > 0.01
    second = {answer.tokens[1] for answer in answers if answer.tokens[0] == 1}
    assert second == {0, 1, 2, 3}  # one number is not used twice


def test_a_draw_is_the_place_of_the_number_among_the_running_sums():
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.25, 0.5, 0.0], dtype=torch.float64)
    uniforms = torch.tensor([0.0, 0.2499, 0.25, 0.4999, 0.5, 1 - 2**-53], dtype=torch.float64)
    table = probabilities.expand(len(uniforms), -1)
    assert draw(table, uniforms).tolist() == [1, 1, 3, 3, 4, 4]
    assert draw(3 * table, uniforms).tolist() == [1, 1, 3, 3, 4, 4]  # of any sum


def test_a_number_rounded_to_1_draws_the_last_token_that_is_possible():
    probabilities = torch.tensor([[0.3, 0.0, 0.7, 0.0]])
    assert draw(probabilities, torch.ones(1)).item() == 2


def test_the_numbers_of_a_seed_do_not_depend_on_the_length_or_the_batch():
    long = uniform_noise([3, 8], nothing(2), 40)
    assert torch.equal(uniform_noise([8], nothing(), 5)[0], long[1, :5])
    assert not torch.equal(long[0], long[1])


def test_a_seeded_answer_is_the_same_whatever_else_is_in_the_batch(model):
    source, mask = sources()
    seeds = [7 * row for row in range(len(source))]
    options = {"start": START, "stop": STOP, "max_length": 9}
    together = sample(model, source, token_mask=mask, seeds=seeds, **options)
    assert len({len(answer.tokens) for answer in together}) >= 4
    order = [4, 11, 3, 3, 0]
    for rows in ([row] for row in order), [order]:
        for some in rows:
            found = sample(
                model,
                source[some],
                token_mask=mask[some],
                seeds=[seeds[i] for i in some],
                **options,
            )
            assert [answer.tokens for answer in found] == [together[i].tokens for i in some]
    others = sample(model, source, token_mask=mask, seeds=[s + 1 for s in seeds], **options)
    assert [a.tokens for a in others] != [a.tokens for a in together]


def test_temperature_0_is_greedy(model):
    source, mask = sources()
    options = {"token_mask": mask, "start": START, "stop": STOP, "max_length": 9}
    processors = Sampling(temperature=0.0, top_p=0.5).processors()
    found = sample(model, source, seeds=range(19), processors=processors, **options)
    for answer, expected in zip(found, greedy(model, source, **options).tolist(), strict=True):
        assert answer.tokens == expected[: len(answer.tokens)]
        assert answer.ended == (answer.tokens[-1] == STOP)
        assert answer.ended or len(answer.tokens) == 9


def test_logprobs_are_the_models_own(model):
    source, mask = sources(rows=5)
    processors = Sampling(temperature=0.3, top_k=2, repetition_penalty=3.0).processors()
    options = {"start": START, "stop": STOP, "max_length": 9, "seeds": range(5)}
    for row, answer in enumerate(
        sample(model, source, token_mask=mask, processors=processors, **options)
    ):
        read = torch.tensor([[START, *answer.tokens[:-1]]])
        logits = model(source[row : row + 1], read, source_mask=mask[row : row + 1]).detach()
        expected = logits[0].log_softmax(-1)[range(len(answer.tokens)), answer.tokens]
        assert answer.logprobs == pytest.approx(expected.tolist(), rel=1e-12)
        assert answer.score == pytest.approx(float(expected.sum()), rel=1e-12)


def test_the_options_are_their_processors_in_the_usual_order():
    everything = Sampling(
        temperature=0.5,
        top_k=3,
        top_p=0.9,
        min_p=0.1,
        repetition_penalty=1.3,
        no_repeat_ngram=2,
    )
    names = [processor.__qualname__.split(".")[0] for processor in everything.processors()]
    assert names == [
        "repetition_penalty",
        "no_repeat_ngram",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
    ]
    assert Sampling().processors() == []
    assert len(names) == len(dataclasses.fields(Sampling))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0, expected at least 0"),
        ({"top_k": 0}, "top_k is 0, expected at least 1"),
        ({"top_p": 0.0}, r"top_p is 0.0, expected a share in \(0, 1\]"),
        ({"min_p": 1.5}, r"min_p is 1.5, expected a share in \(0, 1\]"),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1.0, expected above 0"),
        ({"no_repeat_ngram": 0}, "no_repeat_ngram is 0, expected at least 1"),
    ],
)
def test_options_are_checked_when_they_are_made(options, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)


def test_an_answer_ends_when_it_is_told_to():
    source = torch.tensor([[5, 7, 8, 2], [6, 7, 2, 9], [5, 5, 5, 5]])
    asked = []

    def ends(tokens):
        asked.append(tokens)
        return tokens[-2:] == [5, 7]

    found = sample(
        Scripted(),
        source,
        start=START,
        stop=STOP,
        max_length=3,
        seeds=[0] * 3,
        processors=Sampling(temperature=0.0).processors(),
        ends=ends,
    )
    assert [answer.tokens for answer in found] == [[5, 7], [6, 7, 2], [5, 5, 5]]
    assert [answer.ended for answer in found] == [True, True, False]
    assert [5, 7, 2] not in asked  # what has ended is not asked about again


def test_what_has_ended_is_not_shown_to_a_constraint():
    """Rows stay in the batch for a while; a constraint has nothing to say about what follows."""
    source = torch.tensor([[2] * 5, *([[5, 6, 7, 8, 9]] * 8)])
    rule = {1: [2, 5], 5: [6], 6: [7], 7: [8], 8: [9]}
    processors = [allowed_tokens(lambda tokens: rule[tokens[-1]])]
    answers = greedy(
        Scripted(), source, start=START, stop=STOP, max_length=5, processors=processors
    )
    assert answers.tolist() == source.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": [1]}, "1 seeds for 2 rows, expected one per row"),
        ({"max_length": 0}, "max_length is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_decoded_is_refused(options, message):
    options = {"start": START, "stop": STOP, "max_length": 3, "seeds": [1, 2], **options}
    with pytest.raises(ConfigError, match=message):
        sample(Scripted(), torch.zeros(2, 3).long(), **options)


def test_no_rows_give_no_answers():
    assert (
        sample(
            Markov(torch.zeros(VOCAB, VOCAB)), nothing(0), start=1, stop=2, max_length=3, seeds=[]
        )
        == []
    )
