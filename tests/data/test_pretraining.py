"""Laws of causal batches: each token of the stream is asked for once, after all before it."""

from collections import Counter
from itertools import count, islice

import pytest

from qkv.data.batches import Batching
from qkv.data.pretraining import causal_batches, collate_causal
from qkv.errors import ConfigError, DataError

STOP = 0


def documents(sizes=(31, 1, 47, 0, 13)):
    """All tokens differ, so that a target tells its place."""
    numbers = count(1)
    return [list(islice(numbers, size)) for size in sizes]


def stream():
    return [STOP, *(i for document in documents() for i in [*document, STOP])]


def asked(batch):
    """(what is read up to the place, target) of each target."""
    length = batch.tokens.shape[1]
    for place, target in zip(batch.positions.tolist(), batch.targets.tolist(), strict=True):
        row, at = divmod(place, length)
        yield tuple(batch.tokens[row, : at + 1].tolist()), target


def batches(length=7, epoch=0, **options):
    options = options if "max_tokens" in options else {"batch_size": 3, **options}
    batching = Batching(**options, epochs=epoch + 1)
    made = causal_batches(documents(), length=length, stop=STOP, batching=batching)
    made.seek((epoch, 0))
    return made


@pytest.mark.parametrize("length", [1, 7, 200])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_target_is_the_token_that_follows_in_the_stream(length, epoch):
    whole, targets = stream(), []
    for batch in batches(length, epoch):
        assert batch.tokens.shape[1] <= length
        for before, target in asked(batch):
            end = [at for at in range(len(whole)) if tuple(whole[at : at + len(before)]) == before]
            assert any(whole[at + len(before)] == target for at in end)
            targets.append(target)
    assert Counter(targets) == Counter(whole[1:])


def test_all_but_the_ends_are_full_blocks_without_padding():
    found = list(batches(batch_size=1))
    lengths = [batch.tokens.shape[1] for batch in found]
    assert len(found) - lengths.count(7) <= 2
    assert all(batch.token_mask.all() for batch in found)
    assert all(batch.n_targets == batch.tokens.numel() for batch in found)


def test_the_cuts_differ_from_epoch_to_epoch_and_repeat_with_the_seed():
    def first_tokens(**options):
        return {
            int(batch.tokens[i, 0])
            for batch in batches(**options)
            for i in range(len(batch.tokens))
        }

    cuts = {frozenset(first_tokens(epoch=epoch)) for epoch in range(20)}
    assert len(cuts) > 3
    assert first_tokens(seed=5) == first_tokens(seed=5)


def test_blocks_come_in_no_order_of_the_text():
    order = [int(batch.tokens[0, 0]) for batch in batches(batch_size=1, length=3)]
    assert order != sorted(order)


def test_rows_by_hand():
    batch = collate_causal([[5, 6, 7], [8, 9]], pad=4)
    assert batch.tokens.tolist() == [[5, 6], [8, 4]]
    assert batch.token_mask.tolist() == [[True, True], [True, False]]
    assert batch.positions.tolist() == [0, 1, 2]
    assert batch.targets.tolist() == [6, 7, 9]
    assert batch.n_targets == 3


def test_what_cannot_be_cut():
    with pytest.raises(ConfigError, match="length = 0 with max_tokens = None; expected a length"):
        batches(length=0)
    with pytest.raises(ConfigError, match=r"length = 7 with max_tokens = 6; .* at most max_tokens"):
        batches(length=7, max_tokens=6)
    with pytest.raises(DataError, match="no documents to learn from"):
        causal_batches([], length=7, stop=STOP, batching=Batching(batch_size=3))


def test_a_budget_of_tokens_is_a_number_of_blocks():
    for one, other in zip(batches(max_tokens=27), batches(batch_size=3), strict=True):
        assert one.tokens.tolist() == other.tokens.tolist()
