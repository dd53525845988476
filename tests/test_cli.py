import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from types import SimpleNamespace

import pytest
from cyclopts import App
from tests.checkpoints.folders import contents, write

import qkv.cli as cli
from qkv.checkpoints.registry import FAMILIES
from qkv.errors import ConfigError, DataError, Interrupted, StorageError, TrainingError
from qkv.tasks import overview
from qkv.tasks import train as trained
from qkv.tasks.console import show_table
from qkv.tasks.task import PAGES, Page, commands


@dataclass(frozen=True, kw_only=True)
class Training:
    steps: int = 7
    rate: float = 0.5

    def __post_init__(self):
        if self.steps < 1:
            raise ConfigError(f"steps is {self.steps}, expected at least 1")


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Train something."""

    output: str
    training: Training = Training(rate=0.125)
    seed: int = 0


TASK = SimpleNamespace(name="walking", recipe=Walk)


@pytest.fixture
def calls(monkeypatch):
    """Put one more kind of recipe on the command line, and list what it is called with."""
    received = []
    monkeypatch.setitem(PAGES, "walking", Page(__name__, ""))
    monkeypatch.setattr(trained, "train", lambda task, recipe: received.append(recipe))
    return received


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("task: walking\noutput: out\nseed: 3\ntraining:\n  steps: 11\n")
    return str(path)


@pytest.fixture
def command(monkeypatch):
    """Put one more command on the command line."""

    def add(name, function):
        monkeypatch.setattr(sys.modules[__name__], f"made_{name}", function, raising=False)
        entry = (f"{__name__}:made_{name}", "It is for a test.")
        monkeypatch.setitem(cli.COMMANDS, name, entry)

    return add


def fail_with(error):
    def command() -> None:
        raise error

    return command


def test_help_and_version_end_well(capsys):
    assert cli.main(["--help"]) == 0
    assert "Usage: qkv COMMAND" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{version('qkv')}\n"


def test_help_needs_no_torch():
    code = "import sys; from qkv.cli import main; main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_list_of_commands_says_what_their_docstrings_say(name):
    place, summary = cli.COMMANDS[name]
    module, _, function = place.partition(":")
    command = getattr(import_module(module), function)
    documented = command.help if isinstance(command, App) else command.__doc__
    assert documented.partition("\n")[0] == summary


def test_a_name_that_is_near_a_command_is_proposed(capsys):
    assert cli.main(["clasify", "x"]) == 2
    assert "classify" in capsys.readouterr().err


def test_info_names_versions_devices_and_extras(capsys):
    assert cli.main(["info"]) == 0
    table = capsys.readouterr().out
    for word in ("Python", "torch", "thread", "cpu", "extra tutorial"):
        assert word in table


def test_extras_are_judged_by_what_is_installed(monkeypatch):
    requirements = [
        "torch>=2.6",
        "pytest; extra == 'here'",
        "no-such-package>=1; extra == 'gone'",
        "pytest; extra == 'gone'",
    ]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: requirements)
    assert overview._extras() == {"here": [], "gone": ["no-such-package"]}


def test_a_recipe_sets_options_and_options_on_the_command_line_win(calls, recipe):
    """What neither says is the function's own default, and not that of the class."""
    assert cli.main(["train", recipe, "--training.rate", "0.25"]) == 0
    assert cli.main(["train", recipe, "--training.steps", "2", "--seed", "5"]) == 0
    assert calls == [
        Walk(output="out", training=Training(steps=11, rate=0.25), seed=3),
        Walk(output="out", training=Training(steps=2, rate=0.125), seed=5),
    ]


@pytest.mark.parametrize("arguments", [["walk"], ["{}", "--training.stepz", "1"]])
def test_a_wrong_command_line_exits_2_without_a_traceback(arguments, recipe, calls, capsys):
    arguments = [*(["train"] if len(arguments) > 1 else []), *arguments]
    assert cli.main([argument.format(recipe) for argument in arguments]) == 2
    message = capsys.readouterr().err
    assert "error: " in message
    assert "Traceback" not in message
    assert not calls


def test_our_errors_are_one_line_on_stderr(command, capsys):
    command("fail", fail_with(DataError("x.txt is empty")))
    assert cli.main(["fail"]) == 2
    assert capsys.readouterr().err == "qkv: error: x.txt is empty\n"


def test_a_value_that_a_config_refuses_exits_2(calls, recipe, capsys):
    assert cli.main(["train", recipe, "--training.steps", "0"]) == 2
    assert "steps is 0, expected at least 1" in capsys.readouterr().err
    assert not calls


def test_an_interrupt_exits_130(command):
    command("wait", fail_with(KeyboardInterrupt()))
    assert cli.main(["wait"]) == 130


@pytest.mark.parametrize(
    "error",
    [
        StorageError("x cannot be written: it is full"),
        TrainingError("the loss is nan"),
        OSError("the disk is gone"),
    ],
)
def test_work_that_failed_exits_1_in_one_line(command, capsys, error):
    command("fail", fail_with(error))
    assert cli.main(["fail"]) == 1
    assert capsys.readouterr().err == f"qkv: error: {error}\n"


@pytest.mark.parametrize("place", ["file/x", "file/x/y", "n" * 300, "nul\0", "lock"])
def test_convert_to_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys, place):
    write(tmp_path / "bert")
    (tmp_path / "file").write_text("")
    (tmp_path / ".lock.lock").write_text("no lock")
    before = contents(tmp_path)
    assert cli.main(["convert", str(tmp_path / "bert"), str(tmp_path / place)]) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1
    assert contents(tmp_path) == before


