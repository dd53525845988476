"""Laws of sentence pairs: half follow, none follows itself, and the layout is BERT's."""

from itertools import count, islice, pairwise

import numpy as np
import pytest

from qkv.data.masking import Masking
from qkv.data.next_sentence import (
    FOLLOWS,
    RANDOM,
    draw_pairs,
    next_sentence_batches,
    pretraining_batches,
)
from qkv.errors import DataError

PAD, START, SEPARATOR, MASK, VOCAB = 0, 1, 2, 3, 5003
LAYOUT = {"max_tokens": 200, "pad": PAD, "start": START, "separator": SEPARATOR}
MASKING = Masking(mask=MASK, vocab_size=VOCAB, special=(PAD, START, SEPARATOR))


def documents(sizes=(13, 1, 29, 7), seed=0):
    """All tokens differ, so that a sentence tells its place."""
    rng, numbers = np.random.default_rng(seed), count(4)
    return [[list(islice(numbers, int(rng.integers(1, 9)))) for _ in range(size)] for size in sizes]


def drawn(corpus, seed=0):
    return draw_pairs(corpus, np.random.default_rng(seed))


def successors(corpus):
    return {
        (tuple(first), tuple(second)) for document in corpus for first, second in pairwise(document)
    }


def test_half_of_the_pairs_follow_and_they_are_real():
    corpus = documents()
    real = successors(corpus)
    for seed in range(20):
        pairs = drawn(corpus, seed)
        assert sorted(first for first, _, _ in pairs) == sorted(first for first, _ in real)
        kinds = [kind for _, _, kind in pairs]
        assert kinds.count(FOLLOWS) - kinds.count(RANDOM) in (0, 1)
        for first, second, kind in pairs:
            assert ((first, second) in real) == (kind == FOLLOWS)
            assert first != second


def test_random_sentences_come_from_everywhere_and_each_draw_differs():
    corpus = documents()
    seconds = [
        second for seed in range(50) for _, second, kind in drawn(corpus, seed) if kind == RANDOM
    ]
    assert set(seconds) == {tuple(sentence) for document in corpus for sentence in document}
    assert drawn(corpus, 1) == drawn(corpus, 1)
    assert drawn(corpus, 1) != drawn(corpus, 2)


def test_sentences_that_are_repeated_never_follow_themselves():
    again, other, more = [5, 6], [7], [8, 9]
    corpus = [[again, again, other, again, more, again], [again, again]]
    for seed in range(50):
        for first, second, _ in drawn(corpus, seed):
            assert first != second


@pytest.mark.parametrize("corpus", [[], [[[5]], [[6]], [[7]]], [[[5], [6]]], [[[5], [5], [5]]]])
def test_a_corpus_without_pairs(corpus):
    with pytest.raises(DataError, match="give no pairs; expected at least 3, and a document of"):
        drawn(corpus)


def rows(batch):
    """(first, second, class) of each pair, read back through mask and segments."""
    for i, kind in enumerate(batch.classes.tolist()):
        real = batch.tokens[i][batch.token_mask[i]].tolist()
        segments = batch.segments[i][batch.token_mask[i]].tolist()
        assert segments == sorted(segments)
        cut = segments.index(1)
        assert (real[0], real[cut - 1], real[-1]) == (START, SEPARATOR, SEPARATOR)
        yield tuple(real[1 : cut - 1]), tuple(real[cut:-1]), kind


def test_batches_hold_all_pairs_of_an_epoch():
    corpus = documents()
    for epoch in (0, 3):
        batches = list(next_sentence_batches(corpus, epochs=[epoch], **LAYOUT))
        found = [row for batch in batches for row in rows(batch)]
        assert len(found) == len(successors(corpus))
        assert all(((f, s) in successors(corpus)) == (kind == FOLLOWS) for f, s, kind in found)
        assert sum(batch.n_targets for batch in batches) == len(found)
        assert all(batch.tokens.numel() <= 200 for batch in batches)


def test_pairs_are_drawn_anew_in_every_epoch():
    def pairs(**options):
        batches = next_sentence_batches(documents(), **LAYOUT, **options)
        return {row for batch in batches for row in rows(batch)}

    assert pairs(epochs=[0]) != pairs(epochs=[1])
    assert pairs(epochs=[1], seed=3) == pairs(epochs=[1], seed=3)


def test_hidden_tokens_in_pairs():
    corpus, n_masked = documents(), 0
    plain = {row for b in next_sentence_batches(corpus, **LAYOUT) for row in rows(b)}
    for batch in pretraining_batches(corpus, MASKING, **LAYOUT):
        whole = batch.tokens.flatten().clone()
        whole[batch.places] = batch.targets
        n_masked += int((batch.tokens == MASK).sum())
        restored = type(batch)(**{**vars(batch), "tokens": whole.view_as(batch.tokens)})
        assert plain.issuperset(rows(restored))
        assert batch.n_targets == len(batch.targets) >= len(batch.classes)
    assert n_masked > 30


@pytest.mark.parametrize("masked", [True, False])
def test_moving_a_batch_moves_every_tensor(masked):
    corpus = documents()
    batches = (
        pretraining_batches(corpus, MASKING, **LAYOUT)
        if masked
        else next_sentence_batches(corpus, **LAYOUT)
    )
    batch = next(iter(batches)).to("meta")
    assert {tensor.device.type for tensor in vars(batch).values()} == {"meta"}
