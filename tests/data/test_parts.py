"""Parts of data: by a checksum of what belongs together, so that nothing else moves anything."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.data.parts import hold_out_groups, split_by_hash
from qkv.errors import ConfigError, DataError

SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


def test_parts_have_about_their_shares():
    counts = Counter(split_by_hash([f"key {i}" for i in range(10_007)], SHARES))
    for part, share in SHARES.items():
        assert counts[part] / 10_007 == pytest.approx(share, abs=0.015)


def test_the_part_of_a_key_never_changes():
    # Published results rest on these.
    keys = ["", "a", "b", "Hallo!", "天", "json/decoder.py"]
    assert split_by_hash(keys, SHARES) == ["validation"] + ["train"] * 5
    # Nor where the shares' sum is a little less than 1.
    assert split_by_hash(keys, {"all": 1e-9}) == ["all"] * 6


keys = st.lists(st.text(max_size=2), min_size=2, max_size=40).filter(lambda keys: len({*keys}) > 1)


@given(keys, st.floats(0.01, 0.99))
def test_what_belongs_together_stays_together(keys, share):
    stays, held = hold_out_groups(range(len(keys)), keys, share)
    assert sorted(stays + held) == list(range(len(keys)))
    assert (stays, held) == (sorted(stays), sorted(held))
    assert stays
    assert held
    assert not {keys[i] for i in stays} & {keys[i] for i in held}
    wanted = share * len({*keys})
    assert abs(len({keys[i] for i in held}) - wanted) <= 1


def test_the_order_of_the_examples_and_their_number_move_nothing():
    keys = [f"article {i % 29}" for i in range(100)]
    _, held = hold_out_groups(keys, keys, 0.2)
    assert len({*held}) == 6
    _, again = hold_out_groups(keys[::-1] * 3, keys[::-1] * 3, 0.2)
    assert {*again} == {*held}


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 10.0])
def test_a_share_of_nothing_or_all_is_refused(share):
    with pytest.raises(ConfigError, match=rf"share = {share} to hold out; expected between 0 and"):
        hold_out_groups([1, 2], ["a", "b"], share)


@pytest.mark.parametrize("keys", [["a"], ["a", "a"], ["a", "b", "c"]])
def test_keys_that_cannot_be_parted_are_refused(keys):
    with pytest.raises(
        DataError, match=r"keys; expected one key each|different inputs in 2 examples; expected at"
    ):
        hold_out_groups([1, 2], keys, 0.5)
