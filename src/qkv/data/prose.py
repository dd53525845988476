"""Prose: the sentences of e-mails, articles and dialogues, without greetings and signatures."""

import re
from collections.abc import Callable

from qkv.data.sentences import split_sentences

SIGNATURE = re.compile(r"^-- ?$", re.MULTILINE)  # RFC 3676: what follows is the signature
OTHER_MAIL = re.compile(
    r"^-{3,} *Original Message|^On .{5,80} wrote:$", re.MULTILINE | re.IGNORECASE
)
BULLET = re.compile(r"^(?:[-*•–]|\d+[.)]) +")
QUOTED = re.compile(r"^\s*>")
ENDED = re.compile(r"""[.!?…。！？]["'”’»)\]]*$""")
NARROWEST, WIDEST = 50, 100  # characters of the longest line of wrapped text
# Sentences that open a letter and say nothing about its subject.
WISH = re.compile(
    r"^(?:I |we )?(?:do |really |just )*(?:hope|trust) (?:that )?"
    r"(?:you|your|this|these|all|everything|everyone)\b|^how (?:are|have) (?:you|things)\b",
    re.IGNORECASE,
)
FEWEST = 4  # words of a sentence
LONG = 8  # words of a line that counts as a sentence without a mark at its end
WORDS = re.compile(r"\s*\S+\s*|\s+")


def lines_of_prose(text: str) -> list[str]:
    """Return the lines of a text as its author meant them: wrapped lines are joined.

    A line is wrapped if the first word of the next one would not have fitted into the text's
    longest line, or begins with a small letter. Blank lines always separate. List markers, quoted
    mail, and the signature after a line "--" are left out.
    """
    for end in (SIGNATURE, OTHER_MAIL):
        found = end.search(text)
        if found and text[: found.start()].strip():
            text = text[: found.start()]
    every = text.split("\n")
    own = [row for row in every if not QUOTED.match(row)]
    rows = [" ".join(row.split()) for row in (own if "".join(own).strip() else every)]
    width = max(map(len, rows), default=0)
    wrapped = NARROWEST <= width <= WIDEST
    joined = list[list[str]]()
    before = ""
    for row in rows:
        word = row.partition(" ")[0]
        full = wrapped and len(before) + 1 + len(word) > width
        if before and row and (full or row[0].islower()):
            joined[-1].append(row)
        else:
            joined.append([row])
        before = row
    return [BULLET.sub("", " ".join(line)) for line in joined if line != [""]]


def prose_sentences(text: str) -> list[str]:
    """Return the sentences of a text, without greetings, signatures and headings.

    A sentence has at least 4 words and ends with a period or a similar mark; an item of a list may
    lack the mark if it has at least 8 words, and ends with neither a comma nor a colon. By this
    rule "Hi Anna," and "Best regards," are not sentences, and neither is a wish such as "I hope you
    are well." If a text has no sentences, its lines are returned.
    """
    parts = [one.strip() for line in lines_of_prose(text) for one in split_sentences(line)]
    return [one for one in parts if is_sentence(one)] or [one for one in parts if one]


def is_sentence(text: str) -> bool:
    """Return whether a text is a sentence by the rule of `prose_sentences`."""
    words = len(text.split())
    if WISH.search(text):
        return False
    if ENDED.search(text):
        return words >= FEWEST
    return words >= LONG and text[-1:] not in ",;:"


def text_parts(text: str, size: Callable[[str], int], limit: int) -> list[str]:
    """Split a text into parts that together are the whole text, between sentences if possible.

    A sentence that is too long is split between words, and a word between characters.

    Args:
        text: the text.
        size: returns the size of a text, such as its number of tokens.
        limit: maximum size of a part, except for a single character.
    """
    if size(text) <= limit or len(text) < 2:
        return [text]
    units = split_sentences(text)
    if len(units) == 1:
        units = WORDS.findall(text)
    if len(units) == 1:
        units = [text[: len(text) // 2], text[len(text) // 2 :]]
    parts = list[str]()
    for unit in units:
        if parts and size(parts[-1] + unit) <= limit:
            parts[-1] += unit
        else:
            parts += text_parts(unit, size, limit)
    return parts
