"""Laws of span corruption: nothing is lost, the sentinels count, shares and lengths hold."""

from itertools import pairwise

import numpy as np
import pytest

from qkv.data.spans import SpanCorruption, span_batches
from qkv.errors import ConfigError, DataError, LengthError

SENTINELS = tuple(range(1999, 1499, -1))
PAD, START, STOP = 0, 0, 1
IDS = {"pad": PAD, "start": START, "stop": STOP}


def text(length, seed=0):
    return np.random.default_rng(seed).integers(2, 899, length).tolist()


def parts(tokens):
    """Cut at sentinels: what stands before the first, and what follows each."""
    found, key = {None: []}, None
    for token in tokens:
        if token in SENTINELS:
            assert token not in found
            key = token
            found[key] = []
        else:
            found[key].append(token)
    return found


def put_together(source, target):
    """The text from what was left of it and the spans."""
    stays, spans = parts(source), parts(target)
    assert spans.pop(None) == []
    whole = stays.pop(None)
    for sentinel, stay in stays.items():
        whole = whole + spans.pop(sentinel) + stay
    (closing,) = spans.values()
    assert closing == []
    return whole


@pytest.mark.parametrize("length", [1, 2, 3, 7, 20, 113, 512])
@pytest.mark.parametrize(("share", "mean"), [(0.15, 3.0), (0.5, 1.0), (0.5, 5.0), (1.0, 2.0)])
def test_source_and_target_together_are_the_text(length, share, mean):
    corruption = SpanCorruption(sentinels=SENTINELS, share=share, mean_length=mean)
    n_out, n_spans = corruption.sizes(length)
    for seed in range(20):
        tokens = text(length, seed)
        source, target = corruption(tokens, np.random.default_rng(seed))
        assert (len(source), len(target)) == (length - n_out + n_spans, n_out + n_spans + 1)
        assert put_together(source, target) == tokens


def test_sentinels_come_in_order_and_one_more_closes_the_target():
    source, target = SpanCorruption(sentinels=SENTINELS)(text(331), np.random.default_rng(0))
    in_source, in_target = ([i for i in side if i in SENTINELS] for side in (source, target))
    assert in_source == list(SENTINELS[: len(in_source)])
    assert in_target == list(SENTINELS[: len(in_source) + 1])
    assert target[-1] == in_target[-1]


def spans_of(length, n, **options):
    corruption, rng = SpanCorruption(sentinels=SENTINELS, **options), np.random.default_rng(0)
    for _ in range(n):
        _, target = corruption(list(range(length)), rng)
        yield [span for span in parts(target).values() if span]


def test_share_and_mean_length():
    for length in (100, 337, 512):
        for spans in spans_of(length, 5):
            n_out = sum(map(len, spans))
            assert n_out == round(0.15 * length)
            assert len(spans) == round(n_out / 3)
    lengths = [len(span) for spans in spans_of(512, 200) for span in spans]
    assert abs(np.mean(lengths) - 3) < 0.05
    assert {1, 2, 3, 4, 5, 6, 7} <= set(lengths)


def test_spans_do_not_touch_and_stand_anywhere():
    times = np.zeros(40)
    for spans in spans_of(40, 2000):
        assert all(span == list(range(span[0], span[0] + len(span))) for span in spans)
        for first, second in pairwise(spans):
            assert first[-1] + 1 < second[0]
        times[[i for span in spans for i in span]] += 1
    assert times.min() / 2000 > 0.05  # the first token and the last as well
    assert times.max() / 2000 < 1.5 * 0.15


def test_batches_hold_every_text_once_with_stop_after_both_sides():
    corpus = [text(length, length) for length in range(5, 90)]
    corruption = SpanCorruption(sentinels=SENTINELS)
    for epoch in (0, 4):
        found = []
        for batch in span_batches(corpus, corruption, max_tokens=400, epochs=[epoch], **IDS):
            assert max(batch.source.numel(), batch.target.numel()) <= 400
            for i in range(len(batch.source)):
                source = batch.source[i][batch.source_mask[i]].tolist()
                target = batch.target[i][batch.target_mask[i]].tolist()
                assert source.pop() == target.pop() == STOP
                found.append(put_together(source, target))
        assert sorted(found) == sorted(corpus)


def test_each_epoch_takes_out_other_spans():
    corruption = SpanCorruption(sentinels=SENTINELS)

    def sources(**options):
        batches = span_batches([text(100)], corruption, max_tokens=200, **IDS, **options)
        return [tuple(batch.source.flatten().tolist()) for batch in batches]

    assert len(set(sources(epochs=range(10)))) == 10
    assert sources(epochs=[3], seed=1) == sources(epochs=[3], seed=1)
    assert sources(epochs=[3], seed=1) != sources(epochs=[3], seed=2)


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.5}, {"mean_length": 0.5}])
def test_impossible_settings(options):
    with pytest.raises(ConfigError, match="expected a share between 0 and 1 and spans of at least"):
        SpanCorruption(sentinels=SENTINELS, **options)


def test_texts_that_cannot_be_corrupted():
    corruption = SpanCorruption(sentinels=SENTINELS[:5])
    message = "a text of 100 tokens has 5 spans and needs 6 sentinels, but there are 5"
    with pytest.raises(LengthError, match=message):
        span_batches([text(100)], corruption, max_tokens=200, **IDS)
    with pytest.raises(LengthError, match="no span can be taken out of an empty text"):
        span_batches([[]], corruption, max_tokens=200, **IDS)
    with pytest.raises(LengthError, match="text 0 takes 61 tokens, expected at most max_tokens=60"):
        span_batches([text(67)], SpanCorruption(sentinels=SENTINELS), max_tokens=60, **IDS)
    with pytest.raises(DataError, match="nothing to batch"):
        span_batches([], corruption, max_tokens=200, **IDS)
