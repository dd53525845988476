import itertools

import pytest
import torch
from scipy.stats import chisquare
from tests.generation.toy import (
    GRU,
    START,
    STOP,
    Markov,
    Timed,
    nothing,
    rnn,
    sources,
    transformer,
)

from qkv.errors import ConfigError, LengthError, VocabularyError
from qkv.generation.drafts import Chooser, ModelDraft, PromptLookup
from qkv.generation.greedy import greedy
from qkv.generation.processors import allowed_tokens
from qkv.generation.sampling import Sampling, sample
from qkv.generation.speculative import speculate, speculative

MODELS = {"gru": GRU, "rnn": rnn, "transformer": transformer}
GREEDY = Sampling(temperature=0.0).processors()


def build(name, seed=0):
    torch.manual_seed(seed)
    model = MODELS[name]().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    return model


DRAFTS = {
    "itself": lambda name: ModelDraft(build(name)),
    "another": lambda name: ModelDraft(build(name, seed=1)),
    "look-up": lambda name: PromptLookup(),
}


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("draft", list(DRAFTS))
@pytest.mark.parametrize("n_drafted", [1, 3])
def test_at_temperature_0_it_is_greedy(name, draft, n_drafted):
    model, (source, mask) = build(name), sources(rows=5)
    options = {"token_mask": mask, "start": START, "stop": STOP, "max_length": 9}
    expected = greedy(model, source, **options).tolist()
    found = speculative(
        model,
        source,
        draft=DRAFTS[draft](name),
        n_drafted=n_drafted,
        seeds=range(5),
        processors=GREEDY,
        **options,
    )
    scored = sample(model, source, seeds=range(5), processors=GREEDY, **options)
    for answer, row, other in zip(found, expected, scored, strict=True):
        assert answer.tokens == row[: len(answer.tokens)]
        assert answer.ended == (STOP in answer.tokens) == other.ended
        assert answer.ended or len(answer.tokens) == 9
        assert answer.logprobs == pytest.approx(other.logprobs, rel=1e-11)
        assert answer.score == pytest.approx(other.score, rel=1e-11)


def exact(model, processors, stop, longest):
    """The probability of each answer, one after the other, by multiplication."""
    found = {}
    for tokens in itertools.chain.from_iterable(
        itertools.product(range(4), repeat=n) for n in range(1, longest + 1)
    ):
        if stop in tokens[:-1] or (len(tokens) < longest and tokens[-1] != stop):
            continue
        probability, said = 1.0, [0]
        for token in tokens:
            logits = model.step(torch.tensor([said]), model.start(None))[:, -1]
            for processor in processors:
                logits = processor(torch.tensor([said]), logits)
            probability *= logits.softmax(-1)[0, token].item()
            said.append(token)
        found[tokens] = probability
    return found


def fits(answers, expected):
    """The p-value of a chi-square test; answers that are too rare for it are counted together."""
    counts = dict.fromkeys(expected, 0)
    for answer in answers:
        counts[tuple(answer.tokens)] += 1
    n = len(answers)
    common = [tokens for tokens, p in expected.items() if n * p >= 5]
    observed = [counts[tokens] for tokens in common]
    predicted = [n * expected[tokens] for tokens in common]
    if n - sum(predicted) > 5:
        observed, predicted = [*observed, n - sum(observed)], [*predicted, n - sum(predicted)]
    else:
        assert n - sum(observed) < 20
        predicted = [p * sum(observed) / sum(predicted) for p in predicted]
    return chisquare(observed, predicted).pvalue


CHANGED = {"temperature": 0.7, "top_k": 3, "repetition_penalty": 1.3}


