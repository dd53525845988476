"""Tables, as a terminal and as Markdown."""

import ipykernel.zmqshell  # noqa: F401 - an imported kernel is none that runs
import IPython
import pytest

from qkv.tutorial.tables import in_notebook, markdown_table, show_table

ROWS = [{"name": "dot", "exact match": 0.5}, {"name": "general", "exact match": 1}]


def test_markdown():
    assert markdown_table(ROWS).splitlines() == [
        "| name | exact match |",
        "| --- | --- |",
        "| dot | 0.5 |",
        "| general | 1 |",
    ]


def test_a_terminal_gets_the_same_cells(capsys):
    show_table("What was measured", ROWS)
    printed = capsys.readouterr().out
    for text in ("What was measured", "exact match", "general", "0.5"):
        assert text in printed


@pytest.mark.parametrize(("shell", "shown"), [(None, False), ("terminal", False), ("kernel", True)])
def test_a_notebook_is_a_shell_with_a_kernel(monkeypatch, shell, shown):
    running = shell and type("Shell", (), {shell: object()})()
    monkeypatch.setattr(IPython, "get_ipython", lambda: running)
    assert in_notebook() is shown


def test_columns_are_a_table_too(capsys):
    import torch

    columns = {"place": range(2), "score": torch.tensor([0.125, 2.0]), "key": torch.eye(2)}
    show_table("title", columns, digits=1)
    out = capsys.readouterr().out
    assert "│ 0     │ 0.1   │ 1.0, 0.0 │" in out
    assert "│ 1     │ 2.0   │ 0.0, 1.0 │" in out


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        show_table("title", {"a": [1, 2], "b": [1]})
