"""Language identification, to tell a user that a model expects another language."""

import re
from functools import cache
from typing import Any

# The most frequent words of a language: a text with several of them needs no closer look.
FREQUENT = {
    "en": "the a an and or of to in on for with is are was it this that i you we my not what",
    "de": "der die das ein eine und oder von zu in auf mit ist sind war es ich du wir nicht was",
}
NAMES = {
    "ar": "Arabic", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "fi": "Finnish", "fr": "French", "hi": "Hindi",
    "hu": "Hungarian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish",
    "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese",
}  # fmt: skip
SURE = 0.75  # 4 of 7,671 English opinions reach this for another language; they are short
FEWEST = 3  # words of a text in the Latin alphabet
WORD, LATIN = re.compile(r"[^\W\d_]+"), re.compile(r"[^\u0370-\U0010ffff]*")


def other_language(text: str, expected: str) -> str:
    """Return the name of the language of a text; "" if it is the expected one, or unclear.

    Args:
        text: at least a few words; single words are unclear, except in other alphabets.
        expected: code of the language, such as "en".
    """
    words = WORD.findall(text.lower())
    common = set(FREQUENT.get(expected, "").split())
    if len(words) < FEWEST and LATIN.fullmatch(text):
        return ""
    if sum(word in common for word in words) >= max(2, len(words) / 4):
        return ""
    language, probability = _identifier().classify(text)
    return NAMES[language] if language != expected and probability > SURE else ""


@cache
def _identifier() -> Any:
    """Load py3langid (Lui and Baldwin 2012, "langid.py"), which takes a second."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(NAMES))
    return identifier
