"""Laws of batches of texts with classes: each once, little padding, and the order comes back."""

import itertools
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from qkv.data.batches import Batching
from qkv.data.classification import (
    EncodedTexts,
    classification_batches,
    encode_texts,
    evaluation_batches,
    in_order,
)
from qkv.data.sets import load_set
from qkv.data.tokenizers import Tokenizer
from qkv.errors import ConfigError, DataError, LengthError
from qkv.zoo.catalog import ZOO

PAD = 0
SIZES = [{"batch_size": 17}, {"max_tokens": 211}]


def corpus(n=1009, seed=0):
    """Texts of many lengths, each of other tokens, and classes that differ from row to row."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.3, 0.7, n), 1, 97).astype(int).tolist()
    texts = [[1 + row, *range(5000, 5000 + length - 1)] for row, length in enumerate(lengths)]
    return texts, rng.integers(0, 7, n).tolist()


@pytest.fixture(scope="module")
def rows():
    return corpus()


def read(batches):
    """Texts and classes of batches, through their masks, by the row that each claims to be."""
    return {
        row: (tokens[mask].tolist(), int(label))
        for batch in batches
        for row, tokens, mask, label in zip(
            batch.rows, batch.tokens, batch.token_mask, batch.classes, strict=True
        )
    }


def padding(batches):
    real = sum(int(batch.token_mask.sum()) for batch in batches)
    return 1 - real / sum(batch.token_mask.numel() for batch in batches)


def batched(texts, targets, *, segments=None, epoch=0, epochs=1, pad=PAD, **options):
    """Batches of some epochs, from one on."""
    encoded = EncodedTexts(texts, [*map(len, texts)], 97, segments)
    batching = Batching(**options, epochs=None if epochs is None else epoch + epochs)
    made = classification_batches(encoded, targets, pad=pad, batching=batching)
    made.seek((epoch, 0))
    return made


def same(a, b):
    return (
        a.rows == b.rows and torch.equal(a.tokens, b.tokens) and torch.equal(a.classes, b.classes)
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("epoch", [0, 7])
def test_every_text_comes_once_an_epoch_with_its_class(rows, size, epoch):
    texts, classes = rows
    batches = list(batched(texts, classes, epoch=epoch, **size))
    assert sorted(row for batch in batches for row in batch.rows) == list(range(1009))
    assert read(batches) == dict(enumerate(zip(texts, classes, strict=True)))
    assert sum(batch.n_targets for batch in batches) == 1009


@pytest.mark.parametrize("size", SIZES)
def test_asking_in_any_order_is_answered_in_order(rows, size):
    texts, _ = rows
    batches = evaluation_batches(texts, pad=PAD, **size)
    tokens = {row: ids for b in batches for row, ids in zip(b.rows, b.tokens, strict=True)}
    assert all(tokens[row][: len(text)].tolist() == text for row, text in enumerate(texts))
    said = [batch.tokens[:, :1].double() for batch in batches]
    assert in_order(batches, said).flatten().tolist() == list(range(1, 1010))
    lengths = [batch.tokens.shape[1] for batch in batches]
    assert lengths == sorted(lengths, reverse=True)
    again = evaluation_batches(texts, pad=PAD, **size)
    assert [batch.rows for batch in again] == [batch.rows for batch in batches]


def test_classes_may_be_unknown(rows):
    texts, _ = rows
    batches = evaluation_batches(texts, pad=PAD, batch_size=17)
    assert {batch.classes for batch in batches} == {None}
    assert sum(batch.n_targets for batch in batches) == 1009
    assert batches[0].to("meta").classes is None


def test_the_budget_holds_and_is_used(rows):
    texts, classes = rows
    for batches in (
        batched(texts, classes, max_tokens=211),
        evaluation_batches(texts, pad=PAD, max_tokens=211),
    ):
        used = [batch.tokens.numel() for batch in batches]
        assert max(used) <= 211
        assert np.mean(used) > 0.8 * 211


def test_batches_by_number_are_full(rows):
    texts, classes = rows
    n_rows = [b.n_targets for b in batched(texts, classes, batch_size=17)]
    # 1009 texts take 60 batches: 49 of 17 and 11 of 16, and none of the 6 that are left over.
    assert Counter(n_rows) == {17: 49, 16: 11}
    n_rows = [b.n_targets for b in evaluation_batches(texts, pad=PAD, batch_size=17)]
    assert n_rows == [17] * 59 + [6]


@pytest.mark.parametrize("size", SIZES)
def test_seed_and_epoch_decide_and_nothing_else(rows, size):
    def first(**arguments):
        return next(batched(*rows, **size, **arguments))

    assert same(first(seed=3, epoch=5), first(seed=3, epoch=5))
    assert not same(first(seed=3, epoch=5), first(seed=3, epoch=6))
    assert not same(first(seed=3, epoch=5), first(seed=4, epoch=5))


@pytest.mark.parametrize("size", SIZES)
def test_a_place_can_be_returned_to(rows, size):
    def endless():
        return batched(*rows, epochs=None, **size)

    one = endless()
    list(islice(one, 151))
    position = one.position
    other = endless()
    other.seek(position)
    assert position[0] >= 1
    assert all(same(a, b) for a, b in islice(zip(one, other, strict=True), 5))


@pytest.mark.parametrize("size", SIZES)
def test_batches_come_in_no_order_of_length(rows, size):
    lengths = [b.tokens.shape[1] for b in batched(*rows, **size)]
    assert abs(np.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.3


def test_neighbours_differ_from_epoch_to_epoch(rows):
    def neighbours(epoch):
        batches = batched(*rows, batch_size=17, epoch=epoch)
        return {tuple(sorted(batch.rows)) for batch in batches}

    # Only the longest, of which there are few of each length, meet the same texts again.
    assert len(neighbours(0) & neighbours(1)) < 0.15 * 60


def test_segments_are_padded_with_their_texts():
    texts, segments = [[5, 6, 7], [8]], [[0, 1, 1], [1]]
    (batch,) = batched(texts, [1, 0], segments=segments, pad=9, batch_size=2)
    by_row = dict(zip(batch.rows, batch.segments.tolist(), strict=True))
    assert by_row == {0: [0, 1, 1], 1: [1, 0, 0]}
    (batch,) = evaluation_batches(texts, pad=9, batch_size=2, segments=segments)
    assert batch.rows == (0, 1)
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.token_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.segments.tolist() == [[0, 1, 1], [1, 0, 0]]


def test_a_batch_moves_and_its_rows_stay():
    (batch,) = batched([[5, 6], [7]], [1, 0], batch_size=2)
    moved = batch.to("meta")
    tensors = (moved.tokens, moved.token_mask, moved.classes)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.segments is None
    assert moved.rows == batch.rows
    assert moved.n_targets == 2


def test_what_cannot_be_batched_is_refused_before_training():
    with pytest.raises(DataError, match="1 targets for 2 texts; expected one per text"):
        batched([[5], [6]], [0], batch_size=3)
    with pytest.raises(DataError, match="no examples to batch: expected at least one"):
        batched([], [], batch_size=3)


@pytest.mark.parametrize(
    ("error", "message", "texts", "options"),
    [
        (DataError, "no examples to batch: expected at least one", [], {"batch_size": 3}),
        (DataError, "example 2 has no tokens; expected at", [[5], []], {"batch_size": 3}),
        (
            DataError,
            "texts and segments differ in number or",
            [[5]],
            {"batch_size": 3, "segments": [[0, 0]]},
        ),
        (
            ConfigError,
            "max_tokens = 7 and batch_size = 3",
            [[5]],
            {"max_tokens": 7, "batch_size": 3},
        ),
        (
            LengthError,
            "1 of 2 examples are longer than max_tokens = 2; the longest, example 2, has 3",
            [[5], [5, 6, 7]],
            {"max_tokens": 2},
        ),
    ],
)
def test_what_cannot_be_predicted_is_refused(error, message, texts, options):
    with pytest.raises(error, match=message):
        evaluation_batches(texts, pad=PAD, **options)


def test_texts_may_have_several_classes():
    (batch,) = batched([[5, 6], [7]], [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]], batch_size=2)
    by_row = dict(zip(batch.rows, batch.classes.tolist(), strict=True))
    assert by_row == {0: [0.0, 1.0, 1.0], 1: [1.0, 0.0, 0.0]}
    assert batch.classes.dtype == torch.float32


def test_outputs_must_be_those_of_the_batches(rows):
    batches = evaluation_batches(corpus(11)[0], pad=PAD, batch_size=7)
    message = r"outputs of \[7\] rows for batches of \[7, 4\]; expected one per text"
    with pytest.raises(DataError, match=message):
        in_order(batches, [torch.zeros(7, 2)])


@pytest.fixture(scope="module")
def bert():
    """The tokenizer of a real BERT, from the package that ships one."""
    return Tokenizer.load(ZOO["all-MiniLM-L6-v2"].locate())


def test_of_a_long_text_the_beginning_stays(bert):
    texts = ["one two three four five", "one two", "one two three four"]
    encoded = encode_texts(bert, texts, max_length=6)
    words = {word: bert.encode(word)[0] for word in texts[0].split()}
    four = [bert.start, *(words[word] for word in texts[2].split()), bert.stop]
    assert encoded.ids == [four, [bert.start, words["one"], words["two"], bert.stop], four]
    assert (encoded.n_cut, encoded.longest, encoded.max_length) == (1, 7, 6)
    assert str(encoded) == (
        "1 of 3 texts (33.3%) were cut to their first 6 tokens; the longest had 7"
    )


def test_texts_that_fit_are_left_alone(bert):
    encoded = encode_texts(bert, ["one two", "one"], max_length=4)
    assert encoded.ids == [
        bert.add_special_tokens(bert.encode(text)).ids for text in ("one two", "one")
    ]
    assert str(encoded) == "2 texts, the longest of 4 tokens; none was cut"


def test_of_a_pair_the_longer_text_is_cut(bert):
    """As in BERT's own code: the last token of the longer one goes, of equal ones the second's."""
    word = bert.encode("one")[0]
    lengths = list(itertools.product(range(1, 9), repeat=2))
    first, second = ([" ".join(["one"] * n) for n in side] for side in zip(*lengths, strict=True))
    for max_length in range(5, 20):
        encoded = encode_texts(bert, first, second, max_length=max_length)
        for (a, b), ids, segments in zip(lengths, encoded.ids, encoded.segments, strict=True):
            while a + b > max_length - 3:
                a, b = (a - 1, b) if a > b else (a, b - 1)
            assert ids == [bert.start, *[word] * a, bert.stop, *[word] * b, bert.stop]
            assert segments == [0] * (a + 2) + [1] * (b + 1)
        assert encoded.n_cut == sum(a + b + 3 > max_length for a, b in lengths)
        assert encoded.longest == 19


def test_pairs_that_are_none(bert):
    with pytest.raises(
        DataError, match="2 texts and 1 second texts; expected one of each per pair"
    ):
        encode_texts(bert, ["one", "two"], ["one"], max_length=9)
    with pytest.raises(DataError, match=r"second text 2 has no tokens: ' '"):
        encode_texts(bert, ["one", "two"], ["one", " "], max_length=9)
    with pytest.raises(LengthError, match=r"max_length = 4 leaves no room .* around it take 3"):
        encode_texts(bert, ["one"], ["two"], max_length=4)


def test_a_text_without_tokens_and_no_room_are_refused(bert):
    with pytest.raises(DataError, match=r"text 2 has no tokens: ' ' \(is it empty\?\)"):
        encode_texts(bert, ["one", " "], max_length=5)
    with pytest.raises(LengthError, match=r"max_length = 2 leaves no room .* around it take 2"):
        encode_texts(bert, ["one"], max_length=2)
    assert encode_texts(bert, ["one two"], max_length=3).n_cut == 1


@pytest.mark.parametrize("name", ["sst2", "reviews"])
def test_of_real_texts_less_than_a_twentieth_is_padding(request, bert, name):
    folder = None if name == "reviews" else request.getfixturevalue("shared_data")
    examples = load_set("classify", name, "train", folder)
    ids = encode_texts(bert, [text for text, _ in examples], max_length=64).ids
    for size in ({"batch_size": 16}, {"batch_size": 32}, {"max_tokens": 1024}):
        assert padding(list(batched(ids, [0] * len(ids), pad=bert.pad, **size))) < 0.05
        assert padding(evaluation_batches(ids, pad=bert.pad, **size)) < 0.05
    # Were the lengths all alike, this would prove nothing.
    assert padding(evaluation_batches(ids[:16], pad=bert.pad, batch_size=16)) > 0.2