@pytest.mark.parametrize(
    ("draft", "options"), [("close", CHANGED), ("far", {}), ("far", CHANGED), ("look-up", {})]
)
def test_answers_have_the_distribution_of_sampling(draft, options, unchecked_types):
    torch.manual_seed(0)
    model = Timed(torch.randn(3, 4, 4).double())
    drafts = {
        "close": ModelDraft(Timed(model.table + 0.3 * torch.randn(3, 4, 4))),
        "far": ModelDraft(Timed(2 * torch.randn(3, 4, 4).double())),
        "look-up": PromptLookup(longest=2),
    }
    processors = Sampling(**options).processors()
    n = 1500
    common = {"start": 0, "stop": 3, "max_length": 3, "seeds": range(n), "processors": processors}
    source = torch.tensor([[0, 1, 2, 0, 1]]).expand(n, -1)
    found = speculative(model, source, draft=drafts[draft], n_drafted=2, **common)
    expected = exact(model, processors, stop=3, longest=3)
    assert sum(expected.values()) == pytest.approx(1)
    assert fits(found, expected) > 0.01
    assert fits(sample(model, source, **common), expected) > 0.01
    if draft == "far":  # the test would see a draft that was believed
        believed = sample(drafts["far"].model, source, **common)
        assert fits(believed, expected) < 1e-9


def test_an_answer_depends_on_its_source_and_its_seed_alone():
    model, (source, mask) = build("gru"), sources(rows=6)
    options = {"draft": DRAFTS["another"]("gru"), "start": START, "stop": STOP, "max_length": 9}
    together = speculative(model, source, token_mask=mask, seeds=range(6), **options)
    assert len({tuple(answer.tokens) for answer in together}) >= 4
    for row, answer in enumerate(together):
        alone = source[row : row + 1, mask[row]]
        assert speculative(model, alone, seeds=[row], **options)[0].tokens == answer.tokens


def test_a_draft_that_is_the_model_is_always_kept():
    table = torch.randn(13, 13).double()
    model = Markov(table)
    (answer,) = speculative(
        model,
        nothing(),
        draft=ModelDraft(Markov(table)),
        n_drafted=4,
        start=START,
        stop=-1,
        max_length=23,
        seeds=[3],
    )
    assert len(answer.tokens) == 23
    assert model.steps == 5  # four drafted and one of its own a step, 3 at the end


def test_a_text_that_repeats_itself_takes_few_steps():
    table = torch.full((13, 13), -9.0)
    for token in range(3, 8):
        table[token, 3 + (token - 2) % 5] = 9
    options = {"start": [[3, 4, 5, 6, 7, 3, 4]], "stop": STOP, "max_length": 16, "seeds": [0]}
    model = Markov(table)
    expected = greedy(model, nothing(), start=options["start"], stop=STOP, max_length=16)
    model.steps = 0
    (answer,) = speculative(model, nothing(), draft=PromptLookup(), processors=GREEDY, **options)
    assert answer.tokens == expected[0].tolist() == [5, 6, 7, 3, 4] * 3 + [5]
    assert model.steps == 5  # one reads the prompt; then 5, 5, 5 and 1 tokens


def propose(tokens, n=3, before=(), longest=3, stops=(STOP,)):
    drafter = PromptLookup(longest=longest).start(torch.tensor([list(before)]).long(), None)
    drafted = drafter.propose(torch.tensor([tokens]), n, Chooser([], list(stops), 0))
    assert all(probabilities is None for _, probabilities in drafted)
    return [token for token, _ in drafted]


def test_what_is_looked_up():
    assert propose([5, 6, 7, 8, 5, 6]) == [7, 8, 5]
    assert propose([5, 6, 7, 8, 5, 6], n=1) == [7]
    assert propose([6, 9, 5, 6, 7, 3, 6]) == [7, 3, 6]  # the last place
    assert propose([4, 6, 9, 5, 6, 7, 4, 6]) == [9, 5, 6]  # but rather the longer end
    assert propose([4, 6, 9, 5, 6, 7, 4, 6], longest=1) == [7, 4, 6]
    assert propose([7, 8], before=[7, 8, 9, 4]) == [9, 4, 7]  # in the source
    assert propose([6, 6]) == [6]
    assert propose([5, STOP, 7, 5]) == [STOP]  # nothing after an end
    assert propose([5, 6, 7]) == propose([5]) == propose([5, 5], n=0) == []


