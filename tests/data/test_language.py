"""The language of a text."""

import pytest

from qkv.data.language import other_language


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
