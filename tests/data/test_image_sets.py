"""Sets of images: folders and tars of them give the same, and each broken file is named."""

import io
import tarfile

import numpy as np
import pytest
import torch

from qkv.data.image_sets import ImageSet, image_remarks, read_image_archive, read_image_folder
from qkv.data.images import ImageConfig, from_array
from qkv.data.labels import Labels
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
    assert images.labels.names == ("ants", "cats")
    assert images.classes == (0, 0, 1, 1)
    names = ["ants/a.png", "ants/more/b.png", "cats/10.png", "cats/2.png"]
    assert images.names == tuple(str(tmp_path / name) for name in names)
    assert len(images) == 4
    for image, name in zip(images, names, strict=True):
        assert saved(image) == GOOD[name]


@pytest.mark.parametrize("root", ["", "train/", "./a/b/"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_gives_what_its_folder_does(tmp_path, root, mode):
    files = {name: content for name, content in GOOD.items() if "more" not in name}
    folder = read_image_folder(write(tmp_path / "f", files))
    path = pack(tmp_path / "a.tar", {root + name: files[name] for name in sorted(files)}, mode)
    packed = read_image_archive(path)
    assert (packed.classes, packed.labels.names) == (folder.classes, folder.labels.names)
    assert torch.equal(packed.pixels("RGB"), folder.pixels("RGB"))
    assert packed.names[0] == f"{root.removeprefix('./')}ants/a.png in {path}"


def test_an_image_can_be_read_more_than_once(tmp_path):
    images = read_image_folder(write(tmp_path / "f", GOOD))
    assert saved(images[2]) == saved(images[2])
    with pytest.raises(IndexError, match="no image 4: there are 4, counted from 0"):
        images[4]


def test_pixels_are_bytes_by_channel():
    arrays = [np.full((3, 5, 3), (10 * i, 1, 2), dtype=np.uint8) for i in range(7)]
    images = ImageSet(
        [str(i) for i in range(7)],
        [i % 2 for i in range(7)],
        Labels(["x", "y"]),
        lambda i: from_array(arrays[i]),
    )
    pixels = images.pixels("RGB")
    assert (pixels.shape, pixels.dtype) == ((7, 3, 3, 5), torch.uint8)
    assert pixels[4, :, 2, 3].tolist() == [40, 1, 2]
    assert images.pixels("L").shape == (7, 1, 3, 5)
    chosen = images.select([5, 0])
    assert (chosen.names, chosen.classes, len(chosen)) == (("5", "0"), (1, 0), 2)
    assert torch.equal(chosen.pixels("RGB"), pixels[[5, 0]])
    both = chosen + images
    assert both.classes == (1, 0, *images.classes)
    assert torch.equal(both.pixels("RGB"), pixels[[5, 0, *range(7)]])
    other = ImageSet(["a"], [0], Labels(["y", "x"]), lambda i: from_array(arrays[i]))
    with pytest.raises(DataError, match=r"Labels\(\['x', 'y'\]\) and .* are not the same classes"):
        images + other
    with pytest.raises(DataError, match="no images, no pixels: expected at least one"):
        images.select([]).pixels("RGB")


def test_images_of_different_sizes_are_no_array(tmp_path):
    files = {"a/1.png": saved(picture()), "b/2.png": saved(picture(5, 11))}
    images = read_image_folder(write(tmp_path, files))
    assert images[1].size == (11, 5)
    with pytest.raises(DataError, match=r"b/2\.png has 11 x 5 pixels, and .*a/1\.png has 7 x 5"):
        images.pixels("RGB")


def transparent():
    image = picture().convert("P")
    image.info["transparency"] = 0
    out = io.BytesIO()
    image.save(out, "PNG", transparency=0)
    return out.getvalue()


BROKEN = {
    "no image": (b"hello", r"bad\.png.* is no image, or of a kind that Pillow does not know"),
    "nothing": (b"", r"bad\.png.* is no image"),
    "four channels": (
        saved(picture(mode="RGBA")),
        r"bad\.png.* has the channels R\+G\+B\+A; expected grey or RGB: save it as RGB",
    ),
    "inks": (saved(picture(mode="CMYK"), "JPEG"), r"bad\.png.* has the channels C\+M\+Y\+K; exp"),
    "grey and alpha": (saved(picture(mode="L").convert("LA")), r"has the channels L\+A"),
    "a transparent colour": (transparent(), r"has the channels P and a transparent colour"),
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
        images.pixels("RGB")
    packed = read_image_archive(pack(tmp_path / "a.tar", files))
    with pytest.raises(DataError, match=r"b/2\.png in .*a\.tar cannot be read as an image"):
        packed[1]


def test_folders_of_another_form_are_refused(tmp_path):
    with pytest.raises(
        DataError, match="nowhere is no folder: expected one with a folder for each"
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
    with pytest.raises(DataError, match=r"classes in 2 folders, such as train, val; .*several par"):
        read_image_archive(pack(tmp_path / "a.tar", several))
    with pytest.raises(DataError, match="has images in no folder"):
        read_image_archive(pack(tmp_path / "b.tar", {"1.png": image, "2.png": image}))
    with pytest.raises(DataError, match=r"c\.tar is a tar without files"):
        read_image_archive(pack(tmp_path / "c.tar", {}))


def test_classes_that_training_had_not_are_refused(tmp_path):
    known, others = Labels(["cats", "dogs", "ants"]), Labels(["dogs", "ants"])
    flat = {name: content for name, content in GOOD.items() if "more" not in name}
    folder, path = write(tmp_path / "f", flat), pack(tmp_path / "a.tar", flat)
    assert read_image_folder(folder, known).classes == (2, 0, 0)
    assert read_image_archive(path, known).classes == (0, 0, 2)
    for read, place in ((read_image_folder, folder), (read_image_archive, path)):
        with pytest.raises(DataError, match="the label 'cats' was never seen in training; known"):
            read(place, others)


def test_remarks_on_images(tmp_path):
    sizes = {"a/1.png": ("RGB", (7, 5)), "a/2.png": ("L", (7, 5)), "b/3.png": ("RGB", (11, 3))}
    for name, (mode, size) in sizes.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pillow.new(mode, size).save(tmp_path / name)
    images = read_image_folder(tmp_path)
    gray = ImageConfig(size=(5, 7), mean=(0.5,), std=(0.5,))
    resized, grayed = image_remarks(images, gray)
    first = f"{images.names[2]}, 3 x 11"
    assert resized == f"1 of 3 images were resized to 5 x 7 pixels; the first: {first}"
    assert grayed.startswith("2 of 3 images had colors and were converted to gray; the first: ")
    assert grayed.endswith(images.names[0])
    assert image_remarks(images.select([0, 1]), ImageConfig(size=(5, 7))) == []
    (edge,) = image_remarks(images, ImageConfig(size=5))
    assert edge.startswith("1 of 3 images were resized to a shorter edge of 5 pixels")
