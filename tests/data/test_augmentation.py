"""Images changed at random: what may change does, what may not stays, and nothing is by chance."""

import itertools

import numpy as np
import pytest
import torch
from tests.helpers import unchecked

from qkv.data.augmentation import Augmentation, bend, erase, flip, image_batches, shift
from qkv.data.batches import Batching
from qkv.errors import ConfigError, DataError

B, C, H, W = 23, 3, 11, 7
ALL = Augmentation(flip=True, rotate=20.0, scale=0.2, elastic=0.7, shift=2, erase=0.5)


def pixels(n=B, height=H, width=W):
    generator = torch.Generator().manual_seed(n)
    return torch.rand(n, C, height, width, generator=generator, dtype=torch.float64)


def rng(seed=0):
    return np.random.default_rng(seed)


class Most(np.random.Generator):
    """Draws the largest number."""

    def __init__(self):
        super().__init__(np.random.PCG64(0))

    def uniform(self, low, high, n):
        return np.full(n, high)

    def normal(self, mean, deviation, shape):
        return np.full(shape, mean + deviation)


def batches(n=B, augmentation=ALL, batch_size=5, seed=0):
    generator = torch.Generator().manual_seed(n)
    images = torch.randint(0, 256, (n, C, H, W), generator=generator, dtype=torch.uint8)
    numbers = {"mean": (0.2, 0.3, 0.5), "std": (0.7, 0.11, 0.13)}
    made = image_batches(
        images,
        torch.arange(n),
        **numbers,
        augmentation=augmentation,
        batching=Batching(batch_size=batch_size, seed=seed, epochs=None),
    )
    return images, made


def test_the_defaults_change_nothing():
    x = pixels()
    assert Augmentation()(x, rng()) is x


@pytest.mark.parametrize("seed", range(3))
def test_all_of_it_keeps_shape_and_range_and_follows_the_numbers(seed):
    x = pixels()
    before = x.clone()
    one, same, other = (ALL(x, rng(i)) for i in (seed, seed, seed + 99))
    assert one.shape == x.shape
    assert one.dtype == x.dtype
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(x, before)
    assert one.min() >= 0
    assert one.max() <= 1


def test_a_flip_mirrors_about_half_and_leaves_the_others():
    x = pixels(401)
    y = flip(x, rng())
    mirrored = torch.tensor([torch.equal(a, b.flip(-1)) for a, b in zip(x, y, strict=True)])
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(x, y, strict=True)])
    assert (mirrored ^ kept).all()
    assert 150 < mirrored.sum() < 250


def test_a_shift_moves_whole_pixels_and_black_comes_in():
    x, most = pixels(151), 2
    y = shift(x, rng(), most)
    seen = set()
    for before, after in zip(x, y, strict=True):
        for down, right in itertools.product(range(-most, most + 1), repeat=2):
            expected = torch.zeros_like(before)
            rows = slice(max(0, down), H + min(0, down))
            columns = slice(max(0, right), W + min(0, right))
            expected[:, rows, columns] = before[
                :,
                slice(max(0, -down), H + min(0, -down)),
                slice(max(0, -right), W + min(0, -right)),
            ]
            if torch.equal(after, expected):
                seen.add((down, right))
                break
        else:
            raise AssertionError("moved otherwise")
    assert len(seen) == (2 * most + 1) ** 2  # each of them, the corners too


def test_turning_by_nothing_changes_nothing_and_by_a_half_turn_mirrors_both_axes():
    x = pixels()
    torch.testing.assert_close(bend(x, rng(), degrees=0.0, scale=0.0), x, rtol=0, atol=1e-12)

    half = bend(x, Most(), degrees=180.0, scale=0.0)
    torch.testing.assert_close(half, x.flip(-1).flip(-2), rtol=0, atol=1e-12)


def test_a_quarter_turn_of_an_oblong_is_not_distorted():
    """Places run from -1 to 1 on both sides: a square in the middle must stay one."""
    x = torch.zeros(1, 1, 13, 7, dtype=torch.float64)
    x[:, :, 4:9, 1:6] = torch.arange(25.0, dtype=torch.float64).view(5, 5)

    found = bend(x, Most(), degrees=90.0, scale=0.0)[0, 0, 4:9, 1:6]
    square = x[0, 0, 4:9, 1:6]
    turned = [square.rot90(k) for k in (1, 3)]
    assert min((found - one).abs().max() for one in turned) < 1e-9


def test_scaling_up_enlarges():
    x = torch.zeros(1, 1, 11, 11, dtype=torch.float64)
    x[:, :, 4:7, 4:7] = 1

    assert bend(x, Most(), degrees=0.0, scale=0.5).sum() > 1.5 * x.sum()


