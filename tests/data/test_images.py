"""Images to numbers: each step by hand, any number of channels, and files that are no images."""

import sys
from contextlib import suppress
from random import Random

import numpy as np
import PIL.Image
import pytest
import torch
from tests.helpers import unchecked

from qkv.data.images import FILTERS, ImageConfig, ImageProcessor, read_image
from qkv.errors import ConfigError, DataError, MissingDependencyError

RAW = {"size": None, "rescale_factor": None, "mean": None, "std": None}


def noise(height, width, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def pixels(image):
    """As an array with the channels first."""
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def prepare(image, **config):
    x = ImageProcessor(ImageConfig(**{**RAW, **config})).prepare(image)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    return x


def test_nothing_to_do_leaves_the_pixels():
    image = noise(5, 7)
    assert np.array_equal(prepare(image).numpy(), pixels(image))


def test_rescaling_and_normalization():
    image = noise(5, 7)
    x = prepare(image, rescale_factor=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.7, 1.1))
    for channel, (mean, std) in enumerate(((0.1, 0.5), (0.2, 0.7), (0.3, 1.1))):
        expected = (pixels(image)[channel] / 255 - mean) / std
        np.testing.assert_allclose(x[channel].numpy(), expected, rtol=0, atol=1e-6)
    assert prepare(image, mean=(3.0, 2.0, 1.0), std=(1.0, 1.0, 1.0))[0, 0, 0] == x.new_tensor(
        float(pixels(image)[0, 0, 0]) - 3
    )


def test_the_default_is_from_minus_one_to_one():
    batch = ImageProcessor(ImageConfig())([PIL.Image.new("L", (1, 1), n) for n in (0, 255)])
    assert batch.shape == (2, 3, 224, 224)
    assert torch.equal(batch.amin((1, 2, 3)), torch.tensor([-1.0, 1.0]))
    assert torch.equal(batch.amax((1, 2, 3)), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_that_of_pillow(name):
    image = noise(23, 17)
    expected = image.resize((7, 11), PIL.Image.Resampling[name.upper()])
    found = prepare(image, size=(11, 7), resample=name)
    assert np.array_equal(found.numpy(), pixels(expected))


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 20), (5, 10)), ((20, 10), (10, 5)), ((7, 7), (5, 5))]
)
def test_the_shorter_edge(size, expected):
    assert prepare(noise(*size), size=5).shape[1:] == expected
    assert prepare(noise(31, 90), size=11).shape == (3, 11, 31)  # 11 * 90 / 31 = 31.9


def test_the_crop_is_of_the_middle():
    image = noise(9, 10)
    assert np.array_equal(prepare(image, crop_size=(5, 4)), pixels(image)[:, 2:7, 3:7])
    # Where it cannot be in the middle, it is one pixel nearer to the top left.
    assert np.array_equal(prepare(image, crop_size=(4, 5)), pixels(image)[:, 2:6, 2:7])


def test_a_crop_larger_than_the_image_is_black_around_it():
    image = noise(3, 10)
    x = prepare(image, crop_size=(8, 4))
    assert np.array_equal(x[:, 3:6], pixels(image)[:, :, 3:7])
    assert not x[:, :3].any()
    assert not x[:, 6:].any()


def test_resizing_comes_before_the_crop():
    image = noise(20, 30)
    expected = image.resize((12, 12), PIL.Image.Resampling.BILINEAR).crop((2, 1, 9, 11))
    assert np.array_equal(prepare(image, size=(12, 12), crop_size=(10, 7)), pixels(expected))


def test_grey_becomes_colour_and_colour_grey():
    grey, colour = noise(3, 5, channels=1), noise(3, 5)
    assert np.array_equal(prepare(grey), np.repeat(pixels(grey), 3, 0))
    one = {"mean": (0.0,), "std": (1.0,)}
    assert np.array_equal(prepare(grey, **one), pixels(grey))
    luma = np.tensordot((0.299, 0.587, 0.114), pixels(colour).astype(float), 1)
    assert np.abs(prepare(colour, **one).numpy()[0] - luma).max() < 1


