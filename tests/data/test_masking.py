"""Laws of masking: shares, what is never chosen, whole words, and a new draw each time."""

from itertools import islice

import numpy as np
import pytest

from qkv.data.batches import Batching
from qkv.data.masking import Masking, masked_batches
from qkv.errors import ConfigError, LengthError, VocabularyError

PAD, START, STOP, MASK = SPECIAL = (0, 1, 2, 3)
VOCAB = 1009  # a random token is the right one once in a thousand times
IDS = {"mask": MASK, "vocab_size": VOCAB, "special": (PAD, START, STOP)}


def texts(n=211, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 60, n)
    return [[START, *rng.integers(4, VOCAB, length).tolist(), STOP] for length in lengths]


def draw(masking, corpus, seed=0):
    """For each text what is read, and the places and targets as a mapping."""
    rng = np.random.default_rng(seed)
    for text in corpus:
        read, places, targets = masking(text, rng)
        yield text, read, dict(zip(places, targets, strict=True))


def within(found, n, share):
    """Four standard deviations of a binomial."""
    return abs(found - n * share) <= 4 * (n * share * (1 - share)) ** 0.5


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.5, 0.5), (1.0, 0.0), (0.0, 0.3)])
def test_the_shares_of_what_becomes_of_a_chosen_token(shares):
    masked, random = shares
    masking = Masking(**IDS, masked=masked, random=random)
    fates = [
        "masked" if read[place] == MASK else "kept" if read[place] == target else "random"
        for text, read, asked in draw(masking, texts(997))
        for place, target in asked.items()
    ]
    n = len(fates)
    assert n > 3000
    assert within(fates.count("masked"), n, masked)
    assert within(fates.count("random"), n, random * (1 - 1 / VOCAB))
    assert within(fates.count("kept"), n, 1 - masked - random + random / VOCAB)


def test_of_each_text_the_share_of_its_ordinary_tokens_is_chosen_and_at_least_one():
    for text, _, asked in draw(Masking(**IDS), texts()):
        assert len(asked) == max(1, round(0.15 * (len(text) - 2)))


def test_every_ordinary_place_is_as_likely_and_no_special_one_is_chosen():
    text = [START, *range(10, 50), STOP, *range(60, 100), STOP, PAD]
    times = np.zeros(len(text))
    rng = np.random.default_rng(0)
    for _ in range(500):
        _, places, _ = Masking(**IDS)(text, rng)
        times[places] += 1
    special = np.isin(text, SPECIAL)
    assert not times[special].any()
    assert all(within(found, 500, 12 / 80) for found in times[~special])


def test_targets_are_what_stood_at_the_places_and_the_rest_is_as_it_was():
    for text, read, asked in draw(Masking(**IDS), texts()):
        assert all(text[place] == target for place, target in asked.items())
        others = set(range(len(text))) - asked.keys()
        assert all(read[place] == text[place] for place in others)


def test_no_special_token_is_drawn_in_the_place_of_another():
    masking = Masking(mask=3, vocab_size=7, special=(0, 1, 2), masked=0.0, random=1.0, share=1.0)
    read = [i for _, read, _ in draw(masking, [[4, 5, 6] * 20] * 20) for i in read]
    assert set(read) == {4, 5, 6}
    assert all(within(read.count(i), len(read), 1 / 3) for i in (4, 5, 6))


def test_a_mask_token_in_the_text_is_no_word():
    read, places, targets = Masking(**IDS, share=1.0)([MASK, 9, MASK], np.random.default_rng(0))
    assert (places, targets) == ([1], [9])
    assert read[::2] == [MASK, MASK]


@pytest.mark.parametrize("text", [[], [START, STOP]])
def test_a_text_without_ordinary_tokens_asks_for_nothing(text):
    assert Masking(**IDS)(text, np.random.default_rng(0)) == (text, [], [])


def test_words_are_chosen_whole():
    continues = [i >= VOCAB // 2 for i in range(VOCAB)]
    masking = Masking(**IDS, continues=continues)
    sizes = []
    for text, _, asked in draw(masking, texts()):
        words, before = [], True  # a word also begins after a special token
        for place, token in enumerate(text):
            if token not in SPECIAL:
                if before or not continues[token]:
                    words.append(set())
                words[-1].add(place)
            before = token in SPECIAL
        chosen = [word for word in words if word & asked.keys()]
        assert set().union(*chosen) == asked.keys()
        assert len(chosen) == max(1, round(0.15 * len(words)))
        sizes += map(len, chosen)
    assert max(sizes) >= 5


def test_each_token_of_a_chosen_word_has_a_fate_of_its_own():
    masking = Masking(**IDS, continues=[i >= 500 for i in range(VOCAB)], share=1.0)
    reads = [masking([7, 600, 700], np.random.default_rng(seed))[0] for seed in range(200)]
    masked = [tuple(i == MASK for i in read) for read in reads]
    assert len(set(masked)) > 4


def batches(corpus, epoch=0, seed=0, epochs=1):
    end = None if epochs is None else epoch + epochs
    batching = Batching(max_tokens=300, seed=seed, epochs=end)
    made = masked_batches(corpus, Masking(**IDS), pad=PAD, batching=batching)
    made.seek((epoch, 0))
    return made


def rows(batch):
    """Each text of a batch, put together again from what is read and the targets."""
    whole = batch.tokens.flatten().clone()
    whole[batch.positions] = batch.targets
    for row, mask in zip(whole.view_as(batch.tokens), batch.token_mask, strict=True):
        yield tuple(row[mask].tolist())


def test_in_every_epoch_each_text_comes_once_and_padding_is_never_asked_for():
    corpus = texts()
    for epoch in (0, 5):
        found = list(batches(corpus, epoch))
        assert sorted(row for batch in found for row in rows(batch)) == sorted(map(tuple, corpus))
        for batch in found:
            assert batch.tokens.numel() <= 300
            assert batch.token_mask.flatten()[batch.positions].all()
            assert (batch.tokens[~batch.token_mask] == PAD).all()
            assert batch.n_targets == len(batch.targets) == len(batch.positions)
            assert len(batch.positions.unique()) == len(batch.positions)
            assert batch.segments is None


def hidden(batch):
    return {(row, batch.tokens.shape[1]) for row in batch.positions.tolist()}


def test_masking_is_dynamic_and_repeats_with_seed_and_epoch():
    corpus = texts(1)
    first, again = (next(batches(corpus, 3, seed=7)) for _ in range(2))
    assert hidden(first) == hidden(again)
    assert (first.tokens == again.tokens).all()
    draws = [tuple(sorted(hidden(b))) for b in islice(batches(corpus, epochs=None), 10)]
    assert len(set(draws)) > 5
    assert hidden(next(batches(corpus, 3, seed=8))) != hidden(first)


def test_moving_a_batch_moves_every_tensor():
    batch = next(batches(texts())).to("meta")
    tensors = [value for value in vars(batch).values() if value is not None]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share = 0.0.*expected fractions between 0 and 1"),
        ({"masked": 0.8, "random": 0.3}, "with a sum of at most 1"),
        ({"continues": [True] * 7}, "continues has 7 entries; .* vocab_size = 1009"),
    ],
)
def test_impossible_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        Masking(**IDS, **options)


def test_ids_of_another_vocabulary():
    with pytest.raises(VocabularyError, match="run from 1 to 1009, expected 0 to 1008"):
        Masking(**IDS)([START, VOCAB], np.random.default_rng(0))


def test_a_text_over_the_budget_is_named_before_training_starts():
    with pytest.raises(LengthError, match=r"example 2, has 301 tokens"):
        batches([[START], [7] * 301])
