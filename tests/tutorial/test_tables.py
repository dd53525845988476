"""Tables, as a terminal and as Markdown."""

from qkv.tutorial.tables import markdown_table, show_table

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
