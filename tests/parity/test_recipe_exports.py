"""What `qkv train` makes of images, in transformers: the same numbers."""

import pytest
import torch
import transformers
from tests.helpers import assert_as_exact, unchecked
from tests.parity.reference import in_float64
from tests.tasks.images.test_recipe import AUGMENTATION, MODEL, SIZE, TRAINING, write_images
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from qkv.tasks.images import TASK, ImageRecipe, Recognizer
from qkv.tasks.splits import DataConfig
from qkv.tasks.train import train as train_by
from qkv.training.settings import Training

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def test_a_recognizer_loads_and_says_the_same(tmp_path):
    train = write_images(tmp_path / "train")
    with unchecked():
        recipe = ImageRecipe(
            output=tmp_path / "made",
            data=DataConfig(train=str(train), validation_fraction=0.2),
            augmentation=AUGMENTATION,
            model=MODEL,
            training=Training(**TRAINING),
            device="cpu",
        )
        train_by(TASK, recipe)
    model, report = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "made", output_loading_info=True
    )
    assert not any(report.values())
    assert type(model) is transformers.ViTForImageClassification
    assert model.config.id2label == {0: "dark", 1: "light"}
    assert tuple(model.config.image_size) == SIZE
    processor = ViTImageProcessorPil.from_pretrained(tmp_path / "made")
    recognizer = Recognizer.load(tmp_path / "made")
    files = sorted(train.rglob("1*.png"))
    pixels = recognizer.preprocessor(files)
    assert tuple(processor.image_mean) == recognizer.preprocessor.config.mean
    with torch.inference_mode():
        expected = model.eval()(pixels).logits.softmax(-1)
        exact = in_float64(model)(pixels.double()).logits.softmax(-1)
    found = recognizer.probabilities(files)
    assert_as_exact(found, expected, exact)
    assert found.std(0).min() > 1e-4
