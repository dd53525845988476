from dataclasses import dataclass

import pytest

import qkv.cli as cli
from qkv.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Training:
    steps: int = 7
    rate: float = 0.5

    def __post_init__(self):
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}, expected at least 1")


@pytest.fixture
def calls(monkeypatch):
    """Put one more command on the command line, and list what it is called with."""
    received = []

    def train(training: Training, seed: int = 0) -> None:
        """Train something."""
        received.append((training, seed))

    monkeypatch.setitem(cli.COMMANDS, "train", train)
    return received


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3\ntraining:\n  steps: 11\n")
    return str(path)


def fail_with(error):
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_end_well(option, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([option])
    assert end.value.code == 0
    assert "qkv" in capsys.readouterr().out


def test_info_names_versions_devices_and_extras(capsys):
    assert cli.main(["info"]) == 0
    table = capsys.readouterr().out
    for word in ("Python", "torch", "threads", "cpu", "extra tutorial"):
        assert word in table


def test_extras_are_judged_by_what_is_installed(monkeypatch):
    requirements = [
        "torch>=2.6",
        "pytest; extra == 'here'",
        "no-such-package>=1; extra == 'gone'",
        "pytest; extra == 'gone'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: requirements)
    assert cli._extras() == {"here": [], "gone": ["no-such-package"]}


def test_options_come_from_type_hints(calls):
    assert cli.main(["train", "--training.steps", "5"]) == 0
    assert calls == [(Training(steps=5), 0)]


def test_a_recipe_sets_options_and_later_options_win(calls, recipe):
    assert cli.main(["train", recipe, "--training.rate", "0.25"]) == 0
    assert cli.main(["train", recipe, "--training.steps", "2"]) == 0
    assert calls == [(Training(steps=11, rate=0.25), 3), (Training(steps=2), 3)]


@pytest.mark.parametrize("arguments", [[], ["walk"], ["train", "--training.stepz", "1"]])
def test_a_wrong_command_line_exits_2_without_a_traceback(arguments, calls, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert "error: " in message
    assert "Traceback" not in message
    assert not calls


def test_our_errors_are_one_line_on_stderr(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "fail", fail_with(DataError("x.txt is empty")))
    assert cli.main(["fail"]) == 2
    assert capsys.readouterr().err == "qkv: error: x.txt is empty\n"


def test_a_value_that_a_config_refuses_exits_2(calls, capsys):
    try:
        status = cli.main(["train", "--training.steps", "0"])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert "steps is 0, expected at least 1" in capsys.readouterr().err
    assert not calls


def test_an_interrupt_exits_130(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "wait", fail_with(KeyboardInterrupt()))
    assert cli.main(["wait"]) == 130


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "bug", fail_with(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["bug"])
