"""Untrusted regular expressions, matched in time proportional to text times pattern.

Python's `re` tries one alternative after another, and some patterns have exponentially many:
`((a+)+)+b` on thirty letters a. Here all alternatives are followed at once, as sets of states
(Thompson 1968, "Regular expression search algorithm"). Back references and lookbehind are rejected.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from qkv.errors import ConfigError
from qkv.json_fields import quoted

LONGEST, DEEPEST, MOST_STATES = 4000, 40, 8000
END = 0  # the accepting state
AHEAD = {"(?=": True, "(?!": False}
# The content of brackets, and the characters allowed after a backslash.
CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
WORD = re.compile(r"\w")
COUNTS = re.compile(r"\{(\d*)(,?)(\d*)\}")
GROUP = re.compile(r"\((?:\?:|\?=|\?!|\?P<\w+>)?")
Node = tuple[Any, ...]


@dataclass
class State:
    """A state of the automaton of a pattern.

    Args:
        kind: "any" (all next states at once), "char" (consumes a character), "at" (tests a
            position), or "ahead" and "not ahead" (a pattern that must or must not follow).
        of: pattern of the character, the position, or the first state of the lookahead.
        out: next states.
    """

    kind: str
    of: Any = None
    out: list[int] = field(default_factory=list)


class Pattern:
    """A regular expression that matches whole texts.

    Raises:
        ConfigError: if it is invalid, too large, or uses an unsupported feature.
    """

    def __init__(self, pattern: str):
        self.pattern = pattern
        if len(pattern) > LONGEST:
            raise ConfigError(
                f"{quoted(pattern, 60)} is a regular expression of {len(pattern)} characters; "
                f"expected at most {LONGEST}"
            )
        try:
            self._simple = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigError(f"{quoted(pattern)} is not a regular expression: {error}") from error
        # Without alternatives, `re` has only one way to try.
        if set(pattern) & set("|*+?{("):
            self.states = [State("end")]
            self.start = self._build(_Parser(pattern).parse(), END)

    def fullmatch(self, text: str) -> bool:
        """Return whether the whole text matches."""
        if not hasattr(self, "start"):
            return self._simple.fullmatch(text) is not None
        return len(text) in self._ends(self.start, text, 0)

    def _add(self, kind: str, of: Any, *out: int) -> int:
        if len(self.states) >= MOST_STATES:
            raise ConfigError(
                f"{quoted(self.pattern)} is too large a regular expression: its repetitions need "
                f"more than {MOST_STATES} states"
            )
        self.states.append(State(kind, of, list(out)))
        return len(self.states) - 1

    def _build(self, node: Node, after: int) -> int:
        """Add the states of a node before those that follow; return the first."""
        match node:
            case ("char" | "at" as kind, of):
                return self._add(kind, of, after)
            case ("ahead" | "not ahead" as kind, one):
                return self._add(kind, self._build(one, END), after)
            case ("all", parts):
                for one in reversed(parts):
                    after = self._build(one, after)
                return after
            case ("any", parts):
                return self._add("any", None, *(self._build(one, after) for one in parts))
            case ("repeat", one, least, most):
                return self._repeat(one, least, most, after)
        raise AssertionError(node)

    def _repeat(self, one: Node, least: int, most: int | None, after: int) -> int:
        if most is None:
            loop = self._add("any", None, after)
            self.states[loop].out.insert(0, self._build(one, loop))
            start = loop
        else:
            start = after
            for _ in range(most - least):
                start = self._add("any", None, self._build(one, start), after)
        for _ in range(least):
            start = self._build(one, start)
        return start

    def _ends(self, start: int, text: str, begin: int) -> set[int]:
        """Return the positions at which a match that begins at `begin` may end."""
        ends, known = set(), {}
        current = self._reach([start], text, begin, known)
        for place in range(begin, len(text) + 1):
            if END in current:
                ends.add(place)
            if place == len(text) or not current:
                break
            read = [self.states[one] for one in current if self.states[one].kind == "char"]
            after = [one.out[0] for one in read if one.of.fullmatch(text[place])]
            current = self._reach(after, text, place + 1, known)
        return ends

    def _reach(
        self, starts: list[int], text: str, place: int, known: dict[tuple[int, int], bool]
    ) -> set[int]:
        """Return all states reachable without consuming a character."""
        reached, todo = set(), list(starts)
        while todo:
            number = todo.pop()
            if number in reached:
                continue
            reached.add(number)
            state = self.states[number]
            if state.kind == "any" or (state.kind == "at" and _is_at(state.of, text, place)):
                todo += state.out
            elif state.kind in ("ahead", "not ahead"):
                key = (state.of, place)
                if key not in known:
                    known[key] = bool(self._ends(state.of, text, place))
                if known[key] is (state.kind == "ahead"):
                    todo += state.out
        return reached


@lru_cache(maxsize=4096)
def compile_pattern(pattern: str) -> Pattern:
    """Return the compiled pattern; for errors, see `Pattern`."""
    return Pattern(pattern)


def _is_at(place: str, text: str, i: int) -> bool:
    if place in ("^", r"\A"):
        return i == 0
    if place == "$":
        return text[i:] in ("", "\n")
    if place == r"\Z":
        return i == len(text)
    before, after = (text[i - 1 : i] if i else ""), text[i : i + 1]
    at_edge = (WORD.fullmatch(before) is None) != (WORD.fullmatch(after) is None)
    # Python below 3.14: an empty text has no non-boundary either.
    return at_edge if place == r"\b" else bool(text) and not at_edge


class _Parser:
    """A parser of patterns that `re` accepts."""

    def __init__(self, pattern: str):
        self.pattern, self.i, self.depth = pattern, 0, 0

    def parse(self) -> Node:
        node = self._alternatives()
        if self.i < len(self.pattern):
            raise self._refused("')'")
        return node

    def _alternatives(self) -> Node:
        branches = [self._sequence()]
        while self.pattern.startswith("|", self.i):
            self.i += 1
            branches.append(self._sequence())
        return ("any", branches) if len(branches) > 1 else branches[0]

    def _sequence(self) -> Node:
        parts = []
        while self.i < len(self.pattern) and self.pattern[self.i] not in "|)":
            parts.append(self._quantified(self._atom()))
        return ("all", parts)

    def _quantified(self, atom: Node) -> Node:
        start, least, most = self.i, 1, 1
        sign = self.pattern[self.i : self.i + 1]
        counts = COUNTS.match(self.pattern, self.i)
        if sign and sign in "*+?":
            least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
            self.i += 1
        elif counts and (counts[1] or counts[2]):
            least = int(counts[1] or 0)
            most = (int(counts[3]) if counts[3] else None) if counts[2] else least
            self.i = counts.end()
        if self.i == start:
            return atom
        if self.pattern.startswith("+", self.i):
            raise self._refused("a possessive quantifier")
        self.i += self.pattern.startswith(
            "?", self.i
        )  # lazy: the order of alternatives does not matter
        return ("repeat", atom, least, most)

    def _atom(self) -> Node:
        sign = self.pattern[self.i]
        if sign == "(":
            return self._group()
        if sign == "[":
            end = self.i + len(self._next(CLASS))
        elif sign == "\\":
            return self._escape()
        else:
            end = self.i + 1
        text, self.i = self.pattern[self.i : end], end
        if text in ("^", "$"):
            return ("at", text)
        return ("char", re.compile(text if text == "." or sign == "[" else re.escape(text)))

    def _escape(self) -> Node:
        text = self.pattern[self.i : self.i + 2]
        if text[1:].isdigit() or (text[1:].isalpha() and text[1:] not in "dDwWsSbBAZnrtfv"):
            raise self._refused(text)
        self.i += 2
        return ("at", text) if text[1] in "bBAZ" else ("char", re.compile(text))

    def _group(self) -> Node:
        opening = self._next(GROUP)
        if self.pattern.startswith("(?", self.i) and opening == "(":
            raise self._refused(self.pattern[self.i : self.i + 3])
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._refused(f"groups nested deeper than {DEEPEST}")
        self.i += len(opening)
        node = self._alternatives()
        self.i += 1  # its end
        self.depth -= 1
        if opening in AHEAD:
            return ("ahead" if AHEAD[opening] else "not ahead", node)
        return node

    def _next(self, expected: re.Pattern[str]) -> str:
        match = expected.match(self.pattern, self.i)
        return match[0] if match else ""

    def _refused(self, what: str) -> ConfigError:
        return ConfigError(
            f"{quoted(self.pattern)}: {what} is not supported in regular expressions"
        )
