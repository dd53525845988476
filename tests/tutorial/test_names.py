from pathlib import Path

from qkv.tutorial.names import USUAL_NAMES, usual_names


def test_each_name_has_its_file():
    rows = usual_names()
    assert [row["usual name"] for row in rows] == list(USUAL_NAMES)
    root = Path(__file__).parents[2]
    assert all((root / row["file"]).is_file() for row in rows)


def test_the_description_begins_with_the_name_that_the_file_defines():
    for shown, here in USUAL_NAMES.values():
        assert here.startswith(shown.__name__)
