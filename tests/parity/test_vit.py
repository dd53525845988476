"""ViT and DeiT against transformers, through files, in float64 and float32."""

import pytest
import torch
import transformers
from tests.parity.published import comes_back, gradients, outputs_of, through_a_file
from tests.parity.reference import BOTH, agree, both_gradients

B, C, D, H, FF, LAYERS, CLASSES = 3, 2, 22, 11, 29, 3, 5
SQUARE, PATCH = 15, 5  # 3 rows of 3 patches
SIZES = {
    "image_size": SQUARE,
    "patch_size": PATCH,
    "num_channels": C,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": H,
    "intermediate_size": FF,
    "num_labels": CLASSES,
}
MODELS = [
    ("ViT", "Model"),
    ("ViT", "ForImageClassification"),
    ("DeiT", "Model"),
    ("DeiT", "ForImageClassification"),
    ("DeiT", "ForImageClassificationWithTeacher"),
]
each = pytest.mark.parametrize(("family", "head"), MODELS, ids=map("".join, MODELS))


def make(family, head, folder, **options):
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **options})
    theirs_class = getattr(transformers, f"{family}{head}")
    theirs = theirs_class(config)
    return theirs_class, theirs, through_a_file(theirs, folder)


def hidden_states(theirs, images, **options):
    """The input of their first layer, the output of each, and the output of the model."""
    encoder = getattr(theirs, theirs.base_model_prefix, theirs)
    with outputs_of([encoder.embeddings, *encoder.layers, encoder.layernorm]) as states:
        output = theirs(images, **options)
    return states, output


def compare_numbers(checkpoint, theirs, head, images, folder, interpolate=False, precisions=BOTH):
    """Compare hidden states, logits and gradients."""
    options = {"interpolate_pos_encoding": True} if interpolate else {}

    def numbers(ours, theirs, dtype):
        pixels = images.to(dtype)
        encoder = getattr(ours, "encoder", ours)
        expected, reference = hidden_states(theirs, pixels, **options)
        with outputs_of([encoder.dropout, *encoder.stack.blocks, encoder.stack]) as states:
            output = ours(pixels)
        outputs = {"output": (output, reference[0])}
        if head == "Model":
            outputs["pooled"] = ours.pool(output), reference.pooler_output
        if head.endswith("Teacher"):
            first, second = ours.score_both(states[-1])
            outputs["class logits"] = first, reference.cls_logits
            outputs["distillation logits"] = second, reference.distillation_logits
        both_gradients(outputs.values())
        pairs = {f"state {i}": pair for i, pair in enumerate(zip(states, expected, strict=True))}
        return pairs | outputs | gradients(ours, theirs, checkpoint.config, folder)

    agree(numbers, checkpoint.model, theirs, precisions)


def compare(family, head, images, folder, interpolate=False, **sizes):
    """Make a model and compare its numbers."""
    _, theirs, checkpoint = make(family, head, folder / "theirs", **sizes)
    compare_numbers(checkpoint, theirs, head, images, folder / "gradients", interpolate)


@each
def test_numbers(family, head, tmp_path):
    compare(family, head, torch.randn(B, C, SQUARE, SQUARE), tmp_path)


@each
def test_numbers_without_biases_and_of_oblong_patches(family, head, tmp_path):
    sizes = {"image_size": [14, 17], "patch_size": [7, 3], "qkv_bias": False}
    compare(family, head, torch.randn(B, C, 14, 17), tmp_path, **sizes)


@pytest.mark.parametrize("size", [(20, 35), (10, 13), (5, 45), (17, 19)])
@pytest.mark.parametrize(("family", "head"), [MODELS[0], MODELS[-1]])
def test_numbers_of_images_of_another_size(family, head, size, tmp_path):
    compare(family, head, torch.randn(B, C, *size), tmp_path, interpolate=True)


@each
def test_saving_back(family, head, tmp_path):
    theirs_class, theirs, checkpoint = make(family, head, tmp_path / "theirs")
    again = comes_back(checkpoint, theirs_class, tmp_path / "theirs", tmp_path / "ours")
    images = torch.randn(B, C, SQUARE, SQUARE)
    with torch.no_grad():
        assert torch.equal(again(images)[0], theirs(images)[0])
