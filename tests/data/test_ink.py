"""What is drawn is cut from its paper: laws, and images on which nothing is drawn."""

import tracemalloc

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qkv.data.image_config import read_image_config, write_image_config
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.data.ink import center_ink, components, find_ink, otsu, paper, widened
from qkv.errors import ConfigError, DataError

SEVEN = [(0.1, 0.05), (0.7, 0.0), (0.3, 1.0)]


def seven(side=200, height=100.0, at=(50, 40), width=8, ink=0, shade=255):
    image = PIL.Image.new("L", (side, side), shade)
    line = [(at[0] + x * height, at[1] + y * height) for x, y in SEVEN]
    PIL.ImageDraw.Draw(image).line(line, fill=ink, width=width, joint="curve")
    return image


def prepared(image):
    return np.asarray(center_ink(image, 20, (28, 28)), dtype=float)


def alike(one, other):
    """The cosine of two images."""
    return (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())


def test_what_is_drawn_fills_the_box_and_is_centered_by_its_mass():
    pixels = prepared(seven())
    rows, columns = np.nonzero(pixels > 60)
    assert np.ptp(rows) + 1 in (20, 21)
    assert np.ptp(columns) < 18
    for axis in (0, 1):
        mass = pixels.sum(1 - axis)
        assert np.average(np.arange(28) + 0.5, weights=mass) == pytest.approx(14, abs=0.1)
    assert pixels.max() == 255
    assert np.median(pixels) == 0


@given(st.integers(0, 2**32 - 1), st.sampled_from([(0, 255), (30, 200), (120, 180)]))
def test_the_inverted_image_is_prepared_alike(seed, shades):
    rng = np.random.default_rng(seed)
    image = np.asarray(seven(side=90, height=55, at=(15, 20), ink=shades[0], shade=shades[1]))
    noisy = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    first, second = (prepared(PIL.Image.fromarray(pixels)) for pixels in (noisy, 255 - noisy))
    assert np.abs(first - second).max() <= 1


@given(st.integers(0, 90), st.integers(0, 80))
def test_the_place_does_not_matter(x, y):
    assert alike(prepared(seven(at=(x + 2, y + 8))), prepared(seven())) > 0.98


@pytest.mark.parametrize("factor", [0.5, 0.7, 2, 3, 10])
def test_the_size_hardly_matters(factor):
    scaled = seven(int(200 * factor), 100 * factor, (50 * factor, 40 * factor), round(8 * factor))
    assert alike(prepared(scaled), prepared(seven())) > 0.9


@pytest.mark.parametrize(("side", "width"), [(200, 2), (1_000, 3), (3_000, 8)])
def test_thin_lines_of_large_images_are_as_light_as_thick_ones(side, width):
    pixels = prepared(seven(side, side / 2, (side / 4, side / 5), width))
    assert alike(pixels, prepared(seven(width=10))) > 0.5
    middle = pixels[6:22].max(1)  # each row is crossed
    assert middle.min() > 40
    assert np.median(middle) > 180


@pytest.mark.parametrize(
    ("size", "at"),
    [((2_000, 2_000), (1_500, 900)), ((4_000, 3_000), (3, 20)), ((12_000, 320), (9_000, 10))],
)
@pytest.mark.parametrize("height", [18, 60, 150])
def test_a_small_drawing_on_a_large_sheet_is_as_sharp_as_on_a_small_one(size, at, height):
    width = height // 8
    small = seven(2 * height, height, (height / 2, height / 2), width)
    large = PIL.Image.new("L", size, 255)
    large.paste(small, at)
    assert alike(prepared(large), prepared(small)) > 0.97


def test_noise_hides_a_small_drawing_only_on_many_pixels():
    rng = np.random.default_rng(0)
    pixels = np.asarray(seven(1_600, 150, (500, 700), 24, ink=110, shade=150), dtype=float)
    noisy = np.clip(pixels + rng.normal(0, 40, pixels.shape), 0, 255).astype(np.uint8)
    assert alike(prepared(PIL.Image.fromarray(noisy)), prepared(seven(width=16))) > 0.8


