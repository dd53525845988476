"""Recognizers: order, batches, the shape of answers, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tests.helpers import randomized

from qkv.data.image_sets import ImageExample
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.errors import ConfigError, DataError
from qkv.models.bert import Bert, BertConfig
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import ViT, ViTConfig
from qkv.tasks.images import Recognizer
from qkv.tasks.pretrained import Loaded, save

pillow = pytest.importorskip("PIL.Image")
NAMES = ("ant", "bee", "cicada")
SIZES = [(13, 11), (31, 7), (11, 13), (17, 5), (3, 29)]


def recognizer(names=NAMES, channels=3):
    config = ViTConfig(
        image_size=(13, 11),
        patch_size=(5, 3),
        n_channels=channels,
        d_model=22,
        n_heads=11,
        d_ff=17,
        n_layers=2,
    )
    model = randomized(SequenceClassifier(ViT(config), len(NAMES), pool="first"), torch.float64)
    numbers = (0.5,) * channels
    images = ImageProcessor(ImageConfig(size=(13, 11), mean=numbers, std=numbers))
    said = {"id2label": {str(i): name for i, name in enumerate(names)}} if names else {}
    return Recognizer(Loaded(model, preprocessor=images, config=said))


def pictures(mode="RGB"):
    rng = np.random.default_rng(0)
    return [
        pillow.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).convert(mode)
        for size in SIZES
    ]


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(SIZES))]
    for path, image in zip(paths, pictures(), strict=True):
        image.save(path)
    return paths


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_batched_is_single_and_in_order(rows):
    model = recognizer()
    together = model.probabilities(pictures(), rows=rows)
    alone = torch.cat([model.probabilities([image]) for image in pictures()])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(together.sum(1), torch.ones(5).double(), rtol=0, atol=1e-12)
    assert together.std(0).min() > 1e-3  # not all the same


def test_one_image_gives_one_answer_and_a_list_a_list(files):
    model = recognizer()
    found = model(files)
    assert [one.image for one in found] == [str(path) for path in files]
    assert model(files[1]) == model(str(files[1]))
    assert model(files[1]).probabilities == pytest.approx(found[1].probabilities, abs=1e-12)
    rows = model.probabilities(files).tolist()
    for one, row in zip(found, rows, strict=True):
        assert one.probabilities == pytest.approx(dict(zip(NAMES, row, strict=True)))
        assert list(one.probabilities.values()) == sorted(row, reverse=True)
        assert (one.label, one.probability) == next(iter(one.probabilities.items()))
        assert json.loads(json.dumps(dataclasses.asdict(one)))["label"] == one.label
    assert model(pictures()[1]).probabilities == model(files[1]).probabilities
    assert model(pictures()[1]).image == "an image"


def test_what_is_transparent_is_white_and_grey_has_three_channels():
    model = recognizer()
    clear = pillow.new("RGBA", (7, 5), (255, 0, 0, 0))
    assert model(clear).probabilities == model(pillow.new("RGB", (7, 5), "white")).probabilities
    grey = pictures("L")[0]
    assert model(grey).probabilities == model(grey.convert("RGB")).probabilities
    colours = pictures()[0]
    of_grey = recognizer(channels=1)
    assert of_grey(colours).probabilities == of_grey(colours.convert("L")).probabilities


def test_without_names_classes_are_numbered():
    assert recognizer(names=()).labels.names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_scores_by_hand():
    model, images = recognizer(), pictures()
    found = [one.label for one in model(images)]
    truth = [*found[:-2], *(NAMES[(NAMES.index(label) + 1) % 3] for label in found[-2:])]
    examples = [ImageExample(str(i), label, lambda i=i: images[i]) for i, label in enumerate(truth)]
    scores = model.evaluate(examples)
    assert scores.accuracy == pytest.approx(3 / 5)
    assert [one.label for one in scores.classes] == list(NAMES)
    assert model.evaluate(examples[::-1]).confusion == scores.confusion
    foreign = [*examples, ImageExample("the sixth", "wasp", lambda: images[0])]
    with pytest.raises(DataError, match="the sixth: the label 'wasp' was never seen in training"):
        model.evaluate(foreign)
    with pytest.raises(DataError, match="there are no images; expected at least one"):
        model.evaluate([])
    # To score what was made transparent by mistake would be to score a guess of its background.
    clear = ImageExample("clear.png", NAMES[0], lambda: pillow.new("RGBA", (7, 5)))
    with pytest.raises(DataError, match=r"clear\.png has the channels R\+G\+B\+A; expected"):
        model.evaluate([clear])


def test_bad_images_are_named(tmp_path, files):
    files[2].write_bytes(files[2].read_bytes()[:50])
    (tmp_path / "text.png").write_text("no image")
    model = recognizer()
    with pytest.raises(DataError, match=r"2\.png cannot be read as an image"):
        model(files)
    with pytest.raises(DataError, match=r"text\.png is not an image"):
        model(tmp_path / "text.png")
    with pytest.raises(DataError, match="there are no images; expected at least one"):
        model([])
    with pytest.raises(DataError, match=r"an image has Pillow's mode 'I;16', more than 8 bits"):
        model(pillow.new("I;16", (5, 5)))


def test_another_kind_of_model_is_refused(tmp_path):
    bert = Bert(BertConfig(vocab_size=7, d_model=6, n_heads=2, d_ff=5, n_layers=1, n_positions=11))
    with pytest.raises(
        ConfigError,
        match=r"is a Bert with no preprocessor; expected a model that was trained to classify",
    ):
        Recognizer(Loaded(bert))
    without = dataclasses.replace(recognizer().loaded, preprocessor=None)
    with pytest.raises(ConfigError, match="is a SequenceClassifier with no preprocessor"):
        Recognizer(without)
    save(Loaded(recognizer().model.float()), tmp_path / "model")
    with pytest.raises(
        ConfigError, match=r"model: the model is a SequenceClassifier with no preprocessor"
    ):
        Recognizer.load(tmp_path / "model")
