"""A learner's file in a process of its own: every way to fail gets one plain sentence."""

import os
import time

import pytest
from tests.tutorial.exercises.answers import RIGHT, SWAPPED

from qkv.errors import ConfigError
from qkv.tutorial.exercises import parent
from qkv.tutorial.exercises.checker import check_file
from qkv.tutorial.exercises.child import Problem, check_parameters, find_answer, load
from qkv.tutorial.exercises.parent import running
from qkv.tutorial.exercises.registry import find_exercise

SINES = find_exercise("4.1")


def run_file(number, path, limit=parent.LIMIT):
    with running(number, path, limit) as finish:
        return finish()


@pytest.fixture
def answer(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_right_file_is_right_and_a_wrong_one_is_named(answer):
    verdict = check_file("4.1", answer(RIGHT))
    assert (verdict.right, verdict.mistake) == (True, "")
    verdict = check_file("4.1", answer(SWAPPED))
    assert (verdict.right, verdict.mistake) == (False, "sine and cosine are exchanged")


def test_files_next_to_the_answer_do_not_replace_modules(answer, tmp_path, monkeypatch):
    answer("raise RuntimeError('not the standard library')", "random.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert check_file("4.1", answer("import random\n" + RIGHT))


def test_a_loop_that_never_ends_is_stopped_and_its_line_shown(answer):
    path = answer("def sinusoids(positions, d_model):\n    while True:\n        pass\n")
    begin = time.monotonic()
    ran = run_file("4.1", path, limit=0.5)
    assert "Your code was not done after 0.5 seconds; it was in line" in ran.problem
    assert ran.problem.endswith("is there a loop that never ends?")
    assert "`while True:`" in ran.problem or "`pass`" in ran.problem
    assert time.monotonic() - begin < parent.START


def test_an_answer_that_prints_without_end_is_stopped_and_keeps_no_memory(answer):
    path = answer(
        "def sinusoids(positions, d_model):\n    while True:\n        print('x' * 1000)\n"
    )
    ran = run_file("4.1", path, limit=0.5)
    assert "not done after 0.5 seconds" in ran.problem
    assert len(ran.printed) == parent.KEPT


def test_an_answer_that_ends_python_gets_a_sentence(answer):
    path = answer("import os\n\ndef sinusoids(positions, d_model):\n    os._exit(3)\n")
    assert "Your code ended Python (exit status 3)" in run_file("4.1", path).problem


def test_print_in_place_of_return(answer):
    path = answer("def sinusoids(positions, d_model):\n    print('my result', d_model)\n")
    message = check_file("4.1", path).message
    assert "prints its result (my result 10" in message
    assert "expected a return statement" in " ".join(message.split())


def test_a_result_of_several_tensors_passes_without_pickle(answer):
    source = "import torch\n\ndef rename(theirs):\n    return dict(theirs, more=['x', 1, None])\n"
    outcomes = run_file("8.2", answer(source)).outcomes
    assert outcomes[0].value["more"] == ["x", 1, None]
    assert outcomes[0].value["h.0.attn.bias"].shape == (1, 1, 7, 7)


def test_an_answer_that_nobody_waits_for_is_ended(answer):
    path = answer("while True:\n    pass\n")
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt), running("4.1", path, 60):
        raise KeyboardInterrupt
    assert time.monotonic() - begin < 10


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*exercise_4_1.py; expected the file"):
        run_file("4.1", tmp_path / "exercise_4_1.py")


def test_a_notebook_is_not_a_file(answer):
    with pytest.raises(ConfigError, match=r'notebook; expected a .py file.*check\("4.1", your_f'):
        run_file("4.1", answer("{}", "mine.ipynb"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "def f(x):\n    return x +\n",
            "Python cannot read the file: invalid syntax in line 2: ret",
        ),
        ("def f(x):\nreturn x\n", "expected an indented block .* in line 2: return x"),
        ("x = '\0'", "Python cannot read the file: .*null bytes"),
        ("import numpyy\n", "while it is read: ModuleNotFoundError in line 1, `import numpyy`"),
        ("x = 1\nx / 0\n", "while it is read: ZeroDivisionError in line 2, `x / 0`: division"),
        ("import sys\nsys.exit()\n", "The file ends Python"),
    ],
)
def test_a_file_that_cannot_be_read(answer, source, message):
    with pytest.raises(Problem, match=message):
        load(str(answer(source)))


def test_a_file_in_another_encoding(answer, tmp_path):
    (tmp_path / "latin.py").write_bytes("# gr\u00fcn\n".encode("latin-1"))
    with pytest.raises(Problem, match="Python cannot read the file"):
        load(str(tmp_path / "latin.py"))


def test_a_function_with_another_name(answer):
    path = str(answer("from math import sqrt\n\ndef sines(p, d):\n    return 1\n"))
    with pytest.raises(
        Problem, match=r"mine.py has no function named sinusoids; it defines sines\."
    ):
        find_answer(load(path), "sinusoids", path)
    path = str(answer("x = 1\n"))
    with pytest.raises(Problem, match="it defines no function"):
        find_answer(load(path), "sinusoids", path)


def test_a_function_with_other_parameters():
    with pytest.raises(Problem, match=r"arguments \(n, d, e\); expected \(positions, d_model\)"):
        check_parameters(lambda n, d, e: None, SINES.solve)
    check_parameters(lambda n, d, e=1: None, SINES.solve)
    check_parameters(max, SINES.solve)


def test_numbers_may_stand_in_a_file_as_they_are(answer):
    path = str(answer("by_hand = [1, 2, 3, 4, 5]\n"))
    assert find_answer(load(path), "by_hand", path)() == [1, 2, 3, 4, 5]


def test_the_environment_of_the_answer_is_that_of_the_caller(answer, monkeypatch):
    monkeypatch.setenv("QKV_SEEN", "1")
    source = f"import os\nassert os.environ['QKV_SEEN'] == '1', os.getcwd()\n{RIGHT}"
    assert check_file("4.1", answer(source))
    assert os.environ["QKV_SEEN"] == "1"
