"""Published vision models come with their preparation of images, and are saved with it."""

import dataclasses
import json

import PIL.Image
import pytest
from tests.checkpoints.tiny import TINY
from tests.helpers import assert_close, randomized

from qkv.checkpoints.registry import family_of
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.errors import ConfigError, DataError
from qkv.models.bert import Bert
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import ViT, ViTConfig
from qkv.tasks.pretrained import Loaded, load, save

FILE = "preprocessor_config.json"
PROCESSOR = ImageProcessor(ImageConfig(size=(16, 11), resample="bicubic"))


def vit(**options):
    config = ViTConfig(
        image_size=(16, 11), patch_size=(8, 5), d_model=22, n_heads=11, d_ff=13, n_layers=1
    )
    encoder = ViT(dataclasses.replace(config, **options))
    return randomized(SequenceClassifier(encoder, 5, pool="first"))


def test_a_vision_model_and_its_preprocessor_come_back(tmp_path):
    images, model = [tmp_path / "image.png"], vit()
    save(Loaded(model, preprocessor=PROCESSOR), tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.preprocessor.config == PROCESSOR.config
    assert loaded.tokenizer is None
    PIL.Image.new("RGB", (31, 17), "red").save(images[0])
    # Not bit by bit: kernels start elsewhere in weights that are mapped to a file.
    pixels, others = loaded.preprocessor(images).double(), PROCESSOR(images).double()
    assert_close(loaded.model(pixels), model(others))


def test_the_file_stays_as_it_was_unless_the_preprocessor_changed(tmp_path):
    save(Loaded(vit()), tmp_path / "model")
    assert load(tmp_path / "model").preprocessor is None
    written = '{"size": [16, 11],\n "feature_extractor_type": "ViTFeatureExtractor"}'
    (tmp_path / "model" / FILE).write_text(written)
    loaded = load(tmp_path / "model")
    assert loaded.preprocessor.config == ImageConfig(size=(16, 11))
    save(loaded, tmp_path / "same")
    assert (tmp_path / "same" / FILE).read_text() == written
    save(dataclasses.replace(loaded, preprocessor=PROCESSOR), tmp_path / "other")
    assert load(tmp_path / "other").preprocessor.config == PROCESSOR.config


def test_a_preprocessor_for_other_channels_is_refused(tmp_path):
    save(Loaded(vit(n_channels=1), preprocessor=PROCESSOR), tmp_path / "model")
    with pytest.raises(DataError, match=rf"{FILE} makes images of 3 channels, but .* expects 1"):
        load(tmp_path / "model")


def test_a_preprocessor_that_is_not_implemented_is_named_with_its_file(tmp_path):
    save(Loaded(vit()), tmp_path / "model")
    (tmp_path / "model" / FILE).write_text(json.dumps({"do_pad": True}))
    with pytest.raises(ConfigError, match=rf"{FILE}: do_pad = True is not implemented"):
        load(tmp_path / "model")


def test_a_model_of_text_has_no_preprocessor(tmp_path):
    family = family_of("bert")
    model = Bert(family.read_config(TINY["bert"], family.architecture("BertModel")))
    save(Loaded(model), tmp_path / "model")
    (tmp_path / "model" / FILE).write_text("{}")
    assert load(tmp_path / "model").preprocessor is None
