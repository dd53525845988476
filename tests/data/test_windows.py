"""Windows on passages: what they cover, where their tokens stand, and batches of them."""

import json
from dataclasses import replace

import pytest
import torch
from tests.tasks.small import FILES, VOCABULARY

from qkv.data.batches import Batching
from qkv.data.questions import Answer, Question
from qkv.data.tokenizers import Tokenizer
from qkv.data.windows import (
    Window,
    WindowConfig,
    make_windows,
    span_batches,
    training_windows,
)
from qkv.errors import ConfigError, DataError, LengthError

CONTEXT = "the film was not dull . a clever  Plot and the superb books ! the meal was lovely"
QUESTION = "was the film dull ."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    for name, content in (
        FILES | {"config.json": json.dumps({"model_type": "bert"}).encode()}
    ).items():
        (folder / name).write_bytes(content)
    return Tokenizer.load(folder)


def windows(tokenizer, max_length=13, stride=3, contexts=(CONTEXT,)):
    questions = [QUESTION] * len(contexts)
    return make_windows(tokenizer, questions, contexts, max_length=max_length, stride=stride)


@pytest.mark.parametrize(("max_length", "stride"), [(13, 3), (13, 5), (11, 1), (9, 7), (41, 7)])
def test_every_character_is_covered_and_no_token_twice_at_once(tokenizer, max_length, stride):
    found = windows(tokenizer, max_length, stride)
    ids, spans = tokenizer.encode_with_offsets(CONTEXT)
    covered = {i for one in found for a, b in one.spans for i in range(a, b)}
    assert covered == {i for i, c in enumerate(CONTEXT) if c != " "}
    question = tokenizer.encode(QUESTION)
    cls, sep = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    at = 0
    for one in found:
        n = len(one.spans)
        assert one.spans == spans[at : at + n]
        assert one.ids == [cls, *question, sep, *ids[at : at + n], sep]
        assert one.segments == [0] * (len(question) + 2) + [1] * (n + 1)
        assert one.first == len(question) + 2
        assert len(one.ids) <= max_length
        at += min(stride, max_length - len(question) - 3)
    assert found[-1].spans[-1] == spans[-1]
    assert not [one for one in found[:-1] if one.spans[-1] == spans[-1]]  # none is superfluous


def test_sentences_are_windows_and_long_ones_are_cut(tokenizer):
    context = "The film was dull. The book was\n\nlovely. A clever  plot and the superb meal!"
    options = {"max_length": 14, "stride": 3, "sentences": True}
    found = make_windows(tokenizer, [QUESTION], [context], **options)
    read = [context[one.spans[0][0] : one.spans[-1][1]] for one in found]
    assert read[:2] == ["The film was dull.", "The book was\n\nlovely."]
    assert read[2].startswith("A clever")
    assert read[-1].endswith("superb meal!")
    assert len(read) > 3
    for one, text in zip(found[:2], read, strict=False):  # as if it were the whole passage
        (alone,) = make_windows(tokenizer, [QUESTION], [text], **options)
        assert (alone.ids, alone.first) == (one.ids, one.first)
    whole = make_windows(tokenizer, [QUESTION], [CONTEXT + "."], max_length=41, stride=1)
    assert len(whole) == 1


@pytest.fixture(scope="module")
def bytes_tokenizer():
    """Its tokens include the space before a word, as those of GPT-2."""
    return Tokenizer.train_bpe([CONTEXT, QUESTION], vocab_size=300)


def test_a_word_is_of_its_own_sentence_if_its_token_has_the_space_before_it(bytes_tokenizer):
    context = "The film was dull. The book was\n\nlovely. A clever  plot."
    found = make_windows(
        bytes_tokenizer, [QUESTION], [context], max_length=64, stride=64, sentences=True
    )
    read = [context[one.spans[0][0] : one.spans[-1][1]].strip() for one in found]
    assert read == ["The film was dull.", "The book was\n\nlovely.", "A clever  plot."]


def test_the_window_of_a_decoder_ends_with_the_token_for_no_answer(bytes_tokenizer):
    options = {"max_length": 33, "stride": 7, "causal": True}
    found = make_windows(bytes_tokenizer, [QUESTION], [CONTEXT], **options)
    question = bytes_tokenizer.encode(f"Question: {QUESTION}\n")
    ids, spans = bytes_tokenizer.encode_with_offsets(CONTEXT)
    at = 0
    for one in found:
        n = len(one.spans)
        assert one.spans == spans[at : at + n]
        assert one.ids == [*question, *ids[at : at + n], bytes_tokenizer.stop]
        assert (one.first, one.null) == (len(question), len(one.ids) - 1)
        assert len(one.segments) == len(one.ids) <= 33
        at += min(7, 33 - len(question) - 1)
    assert len(found) > 2
    with pytest.raises(DataError, match="question 1 has no tokens"):
        make_windows(bytes_tokenizer, [""], [CONTEXT], **options)
    none = Question(id="1", question=QUESTION, context=CONTEXT, answers=(), source="")
    answer = (Answer("books", CONTEXT.index("books")),)
    for one, lost in ((none, True), (replace(none, answers=answer), False)):
        config = WindowConfig(max_length=64, causal=True)
        ((window,), (span,)) = training_windows(bytes_tokenizer, [one], config)
        assert (span == (window.null, window.null)) == lost
        assert lost or CONTEXT[slice(*window.characters(*span))].strip() == "books"