def test_what_is_transparent_becomes_white():
    image = noise(3, 5, channels=4)
    colours, alpha = pixels(image)[:3].astype(float), pixels(image)[3:] / 255
    expected = alpha * colours + (1 - alpha) * 255
    assert np.abs(prepare(image).numpy() - expected).max() < 1.01
    palette = noise(3, 5).quantize(7)
    palette.info["transparency"] = bytes([0] * 7)
    assert (prepare(palette) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_a_tiny_image_of_any_mode(mode):
    assert prepare(PIL.Image.new(mode, (1, 1)), size=(7, 5)).shape == (3, 7, 5)


def test_a_mode_that_pillow_does_not_convert_is_named(tmp_path):
    gray = {"mean": (0.0,), "std": (1.0,)}
    PIL.Image.new("LAB", (3, 5)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif of Pillow's mode 'LAB' cannot be converted: "):
        prepare(tmp_path / "a.tif", **gray)
    for options in ({}, gray, {**gray, "size": (9, 9), "ink_box": 5}):
        with pytest.raises(DataError, match=r"^an image of Pillow's mode 'La' cannot be converted"):
            prepare(PIL.Image.new("La", (3, 5)), **options)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_closed_and_empty_images_are_refused(mode):
    closed = PIL.Image.new(mode, (3, 5))
    closed.close()
    gray = {"mean": (0.0,), "std": (1.0,)}
    for options in ({}, {"size": 5}, gray, {**gray, "size": (9, 9), "ink_box": 5}):
        with pytest.raises(DataError, match="cannot be converted: Operation on closed image; exp"):
            prepare(closed, **options)
        for size in ((0, 0), (0, 5)):
            with pytest.raises(DataError, match=f"^an image has 0 x {size[1]} pixels; expected at"):
                prepare(PIL.Image.new(mode, size), **options)


@pytest.mark.parametrize("mode", ["I", "I;16", "F"])
def test_more_than_eight_bits_are_refused(mode, tmp_path):
    with pytest.raises(DataError, match=f"an image has Pillow's mode '{mode}', more than 8 bits"):
        prepare(PIL.Image.new(mode, (3, 5)))
    PIL.Image.new("I;16", (3, 5)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep.png has Pillow's mode 'I;16'"):
        prepare(tmp_path / "deep.png")


def test_files_and_open_images_are_the_same(tmp_path):
    image = noise(5, 7)
    image.save(tmp_path / "a.png")
    processor = ImageProcessor(ImageConfig(size=(3, 3)))
    batch = processor([image, tmp_path / "a.png", str(tmp_path / "a.png")])
    assert batch.shape == (3, 3, 3, 3)
    assert torch.equal(batch[1:], batch[:1].expand(2, -1, -1, -1))


def test_a_photograph_is_turned_as_it_was_taken(tmp_path):
    image, exif = noise(5, 7), PIL.Image.Exif()
    exif[0x0112] = 6  # the camera stood on its side
    image.save(tmp_path / "a.png", exif=exif)
    turned = pixels(image.transpose(PIL.Image.Transpose.ROTATE_270))
    assert np.array_equal(pixels(read_image(tmp_path / "a.png")), turned)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"text.jpg is not an image, or Pillow does not"):
        read_image(tmp_path / "text.jpg")
    (tmp_path / "empty.png").touch()
    with pytest.raises(DataError, match=r"empty.png is not an image"):
        read_image(tmp_path / "empty.png")
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match=r"cannot be read as an image: .*(No such|directory)"):
            read_image(path)
    with (
        unchecked(),
        pytest.raises(DataError, match=r"an image is a ndarray; .*PIL.Image.fromarray"),
    ):
        prepare(np.zeros((3, 5, 3)))


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp"])
def test_broken_files_are_named(suffix, tmp_path):
    path = tmp_path / f"broken.{suffix}"
    noise(20, 20).save(path)
    whole, random = path.read_bytes(), Random(0)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        DataError, match=rf"broken\.{suffix} (is not an|cannot be read as an) image"
    ):
        read_image(path)
    for _ in range(50):  # wrong bytes make other pixels, or our error, but never another
        broken = bytearray(whole)
        for place in random.sample(range(len(whole)), 3):
            broken[place] = random.randrange(256)
        path.write_bytes(broken)
        with suppress(DataError):
            read_image(path)


def test_an_image_too_large_to_decode_is_refused(tmp_path, monkeypatch):
    noise(50, 50).save(tmp_path / "bomb.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"bomb.png cannot be read as an image: .*2500 pixels"):
        read_image(tmp_path / "bomb.png")


def test_a_batch_has_one_size():
    processor = ImageProcessor(ImageConfig(size=5))
    with pytest.raises(DataError, match=r"2 images have the sizes \[\(5, 5\), \(5, 7\)\]"):
        processor([noise(5, 5), noise(5, 7)])
    with pytest.raises(DataError, match=r"0 images have the sizes \[\]"):
        processor([])


def test_bad_configs_are_refused():
    for options in ({"size": 0}, {"size": (3, -1)}, {"crop_size": (0, 3)}):
        with pytest.raises(ConfigError, match=r"size = .*; expected at least 1 pixel"):
            ImageConfig(**options)
    with unchecked(), pytest.raises(ConfigError, match="resample = 'cubic' is unknown; expected"):
        ImageConfig(resample="cubic")
    for mean, std in (((0.5,), (0.5,) * 3), ((0.5,) * 4,) * 2, (None, (0.5,)), ((0.0,), (0.0,))):
        with pytest.raises(ConfigError, match=r"one number per channel \(3 or 1\) in both"):
            ImageConfig(mean=mean, std=std)


def test_without_pillow_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "qkv\[images\]"'):
        read_image(tmp_path / "a.png")
