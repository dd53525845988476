"""The corpus of dates: what Babel writes, one answer a text, and splits that never mix."""

import re
import sys
from collections import Counter, defaultdict
from datetime import date, timedelta
from itertools import islice

import pytest

from qkv.data import dates
from qkv.data.dates import (
    FORMS,
    LOCALES,
    SPLITS,
    TUTORIAL_LOCALES,
    date_pairs,
    split_of,
    write_date,
)
from qkv.errors import DataError, MissingDependencyError

LEAP_YEAR = [date(2024, 1, 1) + timedelta(days) for days in range(366)]


@pytest.fixture(scope="module")
def written():
    """Every text of a leap year, in every locale and form: text -> [(date, locale, form)]."""
    texts = defaultdict(list)
    for locale in LOCALES:
        for form in FORMS:
            for day in LEAP_YEAR:
                texts[write_date(day, locale, form)].append((day, locale, form))
    return texts


@pytest.mark.parametrize(
    ("locale", "form", "text"),
    [
        ("en_US", "full", "Tuesday, March 5, 2024"),
        ("de", "long", "5. März 2024"),
        ("de", "medium", "05.03.2024"),
        ("kk", "long", "2024\u202fж. 5 наурыз"),
        ("ja", "full", "2024年3月5日火曜日"),
        ("ar_EG", "long", "٥ مارس ٢٠٢٤"),
        ("fa", "long", "۵ مارس ۲۰۲۴"),
        ("mr", "long", "५ मार्च, २०२४"),
        ("bn", "medium", "৫ মার্চ, ২০২৪"),
        ("my", "long", "၂၀၂၄ မတ် ၅"),
    ],
)
def test_dates_as_people_write_them(locale, form, text):
    assert write_date(date(2024, 3, 5), locale, form) == text


def test_texts_are_those_of_babel_but_for_the_digits():
    from babel.dates import format_date

    for locale in LOCALES:
        for form in FORMS:
            for day in LEAP_YEAR[::29]:
                text = write_date(day, locale, form)
                ascii_digits = re.sub(r"\d", lambda digit: str(int(digit[0])), text)
                assert ascii_digits == format_date(day, form, locale)


def test_no_text_has_two_answers(written):
    ambiguous = {t: uses for t, uses in written.items() if len({day for day, *_ in uses}) > 1}
    assert not ambiguous


def test_the_year_always_has_four_digits(written):
    for text in written:
        assert any(int(number) == 2024 for number in re.findall(r"\d+", text)), text


def test_a_number_uses_one_set_of_digits(written):
    own = {uses[0][1] for text, uses in written.items() if not re.search(r"[0-9]", text)}
    assert own == {"ar_EG", "fa", "mr", "bn", "my"}
    for text in written:
        assert len({ord(d) - int(d) for d in re.findall(r"\d", text)}) == 1, text


def order(locale, form):
    """Which of year, month and day comes first, second and third: by what changes in the text."""
    from babel import Locale

    pattern = re.sub(r"'[^']*'", "", Locale.parse(locale).date_formats[form].pattern)
    return "".join(dict.fromkeys(re.findall("[yMd]", pattern.replace("L", "M")))).upper()


@pytest.mark.parametrize("locales", [LOCALES, TUTORIAL_LOCALES])
def test_day_month_and_year_come_in_every_order(locales):
    orders = Counter(order(locale, form) for locale in locales for form in FORMS)
    assert set(orders) == {"DMY", "MDY", "YMD", "YDM"}


def test_the_locales_are_many_and_of_many_scripts():
    import unicodedata

    assert len(set(LOCALES)) == len(LOCALES) >= 35
    assert set(TUTORIAL_LOCALES) < set(LOCALES)
    scripts = {
        unicodedata.name(letter).split()[0]
        for locale in LOCALES
        for letter in write_date(date(2024, 3, 5), locale, "full")
        if letter.isalpha()
    }
    assert scripts >= {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "GEORGIAN", "HEBREW", "ARABIC"}
    assert scripts >= {"DEVANAGARI", "BENGALI", "TAMIL", "THAI", "MYANMAR", "CJK", "HANGUL"}


def test_matplotlib_can_draw_the_tutorial():
    font_manager = pytest.importorskip("matplotlib.font_manager")
    from matplotlib.ft2font import FT2Font

    known = FT2Font(font_manager.findfont("DejaVu Sans")).get_charmap()
    for locale in TUTORIAL_LOCALES:
        for form in FORMS:
            for day in LEAP_YEAR[::5]:
                assert all(ord(letter) in known for letter in write_date(day, locale, form))


def test_pairs_say_what_they_are():
    for pair in islice(date_pairs(), 500):
        day = date.fromisoformat(pair.iso)
        assert pair.text == write_date(day, pair.locale, pair.form)
        assert len(pair.iso) == 10
        assert split_of(day) == "train"


def test_pairs_are_drawn_from_what_is_asked_for():
    pairs = islice(date_pairs(["de", "ja"], forms=["long"], years=(1950, 1951)), 2000)
    seen = Counter((pair.locale, pair.form, pair.iso[:4]) for pair in pairs)
    assert set(seen) == {(lo, "long", year) for lo in ("de", "ja") for year in ("1950", "1951")}
    assert min(seen.values()) > 400  # 500 each on average


def test_the_seed_decides():
    def first(seed):
        return list(islice(date_pairs(seed=seed), 20))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_a_date_belongs_to_one_split_whatever_the_seed_and_locale():
    def seen(split, seed, locales):
        pairs = date_pairs(locales, split=split, seed=seed, years=(2000, 2009))
        return {pair.iso for pair in islice(pairs, 3000)}

    train = seen("train", 0, LOCALES) | seen("train", 1, ["de"])
    validation = seen("validation", 2, ["ja"]) | seen("validation", 0, LOCALES)
    test = seen("test", 0, LOCALES) | seen("test", 5, ["hu"])
    assert train.isdisjoint(validation | test)
    assert validation.isdisjoint(test)


def test_splits_have_their_shares_and_never_change():
    days = [date(1900, 1, 1) + timedelta(days) for days in range(73_049)]
    assert days[-1] == date(2099, 12, 31)
    shares = Counter(map(split_of, days))
    # Golden numbers: another hash would move test dates into the training data of a shipped model.
    assert shares == {"train": 65_725, "validation": 3_640, "test": 3_684}
    assert [split_of(date(2000, 1, day)) for day in range(1, 32)].count("train") == 25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"locales": ["de", "ja_JP"]},
            "unknown locale 'ja_JP': expected one of en_US, .*mean 'ja'",
        ),
        ({"split": "dev"}, "unknown split 'dev': expected one of train, validation, test"),
        ({"forms": ["short"]}, "unknown form 'short': expected one of full, long, medium"),
        ({"years": (2020, 2010)}, r"years=\(2020, 2010\): expected \(first, last\)"),
        ({"years": (20, 2010)}, r"years=\(20, 2010\): .* between 1000 and 9999"),
        ({"locales": []}, "no date to draw: 0 locales, 3 forms"),
    ],
)
def test_what_cannot_be_drawn_raises_at_once(arguments, message):
    with pytest.raises(DataError, match=message):
        date_pairs(**arguments)


def test_without_babel_the_message_says_what_to_install(monkeypatch):
    dates._writer.cache_clear()
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "qkv\[tutorial\]"'):
        date_pairs(["de"])


def test_every_split_is_named():
    assert {split_of(day) for day in LEAP_YEAR} == set(SPLITS)