def test_a_passage_that_fits_has_one_window(tokenizer):
    (one,) = windows(tokenizer, max_length=41)
    assert len(one.ids) == len(tokenizer.encode(CONTEXT)) + 8


def test_places_lead_back_to_the_characters(tokenizer):
    for answer in ("clever  Plot", "books", "film was not", "the film", "lovely"):
        start = CONTEXT.index(answer)
        held = 0
        for one in windows(tokenizer, max_length=15):
            places = one.positions(start, start + len(answer))
            if places is not None:
                held += 1
                begin, end = one.characters(*places)
                assert CONTEXT[begin:end] == answer
        assert held


def test_part_of_a_word_is_found_by_its_token(tokenizer):
    (one,) = windows(tokenizer, max_length=41)
    start = CONTEXT.index("lever")
    assert CONTEXT[slice(*one.characters(*one.positions(start, start + 3)))] == "clever"


def test_a_window_that_has_half_of_the_answer_has_none():
    one = Window(0, [2, 7, 3, 8, 9, 3], [0, 0, 0, 1, 1, 1], 3, [(4, 7), (8, 11)])
    assert one.positions(4, 11) == (3, 4)
    assert one.positions(0, 7) is None
    assert one.positions(8, 14) is None
    assert one.positions(7, 8) is None  # the space between


def test_what_cannot_be_cut(tokenizer):
    with pytest.raises(ConfigError, match="stride = 0; expected at least 1"):
        windows(tokenizer, stride=0)
    with pytest.raises(DataError, match=r"passage 2 has no tokens: '  ' \(is it empty\?\)"):
        windows(tokenizer, contexts=[CONTEXT, "  "])
    with pytest.raises(DataError, match="question 1 has no tokens: ''"):
        make_windows(tokenizer, [""], [CONTEXT], max_length=13, stride=3)
    with pytest.raises(DataError, match="1 questions and 0 passages"):
        make_windows(tokenizer, [QUESTION], [], max_length=13, stride=3)
    with pytest.raises(LengthError, match=r"question 1 has 5 tokens, .* none of max_length = 8"):
        windows(tokenizer, max_length=8)


def test_batches_have_each_window_once_an_epoch(tokenizer):
    found = windows(tokenizer, contexts=[CONTEXT, "the book", "a superb meal was lovely", CONTEXT])
    spans = [(one.first, one.first + i % 2) for i, one in enumerate(found)]
    options = {"pad": 0, "segments": True}
    for size in ({"batch_size": 4}, {"max_tokens": 29}):
        seen = []
        for batch in span_batches(found, spans, **options, batching=Batching(**size, seed=5)):
            assert batch.n_targets == len(batch.tokens) == len(batch.starts)
            for row in range(batch.n_targets):
                n = int(batch.token_mask[row].sum())
                seen.append(
                    (
                        batch.tokens[row, :n].tolist(),
                        batch.segments[row, :n].tolist(),
                        (int(batch.starts[row]), int(batch.ends[row])),
                    )
                )
            assert batch.tokens.numel() <= size.get("max_tokens", 1000)
        expected = [(one.ids, one.segments, s) for one, s in zip(found, spans, strict=True)]
        assert sorted(seen) == sorted(expected)


def test_epochs_differ_and_come_again(tokenizer):
    found = windows(tokenizer, contexts=[CONTEXT] * 3)
    spans = [(0, 0)] * len(found)
    batching = Batching(batch_size=2, epochs=2)
    made = [span_batches(found, spans, pad=0, segments=False, batching=batching) for _ in range(2)]
    one, same = ([batch.tokens.tolist() for batch in batches] for batches in made)
    half = len(one) // 2
    assert one == same
    assert one[:half] != one[half:]


def test_what_cannot_be_batched(tokenizer):
    found = windows(tokenizer)
    spans = [(0, 0)] * len(found)
    two = Batching(batch_size=2)
    with pytest.raises(DataError, match="no examples to batch"):
        span_batches([], [], pad=0, segments=True, batching=two)
    with pytest.raises(DataError, match="and 1 spans; expected one span each"):
        span_batches(found, [(0, 0)], pad=0, segments=True, batching=two)
    with pytest.raises(LengthError, match=r"longer than max_tokens = 12; .* has 13 tokens"):
        span_batches(found, spans, pad=0, segments=True, batching=Batching(max_tokens=12))
    batch = next(span_batches(found, spans, pad=0, segments=False, batching=two))
    assert batch.segments is None
    assert torch.equal(batch.starts, torch.zeros_like(batch.starts))
