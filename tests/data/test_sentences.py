"""Texts that fit the model: no part is too long, and only a sentence that is too long is cut."""

import random

import pytest

from qkv.data.sentences import split_text
from qkv.data.tokenizers import Tokenizer
from qkv.data.tokenizers.special_tokens import ModelInput


class Wrapping(Tokenizer):
    """Puts a token before each text and two after it."""

    def add_special_tokens(self, first, second=None):
        ids = [self.start, *first, self.stop, self.stop]
        return ModelInput(ids, [0] * len(ids), [0] * len(ids))


LETTERS = Wrapping.train_characters(["abcdefgh.?! "])


def texts_of(source):
    return [LETTERS.decode(piece) for piece in source.pieces]


@pytest.mark.parametrize(
    ("text", "limit", "parts", "note"),
    [
        ("abc. de.", 11, ["abc. de."], ""),
        ("abc. de.", None, ["abc. de."], ""),
        ("abc. de.", 10, ["abc.", "de."], "split into 2 parts"),
        ("abc. de. f?", 11, ["abc. de.", "f?"], "split into 2 parts"),
        ("a.b c", 7, ["a.b "], "1 tokens of a long sentence left out"),
        ("abcdefgh", 6, ["abc"], "5 tokens of a long sentence left out"),
        ("ab!  ab! abcdefgh a.", 7, ["ab!", "ab!", "abcd"], "split into 3 parts, 7 tokens of"),
    ],
)
def test_parts_by_hand(text, limit, parts, note):
    source = split_text(text, LETTERS, limit)
    assert texts_of(source) == parts
    assert note in source.note(limit)
    assert bool(source.note(limit)) == bool(note)


def test_no_part_is_too_long_and_whole_sentences_stay_whole():
    draw = random.Random(0)
    for _ in range(200):
        sentences = ["abcdefgh"[: draw.randint(1, 8)] + "." for _ in range(draw.randint(1, 7))]
        text, limit = " ".join(sentences), draw.randint(5, 30)
        source = split_text(text, LETTERS, limit)
        assert max(map(len, source.pieces)) <= limit
        assert " ".join(texts_of(source)).split() == [
            sentence[: limit - 3] for sentence in sentences
        ]
        assert source.cut == sum(max(0, len(one) + 3 - limit) for one in sentences)
        assert len(source.pieces) == 1 or source.length > limit
