import pytest

from qkv.tutorial.judging import judge, names, show_judged


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Es regnet, also bleiben wir!", "yes"),
        ("es  regnet also bleiben wir", "yes"),
        ("Es regnet, so bleiben wir.", "no"),
        ("", "no"),
    ],
)
def test_capitals_and_punctuation_do_not_count(output, expected):
    assert judge(output, ["Es regnet, also bleiben wir.", "Also bleiben wir."]) == expected


def test_an_empty_output_is_right_where_nothing_is_accepted_but_silence():
    assert judge("", [""]) == "yes"
    assert judge("115 steps", [""]) == "no"


def test_one_of_the_words_is_enough():
    assert names("Merge overlapping intervals.", ["overlap", "union"]) == "yes"
    assert names("Merge the intervals.", ["overlap", "union"]) == "no"


def test_right_rows_are_counted(capsys):
    show_judged("Animals", [{"is": "a cat", "right?": "yes"}, {"is": "a dog", "right?": "no"}])
    assert capsys.readouterr().out.endswith("right: 1 of 2\n")
