"""What a command says about its shipped model: in its help, and that a demo is one."""

import csv
import json

import pytest

from qkv.cli import main
from qkv.tasks.task import PAGES, commands, find_task
from qkv.zoo.catalog import ZOO

GERMAN = "Der Film war leider viel zu lang und ziemlich langweilig."


@pytest.mark.parametrize("name", commands())
def test_the_help_of_a_command_names_its_model_and_what_that_is_weak_at(name, capsys):
    default = find_task(name).default
    main([name, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert PAGES[name].summary in shown
    if default:
        kind = "demo model" if ZOO[default].demo else "model"
        assert f"Without --model, the shipped {kind} {default} is used: " in shown
        assert ZOO[default].weak in shown
        assert f"qkv models {default}" in shown


def test_a_demo_says_so_on_the_terminal_and_in_json(capsys, tmp_path):
    weak = ZOO["translator-en-de"].weak
    main(["translate", "Good morning!"])
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == f"qkv: translator-en-de is a demo: {weak}"
    assert "demo" not in out
    main(["translate", "Good morning!", "--json"])
    assert json.loads(capsys.readouterr().out)["demo"] is True
    main(["translate", "Good morning!", "--output", str(tmp_path / "out.csv")])
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [row["demo"] for row in csv.DictReader(file)] == ["True"]


def test_a_model_that_is_no_demo_does_not_say_so(capsys):
    main(["tag", "Ada Lovelace was born in London.", "--json"])
    out, err = capsys.readouterr()
    assert "demo" not in json.loads(out)
    assert "demo" not in err


def test_a_text_in_another_language_is_noted_not_guessed_over(capsys):
    note = "the text seems to be German, but the model reads English"
    main(["classify", GERMAN, "What a lovely film!", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["note"] for row in rows] == [note, ""]
    main(["classify", GERMAN])
    assert note in capsys.readouterr().err
    main(["classify", GERMAN, "--labels", "film,food"])
    assert note in capsys.readouterr().err


def test_a_model_of_ones_own_reads_any_language(capsys, tmp_path):
    main(["convert", "sentiment-small", str(tmp_path / "mine")])
    capsys.readouterr()
    main(["classify", GERMAN, "--model", str(tmp_path / "mine"), "--json"])
    assert json.loads(capsys.readouterr().out)["note"] == ""