def test_elastic_deformations_move_by_pixels_and_neighbours_alike():
    x = pixels()
    # Where all numbers are the same, all pixels move by it, down and to the right.
    moved = bend(x, Most(), degrees=0.0, scale=0.0, elastic=1.0)
    torch.testing.assert_close(moved[..., :-1, :-1], x[..., 1:, 1:], rtol=0, atol=1e-9)
    # Of an image that holds its columns' numbers the values tell how far each pixel was moved.
    width = 97
    columns = torch.arange(float(width), dtype=torch.float64).expand(53, 1, 89, width)
    away = (bend(columns, rng(), degrees=0.0, scale=0.0, elastic=2.0) - columns)[..., 17:72, 17:80]
    assert 0.7 < away.std() < 2.0
    assert abs(away.mean()) < 0.3
    assert away.diff(dim=-1).abs().max() < 0.4
    assert away.diff(dim=-2).abs().max() < 0.4


def test_erasing_puts_one_rectangle_of_the_asked_size_into_the_asked_share():
    x = pixels(301, 29, 31)
    y = erase(x, rng(), share=0.4, area=(0.05, 0.1))
    changed = (x != y).any(1)  # (B, H, W)
    hit = changed.flatten(1).any(1)
    assert 90 < hit.sum() < 150
    for one in changed[hit]:
        rows, columns = one.any(1).nonzero().flatten(), one.any(0).nonzero().flatten()
        assert len(rows) == rows[-1] - rows[0] + 1
        assert len(columns) == columns[-1] - columns[0] + 1
        assert one.sum() == len(rows) * len(columns)
        assert 0.03 < one.sum() / (29 * 31) < 0.13
    # All sides are reached.
    reached = changed.any(0)
    assert reached[0].any()
    assert reached[-1].any()
    assert reached[:, 0].any()
    assert reached[:, -1].any()


def test_an_epoch_has_each_image_once_with_its_class_and_is_normalized():
    images, made = batches(augmentation=Augmentation())
    assert made.n_batches == 5
    epoch = [next(made) for _ in range(5)]
    assert [one.n_targets for one in epoch] == [5, 5, 5, 5, 3]
    order = torch.cat([one.classes for one in epoch])
    assert sorted(order.tolist()) == list(range(B))
    assert order.tolist() != list(range(B))
    middle, spread = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.7, 0.11, 0.13])
    expected = (images[order].float() / 255 - middle[:, None, None]) / spread[:, None, None]
    torch.testing.assert_close(torch.cat([one.pixels for one in epoch]), expected)
    again = torch.cat([next(made).classes for _ in range(5)])
    assert sorted(again.tolist()) == list(range(B))
    assert not torch.equal(again, order)


@pytest.mark.parametrize("at", [3, 7])
def test_batches_go_on_where_they_stood(at):
    _, whole = batches()
    seen = [next(whole) for _ in range(11)]
    _, begun = batches()
    for _ in range(at):
        next(begun)
    _, resumed = batches()
    resumed.seek(begun.position)
    for expected, one in zip(seen[at:], resumed, strict=False):
        assert torch.equal(one.pixels, expected.pixels)
        assert torch.equal(one.classes, expected.classes)
    # The same image is changed in another way in another epoch.
    first = {int(i): x for one in seen[:5] for i, x in zip(one.classes, one.pixels, strict=True)}
    later = {int(i): x for one in seen[5:10] for i, x in zip(one.classes, one.pixels, strict=True)}
    assert sum(torch.equal(first[i], later[i]) for i in first) < 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotate": 181.0}, r"augmentation\.rotate = 181\.0; expected degrees from 0 to 180"),
        ({"elastic": -0.1}, r"augmentation\.elastic = -0\.1; expected 0 pixels or more"),
        ({"scale": 1.0}, r"augmentation\.scale = 1\.0; expected a fraction from 0, below 1"),
        ({"shift": -1}, r"augmentation\.shift = -1; expected 0 pixels or more"),
        ({"erase": 1.1}, r"augmentation\.erase = 1\.1; expected a fraction from 0 to 1"),
        ({"erase_area": (0.3, 0.2)}, r"augmentation\.erase_area = \(0\.3, 0\.2\); expected two"),
        ({"erase_area": (0.0, 0.2)}, r"two fractions between 0 and 1, the smaller one first"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)


def test_what_cannot_be_batched_is_refused():
    images = torch.zeros(5, C, H, W, dtype=torch.uint8)
    numbers = {"mean": (0.0,) * C, "std": (1.0,) * C}
    tokens = {**numbers, "batching": Batching(max_tokens=7)}
    with pytest.raises(ConfigError, match="max_tokens = 7 for images; expected batch_size"):
        image_batches(images, torch.arange(5), **tokens)
    numbers["batching"] = Batching(batch_size=2)
    with unchecked(), pytest.raises(DataError, match="5 images and 2 classes; expected one class"):
        image_batches(images, torch.arange(2), **numbers)
    with pytest.raises(DataError, match=r"0 images and 0 classes; expected .* at least one"):
        image_batches(images[:0], torch.arange(0), **numbers)
