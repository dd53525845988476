"""Sentences of prose, without greetings and signatures, and parts of long texts."""

import random

import pytest

from qkv.data.prose import is_sentence, lines_of_prose, prose_sentences, text_parts
from qkv.data.sentences import split_sentences

MAIL = """Hi Anna,

the roof of the garage leaks again, and I think that we should not wait until
spring. Mr. Okafor can come on Friday at 7 p.m. if somebody opens the gate.

Could you do that?
Agenda:
- order chairs
- Lea checks by Monday whether the hall is free on 3 May

> I wrote all of this to you last week.

Best regards,
Tom Miller
Tel. 555-0134
--\x20
The sender of this mail is not responsible for its content.
"""


@pytest.mark.parametrize(
    "sentences",
    [
        ["Mr. Okafor comes at 7 p.m. on Friday. ", "He brings Dr. Lee."],
        ["It is over by 5 p.m. ", "Bring shoes, coats, etc. ", "See you."],
        [
            "He paid 3.50 to Acme Inc. by Monday. ",
            "See No. 5 and p. 7. ",
            "I said no. ",
            "We came.",
        ],
        ["J. Smith and I. ", "The U.S. troops, e.g. five of them, left."],
        ['He said "Really?" and left. ', '"No way!" ', "She cried."],
        ["He waited... and slept. ", "Then... ", "Nothing!\n", "ok. ", "see you"],
        ["你好。", "我们！", "她说「是。」", "好"],
        [" "],
    ],
)
def test_sentences_by_hand(sentences):
    assert split_sentences("".join(sentences)) == sentences


def test_sentences_of_a_mail_are_not_its_greeting_and_signature():
    assert prose_sentences(MAIL) == [
        "the roof of the garage leaks again, and I think that we should not wait until spring.",
        "Mr. Okafor can come on Friday at 7 p.m. if somebody opens the gate.",
        "Could you do that?",
        "Lea checks by Monday whether the hall is free on 3 May",
    ]
    assert lines_of_prose(MAIL)[-3:] == ["Best regards,", "Tom Miller", "Tel. 555-0134"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dear Ms. Ito,", False),
        ("Thanks!", False),
        ("See you on Monday.", True),
        ("Minutes of the meeting", False),
        ("Lea checks whether the hall is free then", True),
        ("The points that were raised in the meeting are:", False),
        ('He said: "I will come on Monday."', True),
    ],
)
def test_what_is_a_sentence(text, expected):
    assert is_sentence(text) == expected


def test_a_text_without_sentences_has_its_lines():
    assert prose_sentences("Hi\nTom") == ["Hi", "Tom"]
    assert prose_sentences("> all of it") == ["> all of it"]
    assert prose_sentences("-- \nTom") == ["--", "Tom"]


def test_other_mail_below_is_left_out():
    mine = "I agree with all of that."
    other = "-----Original Message-----\nFrom: Tom\n\nDo you agree with that?"
    assert prose_sentences(f"{mine}\n\n{other}") == [mine]
    assert prose_sentences(f"{mine}\n\nOn May 3, Tom wrote:\n> Do you agree with it?") == [mine]
    assert prose_sentences(other)[-1] == "Do you agree with that?"


def test_lines_that_were_not_wrapped_stay_apart():
    long = "Bo reads what was decided by all of us in the last week."
    lines = ["Present: Ann, Bo", "Ann is late.", long]
    assert lines_of_prose("\n".join(lines)) == lines
    wrapped = [long, "Nothing of it was done", "Bo"]
    assert lines_of_prose("\n".join(wrapped)) == [f"{long} {wrapped[1]}", "Bo"]


def test_parts_are_the_whole_text_and_small():
    draw = random.Random(0)
    pieces = ["ab", " ", "\n", ". ", "Mr. ", "xyzxyzxyz", "! ", "\t"]
    for _ in range(200):
        text = "".join(draw.choice(pieces) for _ in range(draw.randint(0, 41)))
        for limit in (1, 2, 5, 13):
            parts = text_parts(text, len, limit)
            assert "".join(parts) == text
            assert max(map(len, parts)) <= limit


def test_parts_end_with_sentences():
    text = "One is short. Two is short. Three is much longer than any limit."
    parts = text_parts(text, len, 29)
    assert parts == ["One is short. Two is short. ", "Three is much longer than ", "any limit."]


@pytest.mark.parametrize(
    "piece", ["Mr. ", ".", "a", "the lines of a text that is wrapped at fifty\n"]
)
def test_a_megabyte_takes_no_time(piece):
    text = piece * (1_000_000 // len(piece)) + "x"
    assert "".join(split_sentences(text)) == text
    assert prose_sentences(text)


def test_wishes_that_open_a_letter_are_left_out():
    point = "The delivery on Monday is canceled."
    for wish in (
        "I hope you had a lovely weekend and that the kids enjoyed the fair.",
        "Hope this finds you well!",
        "How are you these days, and the family?",
        "We really trust that everything is fine in Leeds.",
    ):
        assert prose_sentences(f"Dear Ben,\n\n{wish} {point}\n\nBest,\nAnna") == [point]
        assert prose_sentences(wish) == [wish]  # nothing else is there
    kept = "I hope to finish the report by Friday, and you will have it then."
    assert prose_sentences(f"{kept} {point}") == [kept, point]
