import itertools

import pytest
import torch
from tests.generation.toy import (
    GRU,
    START,
    STOP,
    VOCAB,
    Markov,
    Scripted,
    nothing,
    rnn,
    sources,
    transformer,
)

from qkv.errors import ConfigError, LengthError, ShapeError
from qkv.generation.greedy import greedy
from qkv.generation.state import Decodable, State
from qkv.generation.stepping import Stepper


@pytest.fixture(params=[GRU, rnn, transformer], ids=["gru", "rnn", "transformer"])
def model(request):
    """Random weights, so large that answers differ and end at different lengths."""
    torch.manual_seed(0)
    model = request.param().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


def naive(model, source, mask, max_length):
    """The whole prefix again for each token, one row at a time."""
    answers = []
    for row in range(len(source)):
        prefix = torch.tensor([[START]])
        while prefix.shape[1] <= max_length and (prefix.shape[1] == 1 or prefix[0, -1] != STOP):
            real = mask[row : row + 1]
            logits = model(source[row : row + 1], prefix, source_mask=real)
            prefix = torch.cat((prefix, logits[:, -1:].argmax(-1)), 1)
        answers.append(prefix[0, 1:].tolist())
    longest = max(len(answer) for answer in answers)
    return [answer + [STOP] * (longest - len(answer)) for answer in answers]


def decode(model, source, mask, max_length=9):
    return greedy(
        model, source, token_mask=mask, start=START, stop=STOP, max_length=max_length
    ).tolist()


def test_equals_recomputing_the_whole_prefix(model):
    source, mask = sources()
    ours = decode(model, source, mask)
    assert ours == naive(model, source, mask, 9)
    # The test would prove little if all answers were equal or equally long.
    lengths = {answer.index(STOP) if STOP in answer else len(answer) for answer in ours}
    assert len(lengths) >= 3
    assert len({tuple(answer) for answer in ours}) >= 6


def test_a_row_alone_equals_the_row_in_the_batch(model):
    source, mask = sources()
    together = decode(model, source, mask)
    for row, answer in enumerate(together):
        alone = decode(model, source[row : row + 1], mask[row : row + 1])[0]
        assert alone + [STOP] * (len(answer) - len(alone)) == answer


def test_a_row_that_leaves_changes_no_other(model):
    source, mask = sources()
    together = decode(model, source, mask)
    lengths = [answer.index(STOP) if STOP in answer else len(answer) for answer in together]
    longest = max(lengths)
    slow = [row for row, length in enumerate(lengths) if length == longest]
    assert 0 < len(slow) < len(lengths)
    assert decode(model, source[slow], mask[slow]) == [together[row] for row in slow]


def test_when_rows_leave_changes_nothing(model, monkeypatch):
    source, mask = sources()
    together = decode(model, source, mask)
    for share in (1, 0.001):  # all at the end, and each at once
        monkeypatch.setattr("qkv.generation.stepping.COMPACT_AT", share)
        assert decode(model, source, mask) == together


def test_finished_rows_leave_and_answers_keep_the_order_of_the_input():
    model = Scripted()
    source = torch.tensor([[5, 2, 9, 9], [6, 7, 8, 2], [2, 9, 9, 9], [4, 3, 2, 9]])
    answers = decode(model, source, None)
    assert answers == [[5, 2, 2, 2], [6, 7, 8, 2], [2, 2, 2, 2], [4, 3, 2, 2]]
    assert model.asked == [
        ([START] * 4, [0, 1, 2, 3]),
        ([5, 6, 4], [0, 1, 3]),
        ([7, 3], [1, 3]),
        ([8], [1]),
    ]


def test_answers_of_tokens_without_log_probabilities_are_refused():
    source = torch.tensor([[5, 2]])
    stepper = Stepper(Scripted(), source, start=START, stop=STOP, max_length=3)
    stepper.append(stepper.logits().argmax(-1))
    assert stepper.padded().tolist() == [[5]]
    with pytest.raises(ValueError, match=r"zip\(\) argument 3 is shorter than arguments 1-2"):
        stepper.answers()


def test_max_length_ends_answers_that_do_not_stop():
    source = torch.tensor([[5, 6, 7, 8], [5, 2, 9, 9]])
    assert decode(Scripted(), source, None, max_length=3) == [[5, 6, 7], [5, 2, 2]]
    assert decode(Scripted(), source, None, max_length=1) == [[5], [5]]


