"""Copying: names, numbers and addresses that a translator must not change.

A small model garbles a name that it has never seen. So each is replaced by a stand-in, a control
character that the model has learned to copy, and put back into the translation (n and m here):

    "Please call Oksana at 555 0137."  ->  "Please call n at m."  ->  "Bitte ruf n unter m an."

Luong et al. 2015, "Addressing the rare word problem", https://arxiv.org/abs/1410.8206.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from random import Random
from typing import Any

from qkv.errors import ConfigError, DataError
from qkv.json_fields import TEXT, check_kinds, list_of, parse_json

FILE_NAME = "copying.json"
# Control characters, which no text has, and which each are one token of a byte-level vocabulary.
NAMES, NUMBERS = "\x01\x02\x03\x04\x05", "\x0e\x0f\x10\x11\x12"
STAND_INS = re.compile(f"[{NAMES}{NUMBERS}]")
# Possessive quantifiers, and only at the start of a run: dot leaders and blanks are long runs.
ADDRESS = r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)++|(?:https?://|www\.)[^\s,;]*[\w/]"
# Two digits or more: groups with spaces, as in phone numbers, or with marks, as in times and dates.
NUMBER = r"(?=\d[.,:/ -]?\d)(?:\d++(?:[ -]\d++)++(?![.,]\d)|\d++(?:[.,:/-]\d++)*+)"
WORD = r"[^\W\d_]+(?:['’-][^\W\d_]+)*"
TOKEN = re.compile(f"(?P<address>{ADDRESS})|(?P<number>{NUMBER})|(?P<word>{WORD})")
POSSESSIVE = re.compile(r"['’]s?$")
RARE = 3  # a word that occurs this often in the training texts is known
SAME = 0.7  # a word that stays the same in this share of translations is a name
FREQUENT = 100  # but a name this frequent needs no stand-in
SHORTEST = 3  # letters in each part of a compound
KINDS = {"source": TEXT, "target": TEXT, "known": list_of(TEXT)}


@dataclass(frozen=True)
class Language:
    """How a language writes numbers and names.

    Args:
        thousands: separator of thousands.
        decimal: decimal separator.
        not_first: matches the first word of a text and the next, if the first is not a name.
        before_nouns: words before a noun, in a language that capitalizes its nouns.
        nouns: matches a noun by its ending, in such a language; None: only names have capitals.
    """

    thousands: str
    decimal: str
    not_first: re.Pattern[str]
    before_nouns: frozenset[str] = frozenset()
    nouns: re.Pattern[str] | None = None


PRONOUNS = (
    "du ihr er sie es wir ich mich dich sich mir dir ihn nicht nichts den die das der dem von"
)
DETERMINERS = """
    der die das den dem des ein eine einen einem einer eines kein keine keinen keinem keiner mein
    meine meinen meinem meiner dein deine deinen deinem deiner sein seine seinen seinem seiner ihr
    ihre ihren ihrem ihrer unser unsere unseren unserem unserer euer eure euren eurem eurer dieser
    diese dieses diesen diesem jeder jede jedes jeden jedem welcher welche welches im am zum zur
    beim vom ins ans viel viele wenig mehr etwas alle einige paar ohne zwei drei vier