@pytest.mark.parametrize("long", [12_000, 1_000_000])
def test_a_long_bar_takes_little_memory(long):
    image = PIL.Image.new("L", (long, 320), 255)
    image.paste(0, (long // 50, 140, long - long // 50, 180))
    tracemalloc.start()
    pixels = prepared(image)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 250e6
    assert np.ptp(np.flatnonzero(pixels.any(0))) + 1 in (20, 21, 22)
    assert np.ptp(np.flatnonzero(pixels.any(1))) < 3


@pytest.mark.parametrize("side", [1, 200])
def test_a_small_box_in_a_large_image_takes_little_memory(side):
    tracemalloc.start()
    image = center_ink(seven(), 1, (side, side))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.size == (side, side)
    assert most < 250e6


def test_shades_are_finite_numbers():
    gray = np.asarray(seven(), dtype=float)
    for shade in (np.nan, np.inf, -np.inf):
        broken = gray.copy()
        broken[3, 4] = shade
        with pytest.raises(DataError, match=r"^a\.png has NaN or infinite values; expected shades"):
            find_ink(broken, name="a.png")
    with pytest.raises(DataError, match=r"^an image has no pixels; expected shades of gray from 0"):
        find_ink(gray[:0])


def test_light_from_one_side_and_dirt_are_paper():
    shadow = np.add.outer(np.arange(200), np.arange(200)) * 0.4
    pixels = np.asarray(seven(shade=100, ink=20), dtype=float) + shadow
    pixels[150:153, 170:173] = 0
    pixels[10, 30] = 0
    assert alike(prepared(PIL.Image.fromarray(pixels.astype(np.uint8))), prepared(seven())) > 0.98


@pytest.mark.parametrize("ink", ["black", "white"])
def test_on_a_transparent_image_the_opaque_is_the_ink(ink):
    image = PIL.Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    image.paste(ink, mask=PIL.Image.fromarray(255 - np.asarray(seven())))
    processor = ImageProcessor(
        ImageConfig(size=(28, 28), ink_box=20, rescale_factor=None, mean=(0.0,), std=(1.0,))
    )
    x = processor.prepare(image)
    assert x.shape == (1, 28, 28)
    assert np.abs(x[0].numpy() - prepared(seven())).max() <= 1


def blank():
    rng = np.random.default_rng(0)
    steps = np.arange(60)
    yield "white", np.full((40, 50), 255)
    yield "black", np.zeros((1, 1))
    yield "nearly one color", rng.integers(250, 254, (40, 50))
    yield "one gradient", np.add.outer(steps, steps) * 2
    yield "normal noise", rng.normal(128, 30, (80, 60))
    yield "uniform noise", rng.uniform(0, 255, (64, 64))
    yield "dots", np.where(rng.random((100, 100)) < 0.03, 0, 255)
    yield "black and white noise", np.where(rng.random((100, 100)) < 0.5, 0, 255)


@pytest.mark.parametrize(("what", "pixels"), list(blank()))
def test_nothing_is_drawn(what, pixels):
    image = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    with pytest.raises(DataError, match=r"^a\.png: nothing is drawn: it has one color, or only"):
        center_ink(image, 20, (28, 28), name="a.png")


@given(st.integers(0, 2**32 - 1))
def test_parts_are_those_of_scipy(seed):
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 30, 2)) < rng.uniform(0, 0.7)
    expected, n = ndimage.label(mask, np.ones((3, 3)))
    found = components(mask)
    assert set(found[mask].tolist()) == set(range(n))
    assert len({*zip(found[mask].tolist(), expected[mask].tolist(), strict=True)}) == n
    assert (found[~mask] == -1).all()
    assert np.array_equal(widened(mask), ndimage.binary_dilation(mask, np.ones((3, 3))))


def test_otsu_parts_two_heaps_and_paper_is_a_plane():
    rng = np.random.default_rng(0)
    heaps = np.concatenate([rng.normal(0, 3, 900), rng.normal(100, 3, 100)])
    assert heaps[:900].max() <= otsu(heaps) < heaps[900:].min()
    plane = 90 + np.add.outer(0.5 * np.arange(40), -0.3 * np.arange(30))
    drawn = plane.copy()
    drawn[:10, 8:14] = 0  # touches the border
    assert np.abs(paper(drawn) - plane).max() < 0.5


def test_the_box_is_kept_under_a_name_that_transformers_does_not_know():
    config = ImageConfig(size=(28, 28), ink_box=20, mean=(0.1,), std=(0.3,))
    raw = write_image_config(config)
    assert raw["image_processor_type"] == "InkImageProcessor"
    assert raw["ink_box"] == 20
    assert read_image_config(raw) == config
    with pytest.raises(ConfigError, match="ink_box = 20: unknown, so the pixels could differ"):
        read_image_config(raw | {"image_processor_type": "ViTImageProcessor"})
    with pytest.raises(ConfigError, match=r"ink_box = 'big'; expected a whole number"):
        read_image_config(raw | {"ink_box": "big"})


@pytest.mark.parametrize(
    "options", [{"ink_box": 0}, {"ink_box": 29}, {"size": 28}, {"mean": (0.5,) * 3}]
)
def test_a_box_needs_a_gray_image_around_it(options):
    options = {"size": (28, 28), "ink_box": 20, "mean": (0.5,), **options}
    options["std"] = options["mean"]
    with pytest.raises(ConfigError, match=r"ink_box = .* expected 1 pixel or more, at most height"):
        ImageConfig(**options)


def test_a_batch_of_any_sizes():
    config = ImageConfig(size=(28, 28), ink_box=20, mean=(0.0,), std=(1.0,))
    batch = ImageProcessor(config)([seven(), seven(side=321), seven(side=120, at=(4, 8))])
    assert batch.shape == (3, 1, 28, 28)
    assert torch.equal(batch.amax((1, 2, 3)), torch.ones(3))