@pytest.mark.parametrize("max_length", [0, -3])
def test_no_place_for_a_token_is_refused(max_length):
    with pytest.raises(ConfigError, match=f"max_length is {max_length}, expected at least 1"):
        decode(Scripted(), torch.tensor([[5]]), None, max_length=max_length)


def test_no_rows_give_no_answers():
    source = torch.empty(0, 5, dtype=torch.int64)
    assert greedy(Scripted(), source, start=START, stop=STOP, max_length=5).shape == (0, 0)


def test_answers_can_be_trained_on(model):
    source, mask = sources(rows=3)
    answers = greedy(model, source, token_mask=mask, start=START, stop=STOP, max_length=4)
    model(source, answers, source_mask=mask).sum().backward()
    assert any(p.grad is not None for p in model.parameters())


def test_the_models_follow_the_protocol(model):
    assert isinstance(model, Decodable)
    source, mask = sources(rows=3)
    state = model.start(source, mask)
    assert isinstance(state, State)
    for length in itertools.islice(itertools.count(1), 3):
        model.step(source[:, :1], state)
        assert state.length == length


def test_each_row_may_begin_with_a_token_of_its_own(model):
    source, mask = sources(rows=5)
    starts = [1, 4, 4, 7, 12]
    options = {"token_mask": mask, "stop": -1, "max_length": 6}
    together = greedy(model, source, start=starts, **options)
    assert torch.equal(greedy(model, source, start=torch.tensor(starts), **options), together)
    for row, start in enumerate(starts):
        same = greedy(model, source, start=start, **options)
        assert together[row].tolist() == same[row].tolist()


def test_answers_continue_their_prefixes(model):
    source, mask = sources(rows=3)
    options = {"token_mask": mask, "stop": -1}
    answers = greedy(model, source, start=START, max_length=9, **options).tolist()
    prefixes = [[START, *answer[:n]] for answer, n in zip(answers, (0, 4, 2), strict=True)]
    rest = greedy(model, source, start=prefixes, max_length=5, **options).tolist()
    assert rest == [a[n : n + 5] for a, n in zip(answers, (0, 4, 2), strict=True)]


def test_a_long_prefix_is_read_in_pieces(model, monkeypatch):
    source, mask = sources(rows=3)
    prefixes = [[START, 3, 4, 5, 6, 7, 8], [START], [START, 9, 10, 11]]
    options = {"token_mask": mask, "start": prefixes, "stop": -1, "max_length": 4}
    whole = greedy(model, source, **options)
    for piece in (1, 3):
        monkeypatch.setattr("qkv.generation.stepping.PREFILL_CHUNK", piece)
        assert torch.equal(greedy(model, source, **options), whole)


def test_several_stops_end_answers_and_the_first_fills():
    source = torch.tensor([[5, 2, 9, 9], [6, 7, 8, 9], [3, 9, 9, 9]])
    answers = greedy(Scripted(), source, start=START, stop=[2, 3], max_length=4)
    assert answers.tolist() == [[5, 2, 2, 2], [6, 7, 8, 9], [3, 2, 2, 2]]


def test_processors_see_what_was_said_and_change_what_is_chosen():
    seen = []

    def not_twice(tokens, logits):
        seen.append(tokens.tolist())
        return logits.scatter(1, tokens.clamp(min=0), -torch.inf)

    table = torch.zeros(VOCAB, VOCAB)
    table[:, 7], table[:, 4], table[:, 9] = 3, 2, 1
    answer = greedy(
        Markov(table), nothing(), start=[[5, 4]], stop=STOP, max_length=2, processors=[not_twice]
    )
    assert answer.tolist() == [[7, 9]]
    assert seen == [[[5, 4]], [[5, 4, 7]]]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"start": [1, 2]}, ShapeError, "start has 2 rows, but the source has 3"),
        ({"start": [[1], [], [2]]}, LengthError, "row 1 of start is empty: decoding must begin"),
        ({"stop": []}, ConfigError, "stop is empty, expected one or more ids; -1 ends no answer"),
    ],
)
def test_what_cannot_begin_or_end_is_refused(options, error, message):
    options = {"start": START, "stop": STOP, "max_length": 3, **options}
    with pytest.raises(error, match=message):
        greedy(Scripted(), torch.ones(3, 4).long(), **options)
