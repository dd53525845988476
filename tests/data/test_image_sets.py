"""Sets of images: folders and tars of them give the same, and each broken file is named."""

import io
import tarfile

import numpy as np
import pytest
import torch

from qkv.data.image_sets import (
    array_examples,
    image_remarks,
    read_image_archive,
    read_image_folder,
)
from qkv.data.images import ImageConfig, resize_all, statistics
from qkv.errors import DataError

pillow = pytest.importorskip("PIL.Image")


def picture(height=5, width=7, mode="RGB", seed=0):
    n = len(mode)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, n), dtype=np.uint8)
    return pillow.fromarray(pixels[..., 0] if n == 1 else pixels, mode)


def saved(image, kind="PNG"):
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def pixels(images, size=None, channels=3):
    """The pixels of examples, as they are unless a size is named."""
    config = ImageConfig(size=size, mean=(0.5,) * channels, std=(0.5,) * channels)
    return resize_all((one.open() for one in images), config)


def pack(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


GOOD = {
    "cats/2.png": saved(picture(seed=1)),
    "cats/10.png": saved(picture(seed=2)),
    "ants/a.png": saved(picture(seed=3)),
    "ants/more/b.png": saved(picture(seed=4, mode="L")),
}


@pytest.mark.parametrize("hidden", [{}, {".DS_Store": b"x", "ants/.x": b"x", ".git/a": b"x"}])
def test_a_folder_is_read_by_class_and_name(tmp_path, hidden):
    images = read_image_folder(write(tmp_path, {**GOOD, **hidden, "README.txt": b"of the whole"}))
    assert [one.label for one in images] == ["ants", "ants", "cats", "cats"]
    names = ["ants/a.png", "ants/more/b.png", "cats/10.png", "cats/2.png"]
    assert [one.name for one in images] == [str(tmp_path / name) for name in names]
    for image, name in zip(images, names, strict=True):
        assert saved(image.open()) == GOOD[name]


@pytest.mark.parametrize("root", ["", "train/", "./a/b/"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_gives_what_its_folder_does(tmp_path, root, mode):
    files = {name: content for name, content in GOOD.items() if "more" not in name}
    folder = read_image_folder(write(tmp_path / "f", files))
    path = pack(tmp_path / "a.tar", {root + name: files[name] for name in sorted(files)}, mode)
    packed = read_image_archive(path)
    assert [one.label for one in packed] == [one.label for one in folder]
    assert torch.equal(pixels(packed), pixels(folder))
    assert packed[0].name == f"{root.removeprefix('./')}ants/a.png in {path}"


def test_an_image_can_be_read_more_than_once(tmp_path):
    images = read_image_folder(write(tmp_path / "f", GOOD))
    assert saved(images[2].open()) == saved(images[2].open())


def test_an_array_gives_gray_images_with_names():
    arrays = np.stack([np.full((3, 5), 10 * i, dtype=np.uint8) for i in range(7)])
    images = array_examples("odd:test", arrays, [i % 2 for i in range(7)], ["x", "y"])
    assert [one.label for one in images] == ["x", "y"] * 3 + ["x"]
    assert images[4].name == images[4].text == "image 4 of odd:test"
    found = pixels(images, channels=1)
    assert (found.shape, found.dtype) == ((7, 1, 3, 5), torch.uint8)
    assert found[4, 0, 2, 3] == 40
    assert torch.equal(pixels(images), found.expand(7, 3, 3, 5))


def test_pixels_are_bytes_in_the_size_and_the_channels_of_a_config(tmp_path):
    files = {"a/1.png": saved(picture()), "b/2.png": saved(picture(5, 11))}
    images = read_image_folder(write(tmp_path, files))
    assert images[1].open().size == (11, 5)
    with pytest.raises(DataError, match=r"2 images have the sizes \[\(5, 7\), \(5, 11\)\]"):
        pixels(images)
    found = pixels(images, (3, 2), channels=1)
    assert (found.shape, found.dtype) == ((2, 1, 3, 2), torch.uint8)
    one = pixels(images[:1])
    assert np.array_equal(one[0].permute(1, 2, 0), np.array(images[0].open()))


def test_statistics_are_those_of_each_channel():
    found = torch.tensor([[[[0, 255]], [[51, 51]]]], dtype=torch.uint8)  # (1, 2, 1, 2)
    # The second channel does not vary, and nothing can be divided by a std of 0.
    assert statistics(found) == {"mean": (0.5, 0.2), "std": (round(0.5**0.5, 4), 1.0)}


def transparent():
    image = picture().convert("P")
    image.info["transparency"] = 0
    out = io.BytesIO()
    image.save(out, "PNG", transparency=0)
    return out.getvalue()


BROKEN = {
    "no image": (b"hello", r"bad\.png.* is not an image, or Pillow does not know its format"),
    "nothing": (b"", r"bad\.png.* is not an image"),
    "four channels": (
        saved(picture(mode="RGBA")),
        r"bad\.png.* has the channels R\+G\+B\+A; expected gray or RGB: save it as RGB",
    ),
    "inks": (saved(picture(mode="CMYK"), "JPEG"), r"bad\.png.* has the channels C\+M\+Y\+K; exp"),
    "grey and alpha": (saved(picture(mode="L").convert("LA")), r"has the channels L\+A"),
    "a transparent colour": (transparent(), r"has the channels P and a transparent color"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_bad_image_is_named_before_training(tmp_path, name):
    content, message = BROKEN[name]
    files = {"a/1.png": saved(picture()), "b/bad.png": content}
    with pytest.raises(DataError, match=message):
        read_image_folder(write(tmp_path / "f", files))
    with pytest.raises(DataError, match=message.replace(".*", r" in .*a\.tar", 1)):
        read_image_archive(pack(tmp_path / "a.tar", files))


def test_an_image_that_is_cut_short_is_named_when_it_is_read(tmp_path):
    files = {"a/1.png": saved(picture(seed=1)), "b/2.png": saved(picture(50, 50))[:-2000]}
    images = read_image_folder(write(tmp_path / "f", files))
    with pytest.raises(DataError, match=r"b/2\.png cannot be read as an image: .*truncated"):
        images[1].open()
    packed = read_image_archive(pack(tmp_path / "a.tar", files))
    with pytest.raises(DataError, match=r"b/2\.png in .*a\.tar cannot be read as an image"):
        packed[1].open()


def test_folders_of_another_form_are_refused(tmp_path):
    with pytest.raises(
        DataError, match="nowhere is not a folder; expected one with a folder for each"
    ):
        read_image_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no folders in it; expected a folder for each"):
        read_image_folder(tmp_path / "empty")
    files = {**GOOD, "stray.JPG": saved(picture())}
    with pytest.raises(DataError, match=r"has the image stray\.JPG in it; expected a folder"):
        read_image_folder(write(tmp_path / "stray", files))
    write(tmp_path / "lonely", GOOD)
    (tmp_path / "lonely" / "dogs").mkdir()
    with pytest.raises(DataError, match=r"lonely.dogs has no images; expected one or more"):
        read_image_folder(tmp_path / "lonely")
    with pytest.raises(DataError, match=r"1 classes: 'a'; expected two or more"):
        read_image_folder(write(tmp_path / "one", {"a/1.png": saved(picture())}))


def test_tars_of_another_form_are_refused(tmp_path):
    image = saved(picture())
    several = {"train/a/1.png": image, "val/a/1.png": image, "val/b/1.png": image}
    with pytest.raises(DataError, match=r"classes in 2 folders, such as train, val; .*several spl"):
        read_image_archive(pack(tmp_path / "a.tar", several))
    with pytest.raises(DataError, match="has images outside of folders"):
        read_image_archive(pack(tmp_path / "b.tar", {"1.png": image, "2.png": image}))
    with pytest.raises(DataError, match=r"c\.tar is a tar archive without files"):
        read_image_archive(pack(tmp_path / "c.tar", {}))


def test_remarks_on_images(tmp_path):
    sizes = {"a/1.png": ("RGB", (7, 5)), "a/2.png": ("L", (7, 5)), "b/3.png": ("RGB", (11, 3))}
    for name, (mode, size) in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pillow.new(mode, size).save(tmp_path / name)
    images = read_image_folder(tmp_path)
    gray = ImageConfig(size=(5, 7), mean=(0.5,), std=(0.5,))
    resized, grayed = image_remarks(images, gray)
    first = f"{images[2].name}, 3 x 11"
    assert resized == f"1 of 3 images were resized to 5 x 7 pixels; the first: {first}"
    assert grayed.startswith("2 of 3 images had colors and were converted to gray; the first: ")
    assert grayed.endswith(images[0].name)
    assert image_remarks(images[:2], ImageConfig(size=(5, 7))) == []
    (edge,) = image_remarks(images, ImageConfig(size=5))
    assert edge.startswith("1 of 3 images were resized to a shorter edge of 5 pixels")
