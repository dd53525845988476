"""`qkv train` on images: where they come from, runs that are stopped, and what is written."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.checkpoints.folders import model as tiny
from tests.helpers import unchecked

import qkv.tasks.images as page
from qkv.checkpoints.checkpoint import Checkpoint, save_checkpoint
from qkv.data.augmentation import Augmentation
from qkv.data.image_config import FILE_NAME, write_image_config
from qkv.data.images import ImageConfig
from qkv.errors import ConfigError, DataError
from qkv.models.vit import ViTConfig
from qkv.tasks.finetuning import FineTuning
from qkv.tasks.images import TASK, ImageRecipe, Recognizer
from qkv.tasks.splits import DataConfig, Source, read_splits
from qkv.tasks.train import train
from qkv.training.settings import Training

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
    def run(output, *, fresh=False, model=MODEL, data=None, start="published", **options):
        fields = {name: options.pop(name) for name in ("base", "finetuning") if name in options}
        images = {"train": (str(folder),), "validation_fraction": 0.2} | (data or {})
        recipe = ImageRecipe(
            output=output,
            data=DataConfig(**images),
            augmentation=AUGMENTATION,
            model=model,
            start=start,
            training=Training(**TRAINING | options),
            device="cpu",
            fresh=fresh,
            **fields,
        )
        with unchecked():
            train(TASK, recipe)
        return output

    return run


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_learns_and_writes_what_it_did(fit, tmp_path, capsys):
    made = fit(tmp_path / "made", epochs=20.0)
    results = json.loads((made / "results.json").read_text())
    assert results["validation"]["accuracy"] > 0.9
    assert "test" not in results
    assert results["train_examples"] == 28
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


def test_a_run_that_was_stopped_ends_as_one_that_was_not(fit, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    calls, original = itertools.count(1), page.image_loss

    def loss(*arguments, **names):
        if next(calls) == 4:
            raise ZeroDivisionError("killed")
        return original(*arguments, **names)

    with monkeypatch.context() as patch:
        patch.setattr(page, "image_loss", loss)
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
    images = write_images(tmp_path / "images")
    data = {"train": (str(images),)}
    made = fit(tmp_path / "made", data=data)
    pillow.new("L", SIZE[::-1], 200).save(images / "light" / "0.png")
    with pytest.raises(ConfigError, match="recipe data_checksum was"):
        fit(made, data=data)
    fit(made, data=data, fresh=True)


@pytest.mark.parametrize(
    ("model", "training", "message"),
    [
        ({"n_channels": 4}, {}, r"model\.n_channels = 4.*expected 1 \(gray\) or 3 \(RGB\)"),
        ({"pooler": True}, {}, r"pooler = True"),
        (
            {},
            {"batch_size": None, "max_tokens": 99},
            r"max_tokens = 99; ImageRecipe needs training\.batch_size",
        ),
    ],
)
def test_recipes_that_cannot_be_followed(fit, tmp_path, model, training, message):
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "made", model=dataclasses.replace(MODEL, **model), **training)


def read(train, **options):
    return read_splits(TASK, DataConfig(train=(str(train),), **options))


def names(examples):
    return [one.name for one in examples]


def test_splits_have_each_image_once(folder):
    splits = read(folder, validation_fraction=0.3)
    assert len(splits.test) == 0
    both = [*names(splits.train), *names(splits.validation)]
    assert sorted(both) == sorted(str(path) for path in folder.rglob("*.png"))
    labels = [one.label for one in splits.validation]
    assert labels == ["dark"] * 5 + ["light"] * 5  # 5 of 17 each
    again = read(folder, validation_fraction=0.3)
    assert names(again.validation) == names(splits.validation)
    few = read(folder, validation_fraction=0.3, limit=7)
    assert len(few.train) == 7
    assert set(names(few.train)) <= set(names(splits.train))
    assert names(few.validation) == names(splits.validation)


def test_another_split_may_have_fewer_classes_but_no_others(fit, folder, tmp_path):
    test = write_images(tmp_path / "test", n=3, names=("light", "dim"), seed=1)
    with pytest.raises(DataError, match=r"data\.test, '.*': the label 'dim' was never seen in tr"):
        fit(tmp_path / "made", data={"test": str(test)})
    assert not (tmp_path / "made.training").exists()
    one = write_images(tmp_path / "one", n=3, names=("light",), seed=1)
    with pytest.raises(DataError, match=r"1 classes: .* expected two or more"):
        read(one)


def test_a_named_set_has_its_own_splits():
    pytest.importorskip("sklearn")
    splits = read("digits")
    assert [len(split) for split in splits] == [718, 180, 899]
    same = Source(TASK, {}).read("digits:test", "train")
    assert [one.label for one in same] == [one.label for one in splits.test]
    with pytest.raises(DataError, match="no split 'rest' of digits"):
        Source(TASK, {}).read("digits:rest", "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": "a", "test": "a"}, r"data names a twice; expected another source for each"),
        ({"train": "digits", "test": "digits:train"}, r"data names digits:train twice"),
    ],
)
def test_data_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        read(**options)


def test_what_is_no_source_is_named():
    with pytest.raises(DataError, match=r"'nowhere' is neither a folder of images, nor a tar arch"):
        read("nowhere")


def write_base(folder, model_type="vit", architecture=None):
    """A pretrained encoder of images of 15 x 11 pixels in color, 22 wide."""
    one = tiny(model_type, architecture)
    with torch.no_grad():
        for name, p in one.named_parameters():
            p.mul_(0.5 if p.ndim > 1 else 0.2).add_(float(name.endswith("norm.weight")))
    images = ImageConfig(size=(15, 11), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1))
    content = json.dumps(write_image_config(images)).encode()
    config = {"model_type": model_type, "problem_type": "regression"}
    files = {FILE_NAME: content, "results.json": b"{}"}
    save_checkpoint(Checkpoint(one, config), folder, files=files)
    return str(folder)


def test_a_base_is_fine_tuned(fit, tmp_path, capsys):
    base = write_base(tmp_path / "base")
    options = {"base": base, "model": ImageRecipe.model, "learning_rate": 3e-3}
    made = fit(tmp_path / "made", epochs=12.0, **options)
    results = json.loads((made / "results.json").read_text())
    assert results["validation"]["accuracy"] > 0.9
    assert results["trained_parameters"] == results["parameters"]
    out = capsys.readouterr().out
    assert "28 of 28 images were resized to 15 x 11 pixels; the first: " in out
    loaded = Recognizer.load(made)
    assert loaded.labels.names == ("dark", "light")
    assert loaded.preprocessor.config == ImageConfig(
        size=(15, 11), mean=(0.4, 0.5, 0.6), std=(0.3, 0.2, 0.1)
    )
    assert "problem_type" not in json.loads((made / "config.json").read_text())
    assert loaded(pillow.new("RGB", (31, 47), "white")).label == "light"
    head = fit(tmp_path / "head", finetuning=FineTuning(train="head"), **options)
    before, after = weights(tmp_path / "base"), weights(head)
    changed = {
        name
        for name, tensor in after.items()
        if name.removeprefix("vit.") not in before
        or not torch.equal(tensor, before[name.removeprefix("vit.")])
    }
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"base = .* with model; expected no other value than the default: sizes"),
        ({"start": "by_width"}, r"base = .* with model, start; expected no other value"),
        (
            {"model": ImageRecipe.model, "finetuning": FineTuning(train="scratch")},
            r"with finetuning\.train; expected no other value",
        ),
        ({"base": None, "finetuning": FineTuning(train="head")}, "base = null with finetuning.tr"),
    ],
)
def test_sizes_beside_a_base_are_refused(fit, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path / "made", **{"base": "some/base"} | options)
