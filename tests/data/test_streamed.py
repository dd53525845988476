"""Streams of texts: every token is a target once, whoever reads, and wherever it was stopped."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch

from qkv.data.streamed import StreamedBatches, text_shards
from qkv.errors import ConfigError, DataError

STOP, LENGTH = 0, 5
# Shards of texts of 0 to 16 characters; one is empty, one has a single long text.
SHARDS = [
    [chr(97 + (3 * i + shard) % 23) * (7 * i % 17) for i in range(11 + 2 * shard)]
    for shard in range(5)
]
SHARDS += [[], ["abcdefghijklmnopqrstuvw" * 3]]


def encode(text):
    return [ord(character) - 96 for character in text]


def batches(rank=0, n_ranks=1, **options):
    options = {"length": LENGTH, "stop": STOP, "batch_size": 6, **options}
    return StreamedBatches(SHARDS, encode, rank=rank, n_ranks=n_ranks, **options)


def targets(all_batches):
    """Count the pairs of a token and the next one."""
    return Counter(
        pair
        for batch in all_batches
        for pair in zip(
            batch.tokens.flatten()[batch.positions].tolist(), batch.targets.tolist(), strict=True
        )
    )


def expected(epochs=1):
    """Count them in the joined documents."""
    pairs = Counter()
    for shard in SHARDS:
        joined = [STOP, *(token for text in shard for token in [*encode(text), STOP])]
        pairs.update(itertools.pairwise(joined))
    return Counter({pair: n * epochs for pair, n in pairs.items()})


@pytest.mark.parametrize("n_ranks", [1, 2, 3, 6])
@pytest.mark.parametrize("epochs", [1, 3])
def test_each_token_is_a_target_once_an_epoch(n_ranks, epochs):
    read = [one for rank in range(n_ranks) for one in batches(rank, n_ranks, epochs=epochs)]
    assert targets(read) == expected(epochs)


@pytest.mark.parametrize("n_before", [1, 2, 3])
@pytest.mark.parametrize("n_after", [1, 2, 6])
@pytest.mark.parametrize("steps", [1, 7, 20, 60])
def test_other_processes_go_on_without_gap_or_repetition(n_before, n_after, steps):
    first = [batches(rank, n_before, epochs=2) for rank in range(n_before)]
    read = [batch for own in first for batch in itertools.islice(own, steps)]
    position = json.loads(json.dumps({k: at for own in first for k, at in own.position.items()}))
    for rank in range(n_after):
        own = batches(rank, n_after, epochs=2)
        own.seek(position)
        read += own
    assert targets(read) == expected(2)


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_the_same_process_goes_on_to_the_bit(steps):
    whole, begun, again = batches(epochs=2), batches(epochs=2), batches(epochs=2)
    for _ in range(steps):
        next(whole), next(begun)
    again.seek(begun.position)
    for one, two in zip(whole, again, strict=True):
        assert torch.equal(one.tokens, two.tokens)
        assert torch.equal(one.targets, two.targets)


def test_blocks_have_the_length_but_for_the_last_of_a_shard():
    read = list(batches(batch_size=1))
    short = [batch for batch in read if batch.n_targets < LENGTH]
    assert all(batch.n_targets <= LENGTH for batch in read)
    assert len(short) <= len(SHARDS)


def test_endless_batches_do_not_end():
    own = batches(epochs=None)
    for _ in range(200):
        assert next(own).n_targets
    assert all(place[0] > 2 for place in own.position.values())


def test_endless_batches_need_a_token():
    empty = StreamedBatches([[], []], encode, length=LENGTH, stop=STOP, batch_size=2, epochs=None)
    with pytest.raises(DataError, match=r"the shards \[0, 1\] of this process have no tokens"):
        next(empty)


def test_shards_of_a_stream_of_files(tmp_path):
    datasets = pytest.importorskip("datasets")
    for i, texts in enumerate(SHARDS[:3]):
        rows = [json.dumps({"id": i, "text": text}) for text in texts]
        (tmp_path / f"{i}.jsonl").write_text("\n".join(rows) + "\n")
    files = [str(tmp_path / f"{i}.jsonl") for i in range(3)]
    stream = datasets.load_dataset(
        "json", data_files=files, split="train", streaming=True, cache_dir=str(tmp_path / "cache")
    )
    shards = text_shards(stream)
    assert [list(shard) for shard in shards] == SHARDS[:3]
    assert [list(shard) for shard in shards] == SHARDS[:3], "a second epoch"
    with pytest.raises(DataError, match="example 0 of shard 1 has 1 as its id; expected a text"):
        list(text_shards(stream, column="id")[1])
    with pytest.raises(DataError, match=r"None as its words; .* columns are id, text"):
        list(replace(shards[0], column="words"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_ranks": 8}, "7 shards for 8 processes; expected at least as many"),
        ({"n_ranks": 4}, "batch_size = 6 with 4 processes; expected .* a multiple of"),
        ({"n_ranks": 0}, "rank = 0 of n_ranks = 0; expected a rank from 0"),
        ({"rank": 3, "n_ranks": 3}, "rank = 3 of n_ranks = 3; expected a rank from 0"),
        ({"rank": -1}, "rank = -1 of n_ranks = 1; expected a rank from 0"),
        ({"epochs": 0}, "epochs = 0; expected at least 1, or None to never end"),
        ({"length": 0}, "length = 0 and batch_size = 6"),
    ],
)
def test_what_cannot_be_divided(options, message):
    with pytest.raises(ConfigError, match=message):
        batches(**options)


def test_a_position_beyond_the_end_of_a_shard():
    own = batches()
    own.seek({"0": [0, 3, 13, 0]})
    with pytest.raises(DataError, match="shard 0 is in document 13, but it has 11; expected the"):
        list(own)


def test_a_position_in_other_shards():
    with pytest.raises(DataError, match="the position has a shard 7, but there are 7"):
        batches().seek({"7": [0, 1, 2, 3]})
    with pytest.raises(DataError, match="the position has a shard -1, but there are 7"):
        batches().seek({"-1": [0, 1, 2, 3]})
    for place in ([0, 1], [0, 1, 2, 3, 4], [0, 1, -2, 3]):
        with pytest.raises(DataError, match=r"the position in shard 2 is .* expected its epoch"):
            batches().seek({"2": place})
