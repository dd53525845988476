import pytest

from qkv.data.dates import DatePair, write_date
from qkv.tutorial.date_parts import WRITTEN, date_spans


@pytest.mark.parametrize(
    ("text", "locale", "form", "parts"),
    [
        ("5. März 1987", "de", "long", ("1987", "März", "5")),
        ("March 5, 1987", "en_US", "long", ("1987", "March", "5")),
    ],
)
def test_the_parts_of_a_date_are_found_in_its_text(text, locale, form, parts):
    from datetime import date

    assert write_date(date(1987, 3, 5), locale, form) == text
    spans = date_spans(DatePair(text, "1987-03-05", locale, form))
    assert tuple(spans) == tuple(WRITTEN)
    assert tuple(text[span] for span in spans.values()) == parts


def test_the_iso_form_has_its_parts_where_they_are_written():
    assert {part: "1987-03-05"[span] for part, span in WRITTEN.items()} == {
        "year": "1987",
        "month": "03",
        "day": "05",
    }