def test_padding_of_the_source_is_not_looked_up():
    source = torch.tensor([[0, 0, 5, 6]])
    drafter = PromptLookup().start(source, source > 0)
    assert drafter.before == [5, 6]
    assert PromptLookup(in_source=False).start(source, None).before == []


def test_a_constraint_sees_only_what_it_allowed():
    """Also where the draft goes another way, and ends before the longest draft."""
    trie = {(1,): [3, 4], (1, 3): [6, 7], (1, 4): [6], (1, 4, 6): [STOP]}
    trie |= {(1, 3, 6): [STOP], (1, 3, 7): [8], (1, 3, 7, 8): [STOP]}
    processors = [allowed_tokens(lambda tokens: trie[tuple(tokens)])]
    torch.manual_seed(0)
    model, other = (Markov(0.3 * torch.randn(13, 13)) for _ in range(2))
    options = {"start": 1, "stop": STOP, "max_length": 7, "seeds": range(40)}
    for draft in (ModelDraft(other), PromptLookup()):
        source = torch.tensor([[1, 3, 9, 9]]).expand(40, -1)
        found = speculative(model, source, draft=draft, processors=processors, **options)
        texts = {tuple(answer.tokens) for answer in found}
        assert texts == {(3, 6, STOP), (3, 7, 8, STOP), (4, 6, STOP)}


def test_tokens_come_one_by_one():
    model, (source, mask) = build("transformer"), sources(rows=1)
    options = {"draft": PromptLookup(), "token_mask": mask, "start": START, "stop": STOP}
    tokens = speculate(model, source, max_length=9, seed=4, **options)
    first = next(tokens)
    assert not torch.is_inference_mode_enabled()
    (answer,) = speculative(model, source, max_length=9, seeds=[4], **options)
    found = [first, *tokens]
    assert [token.id for token in found] == answer.tokens
    assert [token.logprob for token in found] == answer.logprobs


def test_prefixes_of_different_lengths():
    model, (source, mask) = build("rnn"), sources(rows=3)
    prefixes = [[START], [START, 3, 4, 5], [START, 7]]
    options = {"token_mask": mask, "start": prefixes, "stop": -1, "max_length": 6}
    expected = greedy(model, source, **options).tolist()
    draft = DRAFTS["another"]("rnn")
    found = speculative(model, source, draft=draft, seeds=range(3), processors=GREEDY, **options)
    assert [answer.tokens for answer in found] == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_length": 0}, ConfigError, "max_length is 0, expected at least 1"),
        ({"n_drafted": 0}, ConfigError, "n_drafted is 0, expected at least 1"),
        ({"seeds": [1, 2]}, ConfigError, "2 seeds for 1 rows, expected one per row"),
        ({"start": [[]]}, LengthError, "row 0 of start is empty"),
        (
            {"processors": [allowed_tokens(lambda tokens: [])]},
            VocabularyError,
            r"no token may follow \[1\]",
        ),
    ],
)
def test_what_cannot_be_decoded_is_refused(options, error, message):
    options = {"draft": PromptLookup(), "max_length": 3, "seeds": [1], "start": START, **options}
    with pytest.raises(error, match=message):
        speculative(Markov(torch.zeros(13, 13)), nothing(), stop=STOP, **options)


def test_a_draft_of_another_vocabulary_is_refused(unchecked_types):
    draft = ModelDraft(Markov(torch.zeros(13, 11)))
    options = {"max_length": 3, "seeds": [1], "start": START, "stop": STOP}
    message = "the draft has 11 tokens and the model 13: both need the same vocabulary"
    with pytest.raises(ConfigError, match=message):
        speculative(Markov(torch.zeros(13, 13)), nothing(), draft=draft, **options)


def test_a_look_up_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="longest is 0, expected at least 1 token to look up"):
        PromptLookup(longest=0)
