"""Laws of batching: nothing is lost or doubled, masks tell the truth, and the budget holds."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch

from qkv.data.batches import Batching, bucketed_batches, collate_pairs, pad_sequences, pair_batches
from qkv.errors import ConfigError, DataError, LengthError

PAD, START, STOP = 0, 1, 2
IDS = {"pad": PAD, "start": START, "stop": STOP}


def skewed_pairs(n):
    """Pairs of different content; most are short, a few are 20 times longer."""
    rng = np.random.default_rng(0)
    sources = np.clip(rng.lognormal(2.3, 0.7, n), 1, 200).astype(int)
    targets = np.clip(sources * rng.normal(1.1, 0.15, n), 1, 200).astype(int)
    # The row's number comes first and makes each pair different.
    return [
        ([3 + row] + [3] * (int(s) - 1), [3 + row] + [4] * (int(t) - 1))
        for row, (s, t) in enumerate(zip(sources, targets, strict=True))
    ]


@pytest.fixture(scope="module")
def skewed():
    return skewed_pairs(1009)


def rows(batch):
    """The pairs of a batch, read back through its masks."""
    for i in range(len(batch.source)):
        source = batch.source[i][batch.source_mask[i]].tolist()
        read = batch.target_input[i][batch.target_mask[i]].tolist()
        answer = batch.target[i][batch.target_mask[i]].tolist()
        assert read[0] == START
        assert answer[-1] == STOP
        assert read[1:] == answer[:-1]
        yield tuple(source), tuple(answer[:-1])


def batched(pairs, max_tokens=400, seed=0, epoch=0, epochs=1):
    """Batches of some epochs, from one on."""
    end = None if epochs is None else epoch + epochs
    batching = Batching(max_tokens=max_tokens, seed=seed, epochs=end)
    made = pair_batches(pairs, **IDS, batching=batching)
    made.seek((epoch, 0))
    return made


def same(a, b):
    return torch.equal(a.source, b.source) and torch.equal(a.target, b.target)


def test_padding_by_hand():
    ids, mask = pad_sequences([[5, 6, 7], [], [8]], pad=9)
    assert ids.tolist() == [[5, 6, 7], [9, 9, 9], [8, 9, 9]]
    assert mask.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert ids.dtype == torch.int64


def test_nothing_to_pad_is_an_error():
    with pytest.raises(DataError, match="no sequence to pad: expected at least one"):
        pad_sequences([], pad=0)


def test_a_batch_by_hand():
    batch = collate_pairs([([5, 6, 7], [8]), ([5], [6, 7])], **IDS)
    assert batch.source.tolist() == [[5, 6, 7], [5, 0, 0]]
    assert batch.source_mask.tolist() == [[True] * 3, [True, False, False]]
    assert batch.target_input.tolist() == [[1, 8, 0], [1, 6, 7]]
    assert batch.target.tolist() == [[8, 2, 0], [6, 7, 2]]
    assert batch.target_mask.tolist() == [[True, True, False], [True] * 3]
    assert batch.n_targets == 5


def test_a_token_with_the_id_of_padding_is_real():
    batch = collate_pairs([([PAD, 5], [PAD])], **IDS)
    assert batch.source_mask.all()
    assert batch.n_targets == 2


def test_moving_a_batch_moves_every_tensor():
    batch = vars(collate_pairs([([5], [6])], **IDS).to("meta"))
    assert batch.pop("n_targets") == 2
    assert {tensor.device.type for tensor in batch.values()} == {"meta"}


def test_every_pair_appears_exactly_once_an_epoch(skewed):
    wanted = Counter((tuple(source), tuple(target)) for source, target in skewed)
    for epoch in (0, 7):
        batches = batched(skewed, epoch=epoch)
        assert Counter(pair for batch in batches for pair in rows(batch)) == wanted


def test_the_padded_size_of_the_larger_side_keeps_to_the_budget(skewed):
    sizes = [max(batch.source.numel(), batch.target.numel()) for batch in batched(skewed)]
    assert max(sizes) <= 400
    # A budget that is kept by batches of one pair would be useless.
    assert np.mean(sizes) > 0.8 * 400


def test_little_of_a_batch_is_padding():
    pairs = skewed_pairs(7001)
    masks = [
        mask
        for batch in batched(pairs, max_tokens=1000)
        for mask in (batch.source_mask, batch.target_mask)
    ]
    padding = 1 - sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
    assert padding < 0.10  # without sorting by length it is 0.67


def test_seed_and_epoch_decide_and_nothing_else(skewed):
    def first(**arguments):
        return next(batched(skewed, **arguments))

    assert same(first(seed=3, epoch=5), first(seed=3, epoch=5))
    assert not same(first(seed=3, epoch=5), first(seed=3, epoch=6))
    assert not same(first(seed=3, epoch=5), first(seed=4, epoch=5))


def test_batches_come_in_no_order_of_length(skewed):
    lengths = [b.source.shape[1] for b in batched(skewed)]
    assert abs(np.corrcoef(lengths, range(len(lengths)))[0, 1]) < 0.3


def test_endless_epochs_go_on_where_single_ones_end(skewed):
    epochs = [list(batched(skewed, max_tokens=999, epoch=e)) for e in (2, 3)]
    single = epochs[0] + epochs[1]
    endless = islice(batched(skewed, max_tokens=999, epoch=2, epochs=None), len(single))
    assert all(same(a, b) for a, b in zip(endless, single, strict=True))


def test_pairs_over_the_budget_are_counted_before_training_starts():
    pairs = [([5], [6]), ([5] * 11, [6] * 13), ([5] * 17, [6])]
    message = r"2 of 3 examples are longer than max_tokens = 13; the longest, example 3, has 17 tok"
    with pytest.raises(LengthError, match=message):
        batched(pairs, max_tokens=13)
    assert len(list(batched(pairs, max_tokens=17))) == 3


def test_nothing_to_batch_is_an_error_and_not_an_endless_wait():
    with pytest.raises(DataError, match="no examples to batch: expected at least one"):
        batched([], epochs=None)
    with pytest.raises(DataError, match="example 2 has no tokens; expected at least one"):
        bucketed_batches([(3,), (0,)], lambda rows, _: rows, Batching(batch_size=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "max_tokens = None and batch_size = None; expected one of them, at least 1"),
        ({"max_tokens": 7, "batch_size": 3}, "max_tokens = 7 and batch_size = 3; expected one of"),
        ({"max_tokens": 0}, "max_tokens = 0 and batch_size = None; expected one of them, at least"),
        ({"batch_size": 0}, "max_tokens = None and batch_size = 0; expected one of them, at least"),
        ({"batch_size": 3, "epochs": 0}, "epochs = 0; expected at least 1, or None for endless"),
    ],
)
def test_batching_checks_itself(options, message):
    with pytest.raises(ConfigError, match=message):
        Batching(**options)


def test_batches_by_number_differ_by_one_at_most(monkeypatch):
    monkeypatch.setattr("qkv.data.batches.POOL", 100)
    lengths = [(1 + i % 13, 1 + i % 7) for i in range(301)]
    groups = list(bucketed_batches(lengths, lambda rows, _: rows, Batching(batch_size=17)))
    assert sorted(row for group in groups for row in group) == list(range(301))
    assert {len(group) for group in groups} <= {15, 16, 17}
    sizes = [sorted(max(lengths[row]) for row in group) for group in groups]
    assert max(size[-1] - size[0] for size in sizes) <= 4  # without sorting 12
