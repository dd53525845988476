"""Digits that a program draws: shapes, splits, and that each drawing has a digit on it."""

import numpy as np
import pytest

from qkv.data.image_sets import ImageExample
from qkv.data.ink import center_ink
from qkv.data.sets import load_set
from qkv.data.sets.drawn_digits import COUNTS, curve, move, read_shapes


def test_the_shapes_of_a_split_are_not_those_of_the_other():
    shapes = {split: read_shapes(split) for split in COUNTS}
    for digit in range(10):
        assert len(shapes["train"][digit]) >= 10
        assert len(shapes["validation"][digit]) >= 3
    points = {
        split: [
            np.concatenate([piece for stroke in shape for piece in stroke]).tobytes()
            for of in found.values()
            for shape in of
        ]
        for split, found in shapes.items()
    }
    assert not {*points["train"]} & {*points["validation"]}
    every = np.concatenate(
        [piece for of in shapes["train"].values() for shape in of for s in shape for piece in s]
    )
    assert (every.min(), every.max()) == (0, 1)


def test_a_curve_goes_through_its_points_and_a_line_is_straight():
    points = np.random.default_rng(0).random((5, 2))
    assert np.allclose(curve(points, 7)[::7], points)
    assert np.allclose(curve(points[:2], 4)[2], points[:2].mean(0))


def test_pieces_stay_together_at_corners():
    (shape,) = [s for s in read_shapes("validation")[7] if len(s) == 2]
    for seed in range(5):
        stem, bar = move(shape, np.random.default_rng(seed))
        for line in (stem, bar):
            assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 1


@pytest.mark.parametrize("split", COUNTS)
def test_each_drawing_has_a_digit_and_is_the_same_again(split):
    examples = load_set("recognize", "drawn_digits", split)
    again = load_set("recognize", "drawn_digits", split)
    assert len(examples) == len({one.name for one in examples}) == COUNTS[split]
    assert [one.label for one in examples[:12]] == list("012345678901")
    sizes = set()
    for i in range(0, len(examples), len(examples) // 40):
        assert isinstance(examples[i], ImageExample)
        image = examples[i].open()
        assert np.array_equal(image, again[i].open())
        sizes.add(image.size)
        assert np.asarray(center_ink(image, 20, (28, 28))).max() == 255
    assert len(sizes) > 30
    assert not np.array_equal(examples[0].open(), examples[10].open())
