"""What a translator copies: found, replaced by stand-ins, and put back."""

import random
import string
import time

import pytest

from qkv.data.copying import NAMES, NUMBERS, STAND_INS, Copying
from qkv.errors import ConfigError, DataError

WORDS = "please call at my friend is in the of and her house car lives with write to on old we met"
GERMAN = (
    "der ich rufe an das haus ist alt und wir treffen frau zahn arzt termin schule kinder spielen"
)
ENGLISH = Copying("en", "de", frozenset(WORDS.split()))
BACK = Copying("de", "en", frozenset(GERMAN.split()))


def masked(text, copying=ENGLISH):
    """Return the text with {name} and {number} for stand-ins, and the values in order."""
    found = copying.mask(text)
    shown = "".join("{n}" if c in NAMES else "{#}" if c in NUMBERS else c for c in found.text)
    return shown, list(found.values.values())


@pytest.mark.parametrize(
    ("text", "shown", "values"),
    [
        ("Please call Oksana at 555 0137.", "Please call {n} at {#}.", ["Oksana", "555 0137"]),
        ("Yusuf's car is old.", "{n}'s car is old.", ["Yusuf"]),
        ("We met Thorvald Mbeki-Torres.", "We met {n}.", ["Thorvald Mbeki-Torres"]),
        ("Write to ola.b@example.org, please.", "Write to {n}, please.", ["ola.b@example.org"]),
        ("See https://example.org/a?b=1.", "{n} {n}.", ["See", "https://example.org/a?b=1"]),
        ("Her house is 7 years old.", "Her house is 7 years old.", []),
        ("My friend lives in Room 218.", "My friend lives in {n} {#}.", ["Room", "218"]),
        ("Yusuf and Oksana and Yusuf.", "{n} and {n} and {n}.", ["Yusuf", "Oksana"]),
    ],
)
def test_what_is_copied_from_english(text, shown, values):
    assert masked(text) == (shown, values)


@pytest.mark.parametrize(
    ("text", "shown", "values"),
    [
        ("Wir treffen Oksana.", "Wir treffen {n}.", ["Oksana"]),
        ("Ich rufe Frau Mbeki an.", "Ich rufe Frau {n} an.", ["Mbeki"]),
        ("Der Zahnarzttermin ist alt.", "Der Zahnarzttermin ist alt.", []),  # after an article
        ("Ich rufe Zahnarzt an.", "Ich rufe Zahnarzt an.", []),  # a compound of known words
        ("Meinst du Oksana?", "Meinst du {n}?", ["Oksana"]),  # a verb at the start
        ("Wir treffen Hoffnung.", "Wir treffen Hoffnung.", []),  # the ending of a noun
    ],
)
def test_what_is_copied_from_german(text, shown, values):
    assert masked(text, BACK) == (shown, values)


def test_every_text_comes_back_if_its_translation_is_itself():
    draw = random.Random(0)
    same = Copying("en", "en", ENGLISH.known)
    letters = string.ascii_letters + string.digits + " .,:'@-/öß甲"
    for _ in range(2_000):
        text = "".join(draw.choices(letters, k=draw.randint(0, 60)))
        found = same.mask(text)
        assert same.restore(found.text, found.values) == text
        assert same.complete(found.text, found.text)


def test_control_characters_of_a_text_are_no_stand_ins():
    found = ENGLISH.mask(f"call {NAMES[0]} Oksana {NUMBERS[1]}")
    assert found.values == {NAMES[0]: "Oksana"}
    assert STAND_INS.findall(found.text) == [NAMES[0]]


def test_more_names_than_stand_ins_stay_as_they_are():
    names = ["Ax", "Bex", "Cix", "Dox", "Ex", "Fux", "Gyx"]
    found = ENGLISH.mask(" and ".join(names))
    assert list(found.values.values()) == names[: len(NAMES)]
    assert found.text.endswith("Fux and Gyx")


@pytest.mark.parametrize(
    ("number", "german"),
    [
        ("1,250", "1.250"),
        ("1,250.50", "1.250,50"),
        ("1,250-2,500", "1.250-2.500"),
        ("3.5", "3.5"),  # perhaps a version or a time
        ("12:30", "12:30"),
        ("555 0137", "555 0137"),
        ("2024", "2024"),
        ("192.168.0.1", "192.168.0.1"),
        ("12.03.2024", "12.03.2024"),
    ],
)
def test_numbers_are_written_as_the_target_language_does(number, german):
    found = ENGLISH.mask(f"call {number} please")
    assert found.values == {NUMBERS[0]: number}
    assert ENGLISH.restore(found.text, found.values) == f"call {german} please"
    if number != "3.5":
        assert BACK.restore(NUMBERS[0], {NUMBERS[0]: german}) == number


