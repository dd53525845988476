"""A built-in corpus of pairs: dates as written in 48 locales, and their ISO 8601 form.

The names, patterns and default digits are those of the Unicode CLDR, read with the Babel package
(CLDR is under the Unicode License v3, https://www.unicode.org/license.txt). Every locale uses the
Gregorian calendar. No text has two meanings, even across locales: CLDR's "short" form is left out
because 3/5/24 may be in March or in May.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from functools import cache, lru_cache
from hashlib import sha256

from qkv.errors import DataError, MissingDependencyError

SPLITS = ("train", "validation", "test")
FORMS = ("full", "long", "medium")  # CLDR's names; "full" adds the day of the week

_NAMES = (
    "en_US en_GB de fr es it pt_BR nl sv da fi is et lv lt pl cs hr ro hu tr vi id eu sw "
    "el ru uk bg sr kk ky mn hy ka he ar_EG fa ur hi mr bn ta th my ja ko zh"
)
LOCALES = tuple(_NAMES.split())

# Every order (MDY, DMY, YMD, YDM), seven scripts, other digits (ar_EG), two right-to-left scripts
# and, in Armenian, an order that depends on the form. Matplotlib's default font can draw them all;
# ja, ko, zh, hi and th are missing only because it cannot draw those.
TUTORIAL_LOCALES = ("en_US", "de", "hu", "kk", "el", "ru", "hy", "ka", "he", "ar_EG")

# The digit zero of CLDR's numbering systems, as a code point.
_ZEROS = {
    "latn": 0x30,
    "arab": 0x660,
    "arabext": 0x6F0,
    "beng": 0x9E6,
    "deva": 0x966,
    "mymr": 0x1040,
}


@dataclass(frozen=True)
class DatePair:
    """A date in the format of a locale, and the same date as YYYY-MM-DD."""

    text: str
    iso: str
    locale: str
    form: str


def date_pairs(
    locales: Sequence[str] = LOCALES,
    *,
    split: str = "train",
    seed: int = 0,
    forms: Sequence[str] = FORMS,
    years: tuple[int, int] = (1900, 2099),
) -> Iterator[DatePair]:
    """Yield pairs endlessly; date, locale and form are drawn uniformly.

    Args:
        locales: names from `LOCALES`.
        split: split of the dates; a date's split does not depend on the other arguments.
        seed: seed for drawing.
        forms: CLDR's lengths of a date.
        years: the first and the last year, with four digits.

    Raises:
        DataError: an unknown locale, split or form, or years without a date of the split.
        MissingDependencyError: Babel is not installed.
    """
    if not 1000 <= years[0] <= years[1] <= 9999:
        raise DataError(f"years={years}: expected (first, last) between 1000 and 9999, in order")
    writers = [(locale, form, _writer(locale, form)) for locale in locales for form in forms]
    days = _days(split, *years)
    if not writers or not days:
        raise DataError(
            f"no date to draw: {len(locales)} locales, {len(forms)} forms and {len(days)} days of "
            f"{split!r} in {years}; expected at least one of each"
        )
    return _draw(writers, days, random.Random(seed))


def write_date(day: date, locale: str, form: str = "long") -> str:
    """Format a date for a locale as CLDR does, in the locale's digits.

    Raises:
        DataError: an unknown locale or form.
        MissingDependencyError: Babel is not installed.
    """
    return _writer(locale, form)(day)


def split_of(day: date) -> str:
    """Return the split of a date: train (about 90 %), validation (5 %) or test (5 %)."""
    # Unlike Python's own hash, this one is the same in every process and version.
    percent = int.from_bytes(sha256(day.isoformat().encode()).digest()[:8]) % 100
    return "train" if percent < 90 else "validation" if percent < 95 else "test"


def _draw(
    writers: Sequence[tuple[str, str, Callable[[date], str]]],
    days: Sequence[date],
    rng: random.Random,
) -> Iterator[DatePair]:
    while True:
        locale, form, write = rng.choice(writers)
        day = rng.choice(days)
        yield DatePair(write(day), day.isoformat(), locale, form)


@lru_cache(maxsize=8)
def _days(split: str, first: int, last: int) -> tuple[date, ...]:
    _check("split", split, SPLITS)
    start, stop = date(first, 1, 1).toordinal(), date(last, 12, 31).toordinal() + 1
    return tuple(day for day in map(date.fromordinal, range(start, stop)) if split_of(day) == split)


@cache
def _writer(locale: str, form: str) -> Callable[[date], str]:
    _check("locale", locale, LOCALES)
    _check("form", form, FORMS)
    try:
        from babel import Locale
        from babel.dates import format_date
    except ImportError as error:
        raise MissingDependencyError(
            'the corpus of dates needs Babel: pip install "qkv[tutorial]"'
        ) from error
    data = Locale.parse(locale)
    zero = _ZEROS[data.default_numbering_system]
    digits = {
        ord("0") + n: zero + n for n in range(10)
    }  # Babel itself writes dates in ASCII digits
    return lambda day: format_date(day, form, data).translate(digits)


def _check(what: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        nearest = get_close_matches(name, known, n=1, cutoff=0)[0]
        raise DataError(
            f"unknown {what} {name!r}: expected one of {', '.join(known)}; "
            f"did you mean {nearest!r}?"
        )
