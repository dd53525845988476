"""Named sets of images and IDX files: published sizes, and files that are not what they say."""

import gzip
import os
import struct
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qkv.data.idx import read_idx
from qkv.data.sets import fashion_mnist as module
from qkv.data.sets import load_set
from qkv.data.sets.fashion_mnist import fashion_mnist
from qkv.errors import DataError, MissingDependencyError

pytest.importorskip("PIL")


def idx(array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("name", ["a-ubyte", "a-ubyte.gz"])
@pytest.mark.parametrize("shape", [(7, 3, 5), (11,), (0, 3, 5)])
def test_an_array_comes_back(tmp_path, name, shape):
    array = np.random.default_rng(0).integers(0, 256, shape)
    content = idx(array)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    found = read_idx(tmp_path / name, len(shape))
    assert found.dtype == np.uint8
    assert np.array_equal(found, array)


IMAGES = idx(np.arange(105).reshape(7, 3, 5))
BROKEN = {
    "nothing": (b"", "begins with nothing, expected 00 00 08 03, an IDX file of bytes with 3 dim"),
    "only the beginning": (IMAGES[:10], "begins with 00 00 08 03, expected 00 00 08 03"),
    "classes": (idx(np.arange(5)), "begins with 00 00 08 01, expected .*are the files swapped"),
    "floats": (b"\0\0\x0d\x03" + IMAGES[4:], "begins with 00 00 0d 03, expected 00 00 08 03"),
    "packed": (gzip.compress(IMAGES), r"begins with 1f 8b .*compressed without \.gz in its name"),
    "truncated": (
        IMAGES[:-1],
        r"has 104 numbers, expected 105 by its header \(7 x 3 x 5; is it truncated",
    ),
    "too long": (IMAGES + b"\0", "has 106 numbers, expected 105"),
    "huge": (
        struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3),
        "has 0 numbers, expected 79228162458924105385300197375 by its header",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(DataError, match=rf"images {message}"):
        read_idx(tmp_path / "images", 3)


def write_fashion(folder, n_train=12, n_test=4, packed=True):
    (folder / "fashion-mnist").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for prefix, n in {"train": n_train, "t10k": n_test}.items():
        arrays = {
            "images-idx3": rng.integers(0, 256, (n, 28, 28)),
            "labels-idx1": np.arange(n) % 10,
        }
        for kind, array in arrays.items():
            content = gzip.compress(idx(array)) if packed else idx(array)
            name = f"{prefix}-{kind}-ubyte" + ".gz" * packed
            (folder / "fashion-mnist" / name).write_bytes(content)
    return folder / "fashion-mnist"


def pixels_of(examples):
    return np.stack([np.array(one.open()) for one in examples])


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_is_found_in_the_data_folder(tmp_path, monkeypatch, packed):
    write_fashion(tmp_path, packed=packed)
    monkeypatch.setattr(module, "N_VALIDATION", 5)
    train, validation, test = (
        load_set("recognize", "fashion_mnist", split, tmp_path)
        for split in ("train", "validation", "test")
    )
    assert [len(part) for part in (train, validation, test)] == [7, 5, 4]
    pixels, classes = fashion_mnist("train", tmp_path)
    whole = [*train, *validation]
    assert np.array_equal(pixels_of(whole), pixels)
    assert [one.label for one in whole] == [module.NAMES[number] for number in classes]
    assert train[0].open().size == (28, 28)
    assert train[3].name == "image 3 of fashion_mnist, train"
    both = load_set("recognize", "fashion_mnist", "train+validation", tmp_path)
    assert np.array_equal(pixels_of(both), pixels)
    assert [one.label for one in both] == [one.label for one in whole]


def test_fashion_mnist_that_is_missing_or_mixed_up_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "DEBIAN", tmp_path / "nowhere")
    monkeypatch.setenv("QKV_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=rf"looked for {tmp_path}.fashion-mnist and {tmp_path}.nowhere \(on Debian"
    ):
        fashion_mnist("train")
    folder = write_fashion(tmp_path)
    assert len(fashion_mnist("train")[0]) == 12
    images, labels = (folder / f"train-{k}-ubyte.gz" for k in ("images-idx3", "labels-idx1"))
    labels.write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    with pytest.raises(DataError, match=r"has 12 images, and .*labels-idx1-ubyte\.gz 4 classes up"):
        fashion_mnist("train")
    labels.write_bytes(gzip.compress(idx(np.arange(12))))
    with pytest.raises(DataError, match=r"12 classes up to 11; expected .* from 0 to 9"):
        fashion_mnist("train")
    labels.write_bytes(images.read_bytes())
    with pytest.raises(DataError, match="begins with 00 00 08 03, expected 00 00 08 01"):
        fashion_mnist("train")
    images.unlink()
    with pytest.raises(DataError, match=r"cannot read .*train-images-idx3-ubyte"):
        fashion_mnist("train")


def test_the_real_fashion_mnist():
    given = Path(os.environ.get("QKV_DATA", "/nowhere"), "fashion-mnist")
    if not (given.is_dir() or module.DEBIAN.is_dir()):
        pytest.skip("needs Fashion-MNIST: Debian's package dataset-fashion-mnist")
    pixels, classes = fashion_mnist("test")
    assert pixels.shape == (10_000, 28, 28)
    assert {*Counter(classes.tolist()).values()} == {1_000}
    # The mean that everyone normalizes by is of the training images, 0.2860; this is close.
    assert pixels.mean() / 255 == pytest.approx(0.2868, abs=0.0005)
    assert module.NAMES[classes[0]] == "Ankle boot"
    training, of_training = fashion_mnist("train")
    assert training.shape == (60_000, 28, 28)
    assert {*Counter(of_training.tolist()).values()} == {6_000}
    assert (training.mean() / 255, training.std() / 255) == pytest.approx(
        (0.2860, 0.3530), abs=1e-4
    )


def test_the_digits_are_split_as_scikit_learn_does():
    datasets, selection = pytest.importorskip("sklearn.datasets"), "sklearn.model_selection"
    given = datasets.load_digits()
    split = pytest.importorskip(selection).train_test_split(
        given.images, given.target, test_size=0.5, shuffle=False
    )
    train, validation, test = (
        load_set("recognize", "digits", part) for part in ("train", "validation", "test")
    )
    assert [len(part) for part in (train, validation, test)] == [718, 180, 899]
    whole = [*train, *validation]
    labels = [[one.label for one in examples] for examples in (whole, test)]
    assert labels == [list(map(str, split[2])), list(map(str, split[3]))]
    # 17 shades of gray stay as many, the darkest 0 and the lightest 255.
    pixels = pixels_of(whole)
    assert np.array_equal(np.round(pixels * (16 / 255)), split[0])
    assert (len(np.unique(pixels)), pixels.min(), pixels.max()) == (17, 0, 255)
    both = load_set("recognize", "digits", "train+validation")
    assert np.array_equal(pixels_of(both), pixels)
    assert [one.label for one in both] == labels[0]


def test_the_written_digits_are_ten_of_each_in_forty_fonts():
    for split, of_each in (("dark", 10), ("light", 10), ("mouse", 2)):
        examples = load_set("recognize", "written_digits", split)
        assert Counter(one.label for one in examples) == dict.fromkeys("0123456789", of_each)
        assert len({one.name for one in examples}) == len(examples)
        for one in examples:
            pixels = np.asarray(one.open(), dtype=float)
            border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
            paper = np.median(border)
            ink = pixels.min() if split != "light" else pixels.max()
            assert (ink < paper - 50) if split != "light" else (ink > paper + 50), one.name
    fonts = [
        one.name.partition(" of ")[2]
        for split in ("dark", "light")
        for one in load_set("recognize", "written_digits", split)
    ]
    assert set(Counter(fonts).values()) == {5}
    assert len(set(fonts)) == 40


def test_what_is_not_there_is_answered_with_what_is(tmp_path, monkeypatch):
    with pytest.raises(
        DataError,
        match="no data set 'mnist' to recognize; expected digits, fashion_mnist",
    ):
        load_set("recognize", "mnist", "train")
    with pytest.raises(DataError, match="no split 'dev' of digits; expected train, validation"):
        load_set("recognize", "digits", "dev")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"scikit-learn: pip install \"qkv\[train\]"):
        load_set("recognize", "digits", "train")
