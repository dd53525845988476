"""What a check says about answers that run."""

import subprocess
import sys

import pytest
import torch
from tests.tutorial.exercises.answers import RIGHT

from qkv.errors import ConfigError
from qkv.tutorial.exercises import check
from qkv.tutorial.exercises.checker import judge, run_here
from qkv.tutorial.exercises.progress import read_progress
from qkv.tutorial.exercises.registry import find_exercise


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("QKV_STATE", str(tmp_path / "state"))


def said(number, answer):
    """The message of a check on one line."""
    exercise = find_exercise(number)
    verdict = judge(exercise, run_here(exercise, answer))
    assert not verdict
    return " ".join(verdict.message.split())


def solved(number):
    return find_exercise(number).solve


def test_a_notebook_checks_a_function_and_keeps_the_progress():
    scope = {}
    exec(RIGHT, scope)
    verdict = check("4.1", scope["sinusoids"])
    assert verdict
    assert repr(verdict).startswith("Right, on all 4 inputs.\nAn angle of 100,000")
    assert read_progress()["4.1"].solved


def test_a_notebook_checks_numbers():
    assert check("2.1", [0.24, 0.09, 0.67, 15.75, 7.55])
    assert check("2.1", torch.tensor([0.245, 0.09, 0.665, 15.8, 7.55]))
    verdict = check("2.1", [0.12, 0.02, 0.87, 18.51, 8.83])
    assert verdict.mistake == "the scores are not divided"
    assert "the result has 3 elements; expected 5 elements" in said("2.1", [0.24, 0.09, 0.67])


def test_an_unknown_exercise():
    with pytest.raises(ConfigError, match=r"there is no exercise '10\.1'"):
        check("10.1", len)


def test_what_is_no_function():
    assert "The answer is int 3; expected the function itself, as in check('4.1', sin" in said(
        "4.1", 3
    )


def test_other_parameters():
    assert "takes the arguments (p); expected (positions, d_model)" in said("4.1", lambda p: p)


def test_a_wrong_shape_comes_before_numbers():
    message = said("4.1", lambda p, d: solved("4.1")(p, d).T)
    assert "On positions 0 to 6, the result has shape (10, 7); expected (7, 10)." in message


def test_a_wrong_type():
    message = said("4.1", lambda p, d: {1, 2})
    assert "the result is a set; expected a tensor of shape (7, 10)" in message
    message = said("1.1", lambda *inputs: solved("1.1")(*inputs)[0])
    assert "the result has 2 elements" not in message
    assert "the result is a tensor of shape (2, 5)" in message or "result" in message


def test_a_wrong_dtype():
    message = said("8.1", lambda *inputs: tuple(x.double() for x in solved("8.1")(*inputs)))
    assert "result[0] has dtype torch.float64; expected torch.int64" in message


def test_a_missing_return():
    assert "returns None; is a return statement missing" in said("4.1", lambda p, d: None)
    assert "returns None; is a return statement missing" in said("2.2", lambda *_: None)


def test_print_in_place_of_return():
    message = said("5.2", lambda *_: print(7))
    assert "prints its result (7 7 7 7 ...) but returns None; expected a return" in message


def test_an_exception_shows_its_line():
    def broken(positions, d_model):
        return positions + undefined  # noqa: F821

    message = said("4.1", broken)
    assert "On positions 0 to 6, your function raises NameError in line" in message
    assert "`return positions + undefined # noqa: F821`: name 'undefined' is not" in message


def test_sys_exit_in_a_function_does_not_end_the_notebook():
    assert "your function raises SystemExit" in said("4.1", lambda p, d: sys.exit(2))


def test_an_exception_on_some_inputs_only():
    def fragile(positions, d_model):
        assert len(positions) > 5
        return solved("4.1")(positions, d_model)

    message = said("4.1", fragile)
    assert "On positions near 100,000, your function raises AssertionError in line" in message
    assert "(Right on 3 of 4 inputs.)" in message


def test_inputs_changed_in_place():
    def greedy_with_memory(heads, W, labels):
        losses = solved("3.3")(heads, W, labels)
        heads.zero_()
        return losses

    message = said("3.3", greedy_with_memory)
    assert message.startswith("Almost: the result is right. Your function changes its argument")
    assert "argument heads in place" in message


def test_an_unknown_mistake_says_where_it_first_differs():
    message = said("4.1", lambda p, d: solved("4.1")(p, d) + 0.5)
    assert message.startswith("Not yet. On positions 0 to 6, the result at [0, 0] is 0.5; ")
    assert "expected 0 (70 of 70 numbers differ). (Right on 0 of 4 inputs.)" in message
    assert message.endswith("For a hint: qkv exercise hint 4.1")


def test_a_named_mistake_has_numbers_a_sentence_and_a_hint():
    message = said("4.1", lambda p, d: solved("4.1")(p + 1, d))
    assert message.startswith("Not yet: positions count from 1. On positions 0 to 6, the result at")
    assert "Each of your rows is that of the next position. Hint: The positions are" in message


def test_a_small_difference_is_shown_with_enough_digits():
    message = said("4.1", lambda p, d: solved("4.1")(p, d) + 3e-7)
    assert "is 3e-07; expected 0" in message


def test_float_is_the_default_type_of_an_answer_and_only_of_it():
    seen = []
    said("4.1", lambda p, d: seen.append(torch.zeros(1).dtype))
    assert seen[0] == torch.float64
    assert torch.zeros(1).dtype == torch.float32


def test_a_check_leaves_random_numbers_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    said("4.1", lambda p, d: torch.rand(2))
    assert torch.equal(torch.rand(2), expected)


def test_the_package_needs_no_torch_before_it_checks():
    code = (
        "import sys, qkv.tutorial.exercises.command, qkv.tutorial.exercises as e; "
        "print('torch' in sys.modules, hasattr(e, 'nothing'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


@pytest.mark.parametrize(
    ("divisor", "name"), [(5, "the scores are divided by D"), (1, "the scores are not divided")]
)
def test_what_is_wrong_everywhere_comes_before_masks_that_are_missing(divisor, name):
    def no_mask(queries, keys, values, mask, causal):
        return (queries @ keys.mT / divisor).softmax(-1) @ values

    def causal_alone(queries, keys, values, mask, causal):
        scores = queries @ keys.mT / divisor
        if causal:
            past = torch.ones(scores.shape[-2:]).tril(scores.shape[-1] - scores.shape[-2]).bool()
            scores = scores.masked_fill(~past, -torch.inf)
        return scores.softmax(-1) @ values

    def mask_alone(queries, keys, values, mask, causal):
        scores = queries @ keys.mT / divisor
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).nan_to_num() @ values

    for answer in (no_mask, causal_alone, mask_alone):
        assert said("2.2", answer).startswith(f"Not yet: {name}. On inputs without a mask,")


def test_both_masks_may_be_missing():
    def no_mask(queries, keys, values, mask, causal):
        return (queries @ keys.mT / 5**0.5).softmax(-1) @ values

    assert said("2.2", no_mask).startswith("Not yet: both masks are ignored. On inputs with a mask")