"""
LANGUAGES = {
    "en": Language(",", ".", re.compile(r"\w+s [a-z]")),
    "de": Language(
        ".",
        ",",
        re.compile(rf"\w+ (?:{'|'.join(PRONOUNS.split())})\b", re.IGNORECASE),
        frozenset(DETERMINERS.split()),
        re.compile(
            r"(?:ung|heit|keit|schaft|tion|tät|tum|nis|ling|chen|erei|ismus|innen)(?:en|s)?$"
        ),
    ),
}


@dataclass(frozen=True)
class Masked:
    """A text with stand-ins, and the original of each stand-in."""

    text: str
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Copying:
    """What is copied from a text to its translation.

    Args:
        source: language of the texts, "en" or "de".
        target: language of the translations.
        known: lowercased words that the model translates itself.

    Raises:
        ConfigError: a language whose numbers and names have no rule here.
    """

    source: str
    target: str
    known: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Check the languages."""
        if unknown := sorted({self.source, self.target} - set(LANGUAGES)):
            raise ConfigError(
                f"names and numbers cannot be copied in {', '.join(unknown)}; expected languages "
                f"among {', '.join(LANGUAGES)}, or copying = false"
            )

    @classmethod
    def learn(cls, pairs: Sequence[tuple[str, str]], source: str, target: str) -> "Copying":
        """Learn from training pairs which words are known, and not merely copied."""
        seen, same = Counter[str](), Counter[str]()
        for text, translation in pairs:
            words, others = set(re.findall(WORD, text)), set(re.findall(WORD, translation))
            seen.update(_plain(word) for word in words)
            same.update(_plain(word) for word in words & others if word[0].isupper())
        known = {
            word
            for word, count in seen.items()
            if count >= RARE and (same[word] < SAME * count or count >= FREQUENT)
        }
        return cls(source, target, frozenset(known))

    def extended(self, pairs: Sequence[tuple[str, str]]) -> "Copying":
        """Return the rule with the known words of more training pairs."""
        known = Copying.learn(pairs, self.source, self.target).known
        return replace(self, known=self.known | known)

    def mask(self, text: str) -> Masked:
        """Replace what must be copied with stand-ins, numbered in order."""
        text = STAND_INS.sub("", text)
        names, numbers = iter(NAMES), iter(NUMBERS)
        values = dict[str, str]()

        def stand_in(value: str, kind: Iterable[str]) -> str:
            for old, known in values.items():
                if known == value:
                    return old
            new = next(iter(kind), None)
            if new is None:  # there are no more of them
                return value
            values[new] = value
            return new

        parts, end = list[str](), 0
        for begin, stop, kind in self._found(text):
            parts.append(text[end:begin])
            parts.append(stand_in(text[begin:stop], numbers if kind == "number" else names))
            end = stop
        return Masked("".join(parts) + text[end:], values)

    def restore(self, text: str, values: dict[str, str], *, translated: bool = True) -> str:
        """Replace stand-ins with their originals; drop those that a model made up.

        Args:
            text: text with stand-ins.
            values: the original of each stand-in.
            translated: whether to write numbers as the target language does.
        """
        for stand_in, value in values.items():
            text = text.replace(stand_in, self.written(value) if translated else value)
        return STAND_INS.sub("", text)

    def complete(self, translation: str, text: str) -> bool:
        """Return whether a translation has exactly its text's stand-ins, none of them too often.

        Args:
            translation: translation with stand-ins.
            text: its source, with stand-ins.
        """
        found, asked = Counter(STAND_INS.findall(translation)), Counter(STAND_INS.findall(text))
        return found.keys() == asked.keys() and found <= asked

    def written(self, value: str) -> str:
        """Return a value as the target language writes it: the separators of numbers differ."""
        if re.fullmatch(NUMBER, value) is None:
            return value
        return re.sub(r"[\d.,]+", lambda match: self._number(match[0]), value)

    def mask_pairs(
        self, pairs: Sequence[tuple[str, str]], *, rate: float = 0.3, seed: int = 0
    ) -> list[tuple[str, str]]:
        """Mask training pairs: what both sides share, and some of the names that are known.

        Args:
            pairs: texts and translations.
            rate: fraction of the known names, equal on both sides, to mask.
            seed: determines these names, and the stand-ins.
        """
        random = Random(seed)
        return [self._mask_pair(*pair, random, rate) for pair in pairs]

    def _mask_pair(
        self, text: str, translation: str, random: Random, rate: float
    ) -> tuple[str, str]:
        found = [(text[begin:stop], kind) for begin, stop, kind in self._found(text)]
        chosen = {value for value, _ in found}
        for name in re.findall(WORD, text):
            name = POSSESSIVE.sub("", name)
            shared = name[:1].isupper() and len(name) > 1 and _place(name, translation)
            if shared and name not in chosen and random.random() < rate:
                found.append((name, "word"))
                chosen.add(name)
        names, numbers = random.sample(NAMES, len(NAMES)), random.sample(NUMBERS, len(NUMBERS))
        for value, kind in dict.fromkeys(found):
            other = self.written(value) if kind == "number" else value
            free = numbers if kind == "number" else names
            here, there = _place(value, text), _place(other, translation)
            if free and here is not None and there is not None:
                stand_in = free.pop()
                text, translation = here.sub(stand_in, text), there.sub(stand_in, translation)
        return text, translation

    def _found(self, text: str) -> list[tuple[int, int, str]]:
        """Return begin, end and kind of each part to copy; neighboring names are merged."""
        found = list[tuple[int, int, str]]()
        before = ""
        for match in TOKEN.finditer(text):
            kind, (begin, end) = match.lastgroup or "", match.span()
            end -= len(match[0]) - len(POSSESSIVE.sub("", match[0]))
            if kind == "word":
                named = bool(found) and found[-1][1:] == (begin - 1, "word")
                if not self._is_name(text[begin:end], before.lower(), text[begin:], named=named):
                    before = match[0]
                    continue
                if named and text[begin - 1] == " ":
                    begin = found.pop()[0]
            before = match[0]
            found.append((begin, end, kind))
        return found

    def _is_name(self, word: str, before: str, onward: str, *, named: bool) -> bool:
        """Return whether a word is a name that the model does not know.

        Args:
            word: the word.
            before: the word before it, lowercased; "" at the start.
            onward: the text from the word on.
            named: whether a name precedes it.
        """
        if not word[0].isupper() or len(word) < 2 or self._knows(word):
            return False
        language = LANGUAGES[self.source]
        if named or language.nouns is None:
            return bool(before) or not language.not_first.match(onward)
        return not (
            before in language.before_nouns
            or (not before and language.not_first.match(onward))
            or language.nouns.search(word)
            or self._is_compound(word.lower())
        )

    def _knows(self, word: str) -> bool:
        plain = _plain(word)
        parts = re.split("[-'’]", plain)
        return plain in self.known or all(part in self.known for part in parts)

    def _is_compound(self, word: str) -> bool:
        """Return whether a word consists of two known words, as German nouns often do."""
        for i in range(SHORTEST, len(word) - SHORTEST):
            first, second = word[:i], word[i:]
            joints = (first, first.removesuffix("s"), first.removesuffix("n"), first + "e")
            if second in self.known and self.known.intersection(joints):
                return True
        return False

    def _number(self, value: str) -> str:
        """Write a number as the target language does, if it is clear what its marks mean.

        A point may belong to a version or a time, so "3.5" stays, but "3,5" is a decimal fraction.
        """
        ours, theirs = LANGUAGES[self.source], LANGUAGES[self.target]
        grouped = rf"\d{{1,3}}(?:\{ours.thousands}\d{{3}})+(?:\{ours.decimal}\d+)?"
        fraction = r"|\d+,\d+" if ours.decimal == "," else ""
        if not re.fullmatch(grouped + fraction, value):
            return value
        swap = {ours.thousands: theirs.thousands, ours.decimal: theirs.decimal}
        return "".join(swap.get(c, c) for c in value)

    @property
    def file(self) -> bytes:
        """The content of copying.json."""
        content = {"source": self.source, "target": self.target, "known": sorted(self.known)}
        return (json.dumps(content, ensure_ascii=False, indent=0) + "\n").encode()

    @classmethod
    def read(cls, file: bytes) -> "Copying":
        """Read copying.json.

        Raises:
            DataError: the file is broken, or a field is missing.
            ConfigError: a field has a value of another type, or a language without a rule.
        """
        try:
            content: dict[str, Any] = parse_json(file.decode(), FILE_NAME, unique=True)
        except UnicodeDecodeError as error:
            raise DataError(f"{FILE_NAME} is not UTF-8: {error}") from error
        if content.keys() != KINDS.keys():
            raise DataError(
                f"{FILE_NAME} has the fields {', '.join(content) or 'none'}; expected "
                f"{', '.join(KINDS)}"
            )
        check_kinds(content, KINDS, where=FILE_NAME)
        return cls(content["source"], content["target"], frozenset(content["known"]))


def _plain(word: str) -> str:
    return POSSESSIVE.sub("", word).lower()


def _place(value: str, text: str) -> re.Pattern[str] | None:
    """Return a pattern for a value that a text has exactly once, perhaps with a genitive s."""
    pattern = _pattern(value)
    return pattern if value in text and len(pattern.findall(text)) == 1 else None


@cache
def _pattern(value: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w@.]){re.escape(value)}(?=s?(?![\w@]))")
