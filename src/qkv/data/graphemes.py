"""User-perceived characters, which a span of text must not split.

One of them may have several code points: a letter with its accents, an emoji with its skin tone, a
family of joined emoji, a flag of two letters, a decomposed syllable of Hangul.
"""

import re
from unicodedata import category, normalize

JOINER = "\u200d"
# Code points that extend or precede a character although their category is not Mark.
_EXTENDING = re.compile(
    "[\u200c\u200d\u0e33\u0eb3\uff9e\uff9f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)
_PREPENDED = re.compile("[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd]")
_LEADING, _VOWEL = "\u1100-\u115f\ua960-\ua97c", "\u1160-\u11a7\ud7b0-\ud7c6"
_TRAILING = "\u11a8-\u11ff\ud7cb-\ud7fb"
_SYLLABLE = re.compile(
    f"[{_LEADING}][{_LEADING}{_VOWEL}]|[{_VOWEL}][{_VOWEL}{_TRAILING}]|[{_TRAILING}][{_TRAILING}]"
)


def is_boundary(text: str, at: int) -> bool:
    """Return whether a position, in code points, lies between two user-perceived characters.

    These are the extended grapheme clusters of Unicode Standard Annex 29, by Python's general
    categories: GB3 to GB9b (line ends, Hangul, marks), GB11 (joined symbols), GB12 and GB13
    (flags). The few marks of Myanmar and Tai Tham that are clusters there are never separated here.
    """
    if not 0 < at < len(text):
        return True
    before, after = text[at - 1], text[at]
    if _is_control(before) or _is_control(after):
        return before + after != "\r\n"
    if _extends(after) or _PREPENDED.match(before):
        return False
    if _SYLLABLE.match(normalize("NFD", before)[-1] + normalize("NFD", after)[0]):
        return False
    if before == JOINER and _is_symbol(after):
        first = at - 1
        while first and _extends(text[first]):
            first -= 1
        return not _is_symbol(text[first])
    first = at
    while first and _is_flag(text[first - 1]):
        first -= 1
    return not (_is_flag(after) and (at - first) % 2)


def widen(text: str, start: int, end: int) -> tuple[int, int]:
    """Move the ends of a span outwards until they split no user-perceived character."""
    while not is_boundary(text, start):
        start -= 1
    while not is_boundary(text, end):
        end += 1
    return start, end


def find(text: str, part: str) -> int:
    """Return the first occurrence of a part that splits no character, else the first, else -1.

    The first "Cafe" in "a Café and a Cafe" is at the end, even if the accent is a code point.
    """
    first = at = text.find(part)
    while at >= 0 and widen(text, at, at + len(part)) != (at, at + len(part)):
        at = text.find(part, at + 1)
    return first if at < 0 else at


def _is_control(x: str) -> bool:
    kind = category(x)
    return kind in ("Cc", "Zl", "Zp") or (
        kind == "Cf" and not _EXTENDING.match(x) and not _PREPENDED.match(x)
    )


def _extends(x: str) -> bool:
    return category(x)[0] == "M" or _EXTENDING.match(x) is not None


def _is_symbol(x: str) -> bool:
    """Return whether a code point can be joined to others: an emoji, even if Python lacks it."""
    if _is_flag(x):
        return False
    newer = "\U0001f000" <= x <= "\U0001faff"
    return newer or category(x) in ("So", "Sm") or x in "\u203c\u2049\u3030\u303d"


def _is_flag(x: str) -> bool:
    """Return whether a code point is one of the letters that form flags in pairs."""
    return "\U0001f1e6" <= x <= "\U0001f1ff"