def test_other_errors_keep_their_traceback(command):
    command("bug", fail_with(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        cli.main(["bug"])


@pytest.mark.parametrize("command", [*cli.COMMANDS, *commands()])
def test_every_command_has_help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    summary = PAGES[command].summary if command in PAGES else cli.COMMANDS[command][1]
    assert summary in " ".join(capsys.readouterr().out.split())


def test_models_lists_families_zoo_and_formats(capsys):
    assert cli.main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for family in FAMILIES.values():
        (line,) = [line for line in lines if f" {family.model_type} " in line]
        assert all(one.name in line for one in family.architectures)
    assert any("all-MiniLM-L6-v2" in line for line in lines)
    assert any("CTranslate2" in line for line in lines)


def test_models_of_a_family_says_what_is_read_and_refused(capsys):
    assert cli.main(["models", "--family", "bert"]) == 0
    out = capsys.readouterr().out
    for words in ("BertForMaskedLM", "MaskedLM", "hidden_act", "gelu_new", "is_decoder", "False"):
        assert words in out
    assert cli.main(["models", "--family", "berd"]) == 2
    assert "qkv: error: model_type = 'berd' is not implemented" in capsys.readouterr().err


def test_inspect_shows_a_table_a_subject(tmp_path, capsys):
    write(tmp_path, "llama")
    assert cli.main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for words in ("swiglu, 29 wide", "stack.blocks.0-2.self_attention", "37 tokens", "bfloat16"):
        assert words in out


def test_convert_writes_and_says_what(tmp_path, capsys):
    write(tmp_path / "source")
    assert cli.main(["convert", str(tmp_path / "source"), str(tmp_path / "copy")]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "copy" / "model.safetensors") in out
    assert contents(tmp_path / "copy") == contents(tmp_path / "source")
    half = [str(tmp_path / "source"), str(tmp_path / "half"), "--dtype", "float16"]
    assert cli.main(["convert", *half]) == 0
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("copy", "half")]
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["inspect", "{}/nothing"], "nothing' is neither a folder"),
        (["convert", "{}/source", "{}/notes"], "notes has files, but no checkpoint"),
        (["convert", "{}/notes", "{}/new"], "config.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_all_as_it_was(
    arguments, message, tmp_path, capsys
):
    write(tmp_path / "source")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("dear diary")
    before = contents(tmp_path)
    assert cli.main([argument.format(tmp_path) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert contents(tmp_path) == before


def test_a_missing_argument_is_named(capsys):
    assert cli.main(["convert", "somewhere"]) == 2
    assert "TARGET" in capsys.readouterr().err


def test_a_table_in_a_pipe_has_one_line_a_row(capsys):
    title = "a title that is longer than its table, and [no markup]"
    show_table(title, [{"name": "x", "value": ":smile: " * 100 + "[not markup]"}])
    show_table(title, [{"name": "x"}])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12  # title, edge, head, edge, row, edge
    assert lines[0] == lines[6] == title
    assert ":smile: :smile: [not markup]" in lines[4]


@pytest.fixture
def heard(command):
    """Put a command on the command line that takes any number of texts; list its calls."""
    received = []

    def say(name: str, /, *words: str, loud: bool = False, times: int = 1) -> None:
        """Say words.

        Args:
            name: who says them.
            words: any of them.
            loud: in capitals.
            times: how often.
        """
        received.append((name, words, loud, times))

    command("say", say)
    return received


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("me", ("me", (), False, 1)),
        ("me a b", ("me", ("a", "b"), False, 1)),
        ("me a b --loud", ("me", ("a", "b"), True, 1)),
        ("--loud me a b", ("me", ("a", "b"), True, 1)),
        ("me --loud a --times 3 b", ("me", ("a", "b"), True, 3)),
        ("me a --times=3 b", ("me", ("a", "b"), False, 3)),
        ("--times 3 -- me --loud -x", ("me", ("--loud", "-x"), False, 3)),
    ],
)
def test_words_stand_anywhere_between_the_options(heard, line, call):
    assert cli.main(["say", *line.split()]) == 0
    assert heard == [call]


def test_a_flag_and_any_number_of_words_have_help(heard, capsys):
    assert cli.main(["say", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("--loud in capitals.", "[ARGS...]", "WORDS any of them.", "--times INT"):
        assert words in out


@pytest.mark.parametrize("line", ["me --loudly", "me --times often", "", "--times"])
def test_a_wrong_option_beside_words_is_one_line(heard, capsys, line):
    assert cli.main(["say", *line.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("qkv: error: ")
    assert error.endswith("--help lists all options)\n")
    assert error.count("\n") == 1
    assert not heard


def test_an_interrupted_run_says_so_and_exits_by_its_signal(command, capsys):
    command("wait", fail_with(Interrupted("stopped at step 3 of 7", signal=15)))
    assert cli.main(["wait"]) == 143
    assert capsys.readouterr().err == "qkv: stopped at step 3 of 7\n"


def test_a_reader_that_has_enough_ends_it_quietly():
    code = "import qkv.cli as cli, qkv.tasks.overview as o; o.info = lambda: print('x' * 10**6); "
    command = [sys.executable, "-c", f"{code} raise SystemExit(cli.main(['info']))"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    ("arguments", "title"),
    [
        (["info"], "installed"),
        (["models"], "families"),
        (["models", "--family", "gpt2"], "rejected unless"),
        (["inspect", "{}"], "parameters"),
        (["convert", "{}", "{}-copy"], "written"),
    ],
)
def test_commands_that_print_tables_print_json(arguments, title, tmp_path, capsys):
    write(tmp_path / "model", "gpt2")
    arguments = [argument.format(tmp_path / "model") for argument in arguments]
    assert cli.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[title]
