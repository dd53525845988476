"""No span of a passage tears a user-perceived character apart, whatever the tokens are."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.test_graphemes import FAMILY, PARTS
from tests.tasks.small import FILES

from qkv.data.graphemes import is_boundary
from qkv.data.span_search import best_spans, merge_windows
from qkv.data.tokenizers import Tokenizer
from qkv.data.windows import make_windows

QUESTION = "the place"


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """BERT's, which drops accents, and one that has them as tokens; byte-level BPE tears emoji."""
    folder = tmp_path_factory.mktemp("bert")
    config = json.dumps({"model_type": "bert"}).encode()
    for name, content in (FILES | {"config.json": config}).items():
        (folder / name).write_bytes(content)
    texts = [QUESTION, "".join(PARTS)]
    return [
        Tokenizer.load(folder),
        Tokenizer.train_characters(texts),
        Tokenizer.train_bpe(texts, vocab_size=290),
    ]


def windows(tokenizer, context, max_length=17):
    question = [QUESTION]
    return make_windows(tokenizer, question, [context], max_length=max_length, stride=3)


parts = st.lists(st.sampled_from([*PARTS, *"aé Z中-"]), min_size=1, max_size=23).map("".join)


@settings(max_examples=60)
@given(context=parts, data=st.data())
def test_spans_and_answers_end_between_characters(tokenizers, context, data):
    boundaries = [i for i in range(len(context) + 1) if is_boundary(context, i)]
    start, end = sorted(data.draw(st.lists(st.sampled_from(boundaries), min_size=2, max_size=2)))
    for tokenizer in tokenizers:
        if not tokenizer.encode(context):
            continue
        for window in windows(tokenizer, context):
            for span in window.spans:
                assert all(is_boundary(context, at) for at in span), span
            places = window.positions(start, end) if start < end else None
            if places is not None:
                first, last = window.characters(*places)
                assert first < end
                assert last > start
                if tokenizer is tokenizers[1]:  # a token for each code point
                    assert (first, last) == (start, end)


@pytest.mark.parametrize(
    ("context", "answer"),
    [
        ("They met at the Cafe\u0301.", "at the Cafe\u0301"),
        (
            "They met at the Cafe\u0301",
            "at the Cafe\u0301",
        ),
        ("I \u2764\ufe0f it", "\u2764\ufe0f"),
        (f"a {FAMILY} \U0001f44d\U0001f3fd here", FAMILY),
        ("the \U0001f1e9\U0001f1ea \U0001f1eb\U0001f1f7 flags", "\U0001f1eb\U0001f1f7"),
    ],
)
def test_an_answer_is_learned_and_given_with_its_accents(tokenizers, context, answer):
    start = context.index(answer)
    for tokenizer in tokenizers:
        (window,) = windows(tokenizer, context, max_length=97)
        places = window.positions(start, start + len(answer))
        assert context[slice(*window.characters(*places))] == answer
        n = len(window.ids)
        logits = torch.zeros(1, n, 2)
        logits[0, places[0], 0] = logits[0, places[1], 1] = 9.0
        passage = torch.zeros(1, n, dtype=torch.bool)
        passage[0, window.first : window.first + len(window.spans)] = True
        spans = best_spans(logits, passage, max_answer=n, n=3)
        found = merge_windows(context, [window], spans, [0], n=3)
        assert found.candidates[0].answer == answer
