"""The language of a text."""

import pytest

from qkv.data.language import other_language
from qkv.data.sets.everyday import everyday
from qkv.data.sets.opinions import opinions


@pytest.mark.parametrize(
    ("text", "english", "german"),
    [
        ("Der Film war viel zu lang und langweilig.", "German", ""),
        ("The film was far too long, and dull.", "", "English"),
        ("Quel beau film, vraiment", "French", "French"),
        ("すばらしい映画でした", "Japanese", "Japanese"),
        ("Отлично", "Russian", "Russian"),
        ("sehr gut", "", ""),  # too short to tell
        ("Magical weekend.", "", ""),
        ("12 : 30 !", "", ""),
        ("", "", ""),
    ],
)
def test_a_language_is_named_only_if_it_is_clear(text, english, german):
    assert other_language(text, "en") == english
    assert other_language(text, "de") == german


def test_few_texts_are_taken_for_another_language():
    wrong = [one.text for one in opinions("validation") if other_language(one.text, "en")]
    assert len(wrong) <= 2, wrong  # of 839
    for expected, other in (("en", "de"), ("de", "en")):
        texts = [one.source for one in everyday(expected)]
        assert not [text for text in texts if other_language(text, expected)]
        assert sum(bool(other_language(text, other)) for text in texts) >= 110  # of 120
