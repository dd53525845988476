"""What ViT's and DeiT's config.json may say, and models of ours that no published one is."""

import pytest
import torch
from tests.checkpoints.tiny import TINY
from tests.helpers import assert_close, randomized

from qkv.checkpoints.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from qkv.checkpoints.reader import open_weights
from qkv.checkpoints.registry import family_of
from qkv.errors import ConfigError
from qkv.models.heads import SequenceClassifier
from qkv.models.vit import DistilledClassifier, ViT, ViTConfig

SIZES = {
    "image_size": (34, 15),
    "patch_size": (17, 3),
    "n_channels": 2,
    "d_model": 22,
    "n_heads": 11,
    "d_ff": 29,
    "n_layers": 2,
}


def read(model_type="vit", name=None, **fields):
    family = family_of(model_type)
    return family.read_config({**TINY[model_type], **fields}, family.architecture(name))


def test_sizes_are_numbers_or_pairs():
    assert read(image_size=15, patch_size=5).grid == (3, 3)
    assert read(image_size=[15, 7]).grid == (3, 2)
    for size in (15.0, "15", [15], [15, 7, 3], None):
        with pytest.raises(
            ConfigError, match=r"is not a size; expected a number, or height and wi"
        ):
            read(image_size=size)


def test_the_size_of_the_pooler_must_be_that_of_the_model():
    assert read(pooler_output_size=22, pooler_act="tanh").pooler
    with pytest.raises(ConfigError, match="pooler_output_size = 23 is not implemented for vit"):
        read(pooler_output_size=23)
    with pytest.raises(ConfigError, match="pooler_act = 'relu' is not implemented"):
        read(pooler_act="relu")


def test_models_that_are_not_implemented_are_named():
    with pytest.raises(ConfigError, match="'ViTForMaskedImageModeling' of vit is not implemented"):
        read(name="ViTForMaskedImageModeling")


MODELS = {
    "mean": lambda: SequenceClassifier(ViT(ViTConfig(**SIZES, class_token=False)), 5, pool="mean"),
    "class token": lambda: SequenceClassifier(ViT(ViTConfig(**SIZES)), 5, pool="first"),
    "distilled": lambda: DistilledClassifier(ViT(ViTConfig(**SIZES, distillation_token=True)), 5),
    "pooler": lambda: ViT(ViTConfig(**SIZES, pooler=True)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_of_ours_comes_back(kind, tmp_path):
    model = randomized(MODELS[kind]())
    save_checkpoint(Checkpoint(model), tmp_path / "model")
    again = load_checkpoint(tmp_path / "model")
    assert again.config["model_type"] == ("deit" if kind == "distilled" else "vit")
    assert again.model.config == model.config
    images = torch.randn(3, 2, 34, 15, dtype=torch.float64)
    assert_close(again.model(images), model(images))


def test_a_head_that_the_file_would_not_say_is_refused(tmp_path):
    model = SequenceClassifier(ViT(ViTConfig(**SIZES)), 5, pool="mean")
    with pytest.raises(ConfigError, match="cannot be saved"):
        save_checkpoint(Checkpoint(model), tmp_path / "model")


def test_what_a_model_does_not_read_is_kept(tmp_path):
    base = randomized(MODELS["pooler"](), torch.float32)
    save_checkpoint(Checkpoint(base), tmp_path / "base")
    loaded = load_checkpoint(
        tmp_path / "base", new=["classifier"], architecture="ViTForImageClassification"
    )
    assert loaded.model.encoder.pooler is None
    save_checkpoint(loaded, tmp_path / "classifier")
    names = set(open_weights(tmp_path / "classifier"))
    assert {"vit.pooler.dense.weight", "classifier.weight"} <= names
    assert torch.equal(loaded.model.encoder.positions, base.positions)
