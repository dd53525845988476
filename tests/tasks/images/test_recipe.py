"""`qkv train` on images: where they come from, runs that are stopped, and what is written."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import unchecked

import qkv.tasks.images.recipe as recipes
from qkv.data.augmentation import Augmentation
from qkv.data.images import ImageConfig
from qkv.data.labels import Labels
from qkv.errors import ConfigError, DataError
from qkv.models.vit import ViTConfig
from qkv.tasks.images.data import Images, bytes_of, read_images
from qkv.tasks.images.recipe import statistics, train_recognizer
from qkv.tasks.images.recognizer import Recognizer
from qkv.tasks.recipe import Training

pillow = pytest.importorskip("PIL.Image")
SIZE = (7, 5)
MODEL = ViTConfig(
    image_size=SIZE, patch_size=(3, 2), n_channels=1, d_model=22, n_heads=11, d_ff=13, n_layers=1
)
TRAINING = {"epochs": 2.0, "batch_size": 11, "learning_rate": 1e-2, "warmup": 0.0, "save_every": 2}
AUGMENTATION = Augmentation(rotate=5.0, shift=1, erase=0.2)


def write_images(folder, n=17, names=("dark", "light"), seed=0):
    """Images that are told apart by how light they are."""
    rng = np.random.default_rng(seed)
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for j in range(n):
            pixels = rng.integers(120 * i, 120 * i + 100, SIZE, dtype=np.uint8)
            pillow.fromarray(pixels).save(folder / name / f"{j}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images") / "train")


@pytest.fixture
def fit(folder):
    def run(output, *, fresh=False, model=MODEL, data=None, start="published", **training):
        with unchecked():
            train_recognizer(
                output=output,
                data=Images(**{"train": str(folder), "validation_share": 0.2} | (data or {})),
                augmentation=AUGMENTATION,
                model=model,
                start=start,
                training=Training(**TRAINING | training),
                device="cpu",
                fresh=fresh,
            )
        return output

    return run


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_learns_and_writes_what_it_did(fit, tmp_path, capsys):
    made = fit(tmp_path / "made", epochs=20.0)
    results = json.loads((made / "results.json").read_text())
    assert results["validation"]["accuracy"] > 0.9
    assert results["test"] is None
    assert results["parameters"] == sum(x.numel() for x in weights(made).values())
    assert results["recipe"]["augmentation"]["shift"] == 1
    out = capsys.readouterr().out
    assert "2 classes: dark (" in out
    assert f"try it: qkv recognize --model {made} image.png" in " ".join(out.split())
    model = Recognizer.load(made)
    assert model.labels.names == ("dark", "light")
    assert model(pillow.new("RGB", (31, 47), "white")).label == "light"
    assert model(pillow.new("L", (31, 47), 20)).label == "dark"
    config = json.loads((made / "config.json").read_text())
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["label2id"] == {"dark": 0, "light": 1}


@pytest.mark.parametrize("at", [2, 4])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(fit, tmp_path, monkeypatch, at):
    whole = fit(tmp_path / "whole")
    calls, original = itertools.count(1), recipes.image_loss

    def loss(*arguments, **names):
        if next(calls) == at:
            raise ZeroDivisionError("killed")
        return original(*arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(recipes, "image_loss", loss)
        with pytest.raises(ZeroDivisionError):
            fit(tmp_path / "stopped")
    stopped = fit(tmp_path / "stopped")
    expected = weights(whole)
    for name, tensor in weights(stopped).items():
        assert torch.equal(tensor, expected[name]), name
    other = weights(fit(tmp_path / "other", seed=5))
    assert any(not torch.equal(expected[name], other[name]) for name in expected)


def test_the_start_is_part_of_the_recipe(fit, tmp_path):
    made = [fit(tmp_path / start, start=start, epochs=0.1) for start in ("published", "by_width")]
    name = next(name for name in weights(made[0]) if "position" in name)
    small, large = (weights(folder)[name].std() for folder in made)
    assert small < 0.05
    assert large > 0.5
    assert json.loads((made[1] / "results.json").read_text())["recipe"]["start"] == "by_width"


def test_another_start_is_refused(fit, tmp_path):
    with pytest.raises(ConfigError, match="start = 'width'; expected published or by_width"):
        fit(tmp_path / "made", start="width")
    assert not (tmp_path / "made").exists()


def test_other_images_are_another_run(fit, tmp_path, folder):
    made = fit(tmp_path / "made")
    other = write_images(tmp_path / "other", seed=9)
    with pytest.raises(ConfigError, match="checksum of the images"):
        fit(made, data={"train": str(other)})
    fit(made, data={"train": str(other)}, fresh=True)


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({"n_channels": 4}, {}, r"model\.n_channels = 4.*expected 1 \(grey\) or 3 \(RGB\)"),
        ({"pooler": True}, {}, r"pooler = True"),
        ({}, {"batch_size": None, "max_tokens": 99}, r"training\.max_tokens = 99.*batch_size"),
    ],
)
def test_recipes_that_cannot_be_followed(fit, tmp_path, model, training, message):
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "made", model=dataclasses.replace(MODEL, **model), **training)


def test_parts_have_each_image_once(folder, tmp_path):
    parts = Images(train=str(folder), validation_share=0.3).parts()
    assert parts.labels.names == ("dark", "light")
    assert parts.test is None
    names = [*parts.train.names, *parts.validation.names]
    assert sorted(names) == sorted(str(path) for path in folder.rglob("*.png"))
    assert 3 < len(parts.validation) < 18
    again = Images(train=str(folder), validation_share=0.3).parts()
    assert again.validation.names == parts.validation.names
    few = Images(train=str(folder), validation_share=0.3, limit=7).parts()
    assert len(few.train) == 7
    assert set(few.train.names) <= set(parts.train.names)
    assert few.validation.names == parts.validation.names
    test = write_images(tmp_path / "test", n=3, names=("light",), seed=1)
    with pytest.raises(DataError, match=r"1 classes: .* expected two or more"):
        read_images(str(test), "test")
    known = read_images(str(test), "test", known=Labels(["dark", "light"]))
    assert known.classes == (1, 1, 1)


def test_a_named_set_has_its_own_parts():
    pytest.importorskip("sklearn")
    parts = Images(train="digits").parts()
    assert [len(part) for part in parts[1:]] == [718, 180, 899]
    other = read_images("digits", "test", known=Labels([*"9876543210"]))
    same = read_images("digits:test", "train")
    assert other.labels.names == tuple("9876543210")
    assert [9 - number for number in other.classes] == list(same.classes)
    with pytest.raises(DataError, match="no split 'rest' of digits"):
        read_images("digits:rest", "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"data\.limit = 0; expected at least 1 of the images"),
        ({"validation_share": 1.0}, r"data\.validation_share = 1\.0; expected between 0 and 1"),
        ({"train": "a", "test": "a"}, r"data names a twice; expected other images"),
        ({"train": "digits", "test": "digits:train"}, r"data names digits:train twice"),
    ],
)
def test_data_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Images(**options)


def test_what_is_no_source_is_said():
    with pytest.raises(DataError, match=r"'nowhere' is no folder of images, no tar of one"):
        read_images("nowhere", "train")


def test_bytes_are_those_of_the_images_and_statistics_theirs(folder):
    images = read_images(str(folder), "train")
    pixels = bytes_of(images, ImageConfig(size=SIZE, mean=(0.0,), std=(1.0,)))
    assert pixels.shape == (34, 1, *SIZE)
    assert torch.equal(pixels, images.pixels("L"))
    shares = pixels.double() / 255
    found = statistics(pixels)
    assert found["mean"] == (pytest.approx(shares.mean().item(), abs=1e-4),)
    assert found["std"] == (pytest.approx(shares.std().item(), abs=1e-4),)
    assert statistics(torch.zeros(3, 1, 2, 2, dtype=torch.uint8))["std"] == (1.0,)
