"""What `qkv train` makes of images and of plain text, in transformers: the same numbers."""

import pytest
import torch
import transformers
from tests.helpers import assert_as_exact, unchecked
from tests.parity.causal import compare_logits
from tests.parity.reference import in_float64
from tests.tasks.images.test_recipe import AUGMENTATION, MODEL, SIZE, TRAINING, write_images
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from qkv.generation.sampling import Sampling
from qkv.tasks.generation.data import Corpus
from qkv.tasks.generation.generator import Generator
from qkv.tasks.generation.recipe import Decoder, train_language_model
from qkv.tasks.images.data import Images
from qkv.tasks.images.recipe import train_recognizer
from qkv.tasks.images.recognizer import Recognizer
from qkv.tasks.recipe import Training

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TEXT = "the cat sat on the mat, and the rat ran. " * 29


def test_a_recognizer_loads_and_says_the_same(tmp_path):
    train = write_images(tmp_path / "train")
    with unchecked():
        train_recognizer(
            output=tmp_path / "made",
            data=Images(train=str(train), validation_share=0.2),
            augmentation=AUGMENTATION,
            model=MODEL,
            training=Training(**TRAINING),
            device="cpu",
        )
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


@pytest.mark.parametrize(("tokenizer", "vocab_size"), [("characters", None), ("bpe", 290)])
def test_a_language_model_loads_and_writes_the_same(tmp_path, tokenizer, vocab_size):
    (tmp_path / "mine.txt").write_text(TEXT)
    with unchecked():
        train_language_model(
            output=tmp_path / "made",
            data=Corpus(train=str(tmp_path / "mine.txt")),
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            model=Decoder(context=37, d_model=24, n_heads=6, n_kv_heads=2, d_ff=29, n_layers=2),
            training=Training(steps=30, batch_size=5, learning_rate=1e-2),
            device="cpu",
        )
    made = tmp_path / "made"
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        made, output_loading_info=True
    )
    assert not any(report.values())
    generator = Generator.load(made)
    theirs = transformers.AutoTokenizer.from_pretrained(made)
    for prompt in ("the cat", "", "ran."):
        assert theirs(prompt)["input_ids"] == generator.encode(prompt)
    ids = torch.tensor([generator.encode("the cat sat")])
    compare_logits(generator.model, model.eval(), ids)
    found = generator("the cat sat", max_length=17, sampling=Sampling(temperature=0.0))
    out = model.generate(ids, max_new_tokens=17, do_sample=False)[0, ids.shape[1] :]
    assert generator.tokenizer.tokens(out.tolist()) == found.tokens
