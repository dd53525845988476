"""What holds for every exercise, and the solutions against the library."""

import ast
import inspect
import itertools
import math
import re

import pytest
import torch

from qkv.attention.heads import disable_heads
from qkv.attention.local import LocalAttention
from qkv.attention.multi_head import MultiHeadAttention
from qkv.attention.single_head import SingleHeadAttention
from qkv.blocks.block import Block
from qkv.blocks.config import BlockConfig
from qkv.errors import ConfigError
from qkv.evaluation.intervals import proportion_interval
from qkv.evaluation.translation import translation_scores
from qkv.models.gpt import GPT, GPTConfig
from qkv.tutorial.exercises import catalog
from qkv.tutorial.exercises.checker import judge, name_mistake, outcomes_of, run_here, same
from qkv.tutorial.exercises.parent import Ran
from qkv.tutorial.exercises.registry import EXERCISES, find_exercise
from qkv.tutorial.exercises.running import float64, run_answer
from qkv.tutorial.exercises.values import difference, plain

each = pytest.mark.parametrize("number", EXERCISES)


def test_there_are_three_exercises_in_each_of_nine_sections():
    assert list(EXERCISES) == [f"{section}.{i}" for section in range(1, 10) for i in (1, 2, 3)]


def test_an_unknown_exercise_is_named():
    with pytest.raises(ConfigError, match=r"there is no exercise '2.7'; expected .* such as 2.2"):
        find_exercise("2.7")


@each
def test_the_registry_and_the_file_agree(number):
    exercise = find_exercise(number)
    assert (exercise.number, exercise.title) == (number, EXERCISES[number].title)


@each
def test_the_inputs_are_the_same_at_each_call_and_in_float64(number):
    first, second = find_exercise(number).draws(), find_exercise(number).draws()
    labels = [draw.label for draw in first]
    assert len(set(labels)) == len(labels)
    for one, other in zip(first, second, strict=True):
        assert difference(plain(one.inputs), plain(other.inputs)) is None
        tensors = [x for x in one.inputs if isinstance(x, torch.Tensor) and x.is_floating_point()]
        assert all(x.dtype == torch.float64 for x in tensors)


@each
def test_the_solution_is_right(number):
    exercise = find_exercise(number)
    verdict = judge(exercise, run_here(exercise, exercise.solve))
    assert verdict, verdict.message
    assert verdict.message.startswith("Right")


@each
def test_every_mistake_is_named(number):
    exercise = find_exercise(number)
    assert len(exercise.mistakes) >= 5
    for mistake in exercise.mistakes:
        verdict = judge(exercise, Ran(outcomes_of(exercise, mistake.wrong)))
        assert (verdict.right, verdict.mistake) == (False, mistake.name)
        flat = " ".join(verdict.message.split())
        assert f"Not yet: {mistake.name}. On " in flat
        assert mistake.shows in flat
        assert f"Hint: {mistake.hint}" in flat


@each
def test_no_two_mistakes_and_the_reference_agree_on_all_inputs(number):
    """A margin of ten times the tolerance of a match makes a false name impossible."""
    exercise = find_exercise(number)
    margin = max(1e-4, exercise.close or 0.0)
    named = [("", exercise.expected), *((one.name, one.wrong) for one in exercise.mistakes)]
    for (name, one), (other_name, other) in itertools.combinations(named, 2):
        if name != other_name:  # a mistake may be made in several ways
            pairs = zip(outcomes_of(exercise, one), outcomes_of(exercise, other), strict=True)
            assert not all(same(*pair, margin) for pair in pairs), (name, other_name)


@each
def test_no_mistake_raises_on_all_inputs(number):
    """An exception alone would name any answer that raises the same."""
    exercise = find_exercise(number)
    for mistake in exercise.mistakes:
        outcomes = outcomes_of(exercise, mistake.wrong)
        assert not all(outcome.error for outcome in outcomes), mistake.name


@each
def test_the_sentences_are_sentences(number):
    exercise = find_exercise(number)
    for mistake in exercise.mistakes:
        assert not mistake.name.endswith("."), mistake.name
        assert re.search(r"^[A-Z].*\.$", mistake.shows), mistake.shows
        assert re.search(r"[.?]$", mistake.hint), mistake.hint
    for text in (exercise.hint, exercise.remark):
        assert text[-1] in ".?"
    assert max(map(len, exercise.starter.splitlines())) <= 100


@each
def test_a_starter_is_valid_python_and_says_that_it_is_empty(number):
    exercise = find_exercise(number)
    namespace = {"__name__": "answer"}
    exec(compile(exercise.starter, "exercise.py", "exec"), namespace)
    function = namespace[exercise.name]
    assert inspect.signature(function) == inspect.signature(exercise.solve)
    assert exercise.task.partition("\n")[0] in ast.get_docstring(
        ast.parse(exercise.starter).body[-1]
    )
    verdict = judge(exercise, run_here(exercise, function))
    assert not verdict
    assert "still empty" in verdict.message


@each
def test_a_wrong_answer_that_is_not_known_gets_no_name(number):
    exercise = find_exercise(number)
    outcomes = run_answer(exercise, lambda *inputs: torch.full((2, 3), 0.123))
    assert name_mistake(exercise, outcomes) is None
    assert not judge(exercise, Ran(outcomes))


@each
def test_a_catalog_file_is_read_in_one_sitting(number):
    path = f"{catalog.__path__[0]}/{EXERCISES[number].module}.py"
    with open(path, encoding="utf-8") as file:
        assert len(file.readlines()) <= 400