def test_a_list_of_numbers_is_not_one_number():
    assert masked("call 1,000, 2,000 and 3,000") == (
        "call {#}, {#} and {#}",
        ["1,000", "2,000", "3,000"],
    )
    assert masked("in 2010, 300 of them") == ("in {#}, {#} of them", ["2010", "300"])
    assert masked("at 7, 8 and 9") == ("at 7, 8 and 9", [])


def test_a_decimal_comma_becomes_a_point():
    assert BACK.restore(NUMBERS[0], {NUMBERS[0]: "3,5"}) == "3.5"
    assert BACK.restore(NUMBERS[0], {NUMBERS[0]: "8.30"}) == "8.30"


@pytest.mark.parametrize("run", ["_", "-", ".", ".-", "a.", "+", "1 ", "a@", "1.", "www."])
def test_long_runs_take_no_time(run):
    text = "call " + run * 40_000 + " Anna"
    begin = time.process_time()
    ENGLISH.mask(text)
    assert time.process_time() - begin < 5  # a quadratic search takes 7 to 60 seconds


def test_a_lost_or_an_invented_stand_in_is_noticed():
    found = ENGLISH.mask("call Oksana at 555 0137")
    assert ENGLISH.complete(f"ruf {NAMES[0]} unter {NUMBERS[0]} an", found.text)
    assert not ENGLISH.complete(f"ruf {NAMES[0]} an", found.text)
    assert not ENGLISH.complete(f"{NAMES[0]} {NUMBERS[0]} {NAMES[1]}", found.text)
    assert not ENGLISH.complete(f"{NAMES[0]} {NUMBERS[0]} {NAMES[0]}", found.text)
    assert ENGLISH.restore(f"a{NAMES[1]}b", found.values) == "ab"  # none reaches a terminal


PAIRS = [
    ("Tom met Oksana.", "Tom traf Oksana."),
    ("Tom's car is 24 years old.", "Toms Auto ist 24 Jahre alt."),
    ("The house is old.", "Das Haus ist alt."),
    ("We met in Rome.", "Wir trafen uns in Rom."),
] * 40


def test_both_sides_of_a_training_pair_get_the_same_stand_ins():
    copying = Copying.learn(PAIRS, "en", "de")
    assert {"house", "car", "old", "rome"} <= copying.known
    assert "oksana" not in copying.known  # always the same: a name
    pairs = copying.mask_pairs(PAIRS, rate=0.5)
    for (source, target), (old, _) in zip(pairs, PAIRS, strict=True):
        assert sorted(STAND_INS.findall(source)) == sorted(STAND_INS.findall(target))
        if "Oksana" in old:
            assert "Oksana" not in source + target
        if "24" in old:
            assert "24" not in source + target
        if "Rome" in old:
            assert (source, target) == ("We met in Rome.", "Wir trafen uns in Rom.")
    toms = sum("Tom" in source for source, _ in pairs)
    assert 20 < toms < 60  # half of 80
    assert pairs == copying.mask_pairs(PAIRS, rate=0.5)
    used = {c for source, _ in pairs for c in STAND_INS.findall(source)}
    assert used == set(NAMES + NUMBERS)


def test_the_file_and_its_errors():
    assert Copying.read(ENGLISH.file) == ENGLISH
    with pytest.raises(DataError, match=r"copying\.json"):
        Copying.read(b"[]")
    with pytest.raises(ConfigError, match=r"known = .*; expected a list, each a string"):
        Copying.read(b'{"source": "en", "target": "de", "known": [1]}')
    with pytest.raises(DataError, match=r"copying\.json has the fields source; expected source, t"):
        Copying.read(b'{"source": "en"}')
    with pytest.raises(DataError, match=r"copying\.json is not UTF-8"):
        Copying.read(b"\xff")
    with pytest.raises(ConfigError, match=r"copied in fr; expected languages among en, de"):
        Copying("en", "fr")
