import functools
import inspect
import re

import pytest
import torch

from qkv.errors import ConfigError, DataError
from qkv.tutorial import source as module
from qkv.tutorial.source import kernel_source_of, location, show_kernel, show_source, source_of


def test_source_is_what_the_file_says():
    text = source_of(DataError)
    assert text.startswith("class DataError(QKVError, ValueError):\n")
    assert text in inspect.getsource(inspect.getmodule(DataError))


def test_source_of_a_method_is_dedented():
    class Outer:
        def method(self):
            return 1

    assert source_of(Outer.method) == "def method(self):\n    return 1"


def test_a_wrapped_function_shows_itself_not_its_wrapper():
    def plain():
        return 1

    @functools.wraps(plain)
    def wrapper():
        return plain()

    assert source_of(wrapper) == source_of(plain)


def test_location_is_the_path_in_the_repository():
    assert location(DataError) == "src/qkv/errors.py"
    assert location(show_source) == "src/qkv/tutorial/source.py"
    assert location(torch.nn.Linear) == "torch/nn/modules/linear.py"


def test_output_that_is_no_terminal_is_plain(capsys):
    show_source(DataError, ConfigError)
    shown = capsys.readouterr().out
    line = inspect.getsourcelines(DataError)[1]
    assert shown.startswith(f"# src/qkv/errors.py, line {line}\n{source_of(DataError)}\n")
    assert source_of(ConfigError) in shown
    assert "\x1b" not in shown


def test_a_terminal_is_shown_colours(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    colour = functools.partial(module.Console, force_terminal=True, width=120)
    monkeypatch.setattr(module, "Console", colour)
    show_source(DataError)
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    assert "DataError" in shown


def test_what_has_no_python_source_is_refused():
    with pytest.raises(ConfigError, match="has no source to show; expected a function or a class"):
        show_source(torch.relu)


def test_the_kernel_is_shown_from_the_first_to_the_last_line_of_a_function():
    text, file, line = kernel_source_of("attend")
    lines = file.read_text().splitlines()
    assert file.name == "attention.h"
    assert text.splitlines()[0] == lines[line - 1]
    assert text.startswith("static void attend(const float* q")
    assert text.endswith("\n}")
    assert text.count("{") == text.count("}")


def test_a_member_of_the_kernel_is_dedented():
    text, _, _ = kernel_source_of("feed_forward")
    assert text.startswith("void feed_forward(const Linear& up")
    assert text.endswith("\n}")


def test_functions_of_the_kernel_are_shown_in_order_with_their_place(capsys):
    show_kernel("rotate", "attend")
    shown = capsys.readouterr().out
    assert re.match(r"// src/qkv/inference/kernel.cpp, line \d+\nvoid rotate", shown)
    assert shown.index("void rotate") < shown.index("static void attend")


def test_an_unknown_function_of_the_kernel_is_refused():
    with pytest.raises(ConfigError, match=r"kernel\.cpp and its headers define no.*'decod'"):
        show_kernel("decod")