class Fixed(torch.nn.Module):
    """Returns one tensor, whatever it is called with."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, *_):
        return self.value


class FixedScores(SingleHeadAttention):
    """Attention whose scores do not depend on its inputs."""

    def scores(self, queries, keys, mask=None):
        return self.fixed


def test_the_local_window_is_that_of_the_library():
    exercise = find_exercise("1.3")
    for draw in exercise.draws():
        scores, place, lengths, window = draw.inputs
        local = LocalAttention(FixedScores(), 3, window=window, kind="local-p")
        local.place, local.scored.fixed = Fixed(place[..., None]), scores
        real = torch.arange(scores.shape[-1]) < lengths[:, None]
        queries, keys = torch.zeros(*place.shape, 3), torch.zeros(*real.shape, 3)
        weights = local.weights(queries, keys, real[:, None, None], None)[:, 0]
        torch.testing.assert_close(exercise.solve(*draw.inputs), weights)


def test_switched_off_heads_are_those_of_the_library():
    attention = MultiHeadAttention(15, 3, bias=False).double().requires_grad_(False)
    x = torch.randn(7, 5, 15, dtype=torch.float64)
    heads: list[torch.Tensor] = []
    attention.output.register_forward_pre_hook(lambda _, inputs: heads.append(inputs[0]))
    whole = attention(x)
    labels = whole.argmax(-1).flatten()
    labels[::3] = 1
    right = (whole.argmax(-1).flatten() == labels).double().mean()
    outputs = heads[0].reshape(-1, 3, 5)
    lost = find_exercise("3.3").solve(outputs, attention.output.weight.T, labels)
    for head in range(3):
        with disable_heads(attention, "attention", [head]):
            now = (attention(x).argmax(-1).flatten() == labels).double().mean()
        assert lost[head] == pytest.approx(float(right - now))


def test_the_decoder_block_is_that_of_the_library():
    config = BlockConfig(
        d_model=6, n_heads=1, d_ff=11, norm_first=False, causal=True, cross_attention=True
    )
    block = Block(config).double().requires_grad_(False).eval()
    x, memory = (torch.randn(2, n, 6, dtype=torch.float64) for n in (5, 7))
    mask = torch.arange(7) < torch.tensor([[7], [3]])
    parts = (
        lambda q, k, m: block.self_attention(q, k, mask=m),
        lambda q, k, m: block.cross_attention(q, k, mask=m[:, None]),
        block.feed_forward,
        [
            block.self_attention_residual.norm,
            block.cross_attention_residual.norm,
            block.feed_forward_residual.norm,
        ],
    )
    theirs = find_exercise("5.1").solve(x, memory, mask, *parts)
    torch.testing.assert_close(theirs, block(x, memory, memory_mask=mask[:, None, None]))


def test_the_parameters_of_gpt_2_are_those_of_the_library():
    count = find_exercise("5.2").solve
    assert count(50257, 1024, 768, 3072, 12, 12) == 124_439_808
    with torch.device("meta"):
        model = GPT(
            GPTConfig(vocab_size=101, n_positions=31, d_model=14, d_ff=37, n_layers=3, n_heads=7)
        )
    assert count(101, 31, 14, 37, 3, 7) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("smooth", [False, True])
def test_bleu_is_that_of_sacrebleu(smooth):
    sacrebleu = pytest.importorskip("sacrebleu", reason="sacreBLEU is in the extra train")
    exercise = find_exercise("6.1")
    method = "exp" if smooth else "none"
    for draw in exercise.draws():
        translations, references = ([" ".join(t) for t in texts] for texts in draw.inputs[:2])
        metric = sacrebleu.BLEU(tokenize="none", smooth_method=method)
        expected = metric.corpus_score(translations, [references]).score
        if draw.label.startswith("nothing in common"):
            assert expected == 0  # sacreBLEU smoothes only if some word matches
            continue
        assert exercise.solve(*draw.inputs[:2], smooth) == pytest.approx(expected, abs=1e-9)
        if smooth:
            library = translation_scores(translations, references, tokenizer="none", samples=2)
            assert library.bleu.score == pytest.approx(expected)


def test_a_beam_that_holds_everything_finds_what_is_best_of_all():
    log_probs, size, stop, longest = find_exercise("6.2").draws()[3].inputs
    every = []
    for n in range(1, longest + 1):
        for tokens in itertools.product(range(3), repeat=n):
            if tokens.index(stop) == n - 1 if stop in tokens else False:
                total = sum(log_probs(tokens[:i])[token] for i, token in enumerate(tokens))
                every.append((list(tokens), total / n))
    found = find_exercise("6.2").solve(log_probs, size, stop, longest)
    every.sort(key=lambda answer: -answer[1])
    assert [tokens for tokens, _ in found] == [tokens for tokens, _ in every]
    assert [score for _, score in found] == pytest.approx([score for _, score in every])


def test_the_interval_is_that_of_the_library():
    pytest.importorskip("scipy", reason="SciPy is in the extra train")
    for draw in find_exercise("9.3").draws():
        name, accuracy, low, high = find_exercise("9.3").solve(*draw.inputs)
        runs, seen = draw.inputs
        right = next(run["test"] for run in runs if run["name"] == name)[~seen]
        assert accuracy == pytest.approx(right.double().mean().item())
        assert (low, high) == pytest.approx(proportion_interval(int(right.sum()), len(right)))


def test_the_answer_by_hand_is_exact_enough():
    numbers = find_exercise("2.1").solve()
    assert math.isclose(sum(numbers[:3]), 1.0, abs_tol=1e-9)
    with float64():
        assert difference(plain(numbers), plain(find_exercise("2.1").expected()), 0.01) is None


def test_the_number_of_named_mistakes_is_the_published_one():
    named = {(n, one.name) for n in EXERCISES for one in find_exercise(n).mistakes}
    assert len(named) == 545
