"""Preparing images against the processors of transformers, by Pillow: the same numbers."""

import json
import os
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from qkv.data.image_config import FILE_NAME, read_image_config, write_image_config
from qkv.data.images import ImageConfig, ImageProcessor

THEIRS = {
    "vit": lambda: ViTImageProcessorPil(),
    "deit": lambda: DeiTImageProcessorPil(),
    "shorter edge": lambda: DeiTImageProcessorPil(
        size={"shortest_edge": 97},
        crop_size={"height": 131, "width": 89},
        resample=1,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ),
    "not rescaled": lambda: ViTImageProcessorPil(size=37, do_rescale=False),
    "not normalized": lambda: ViTImageProcessorPil(size=37, do_normalize=False, resample=0),
}
each = pytest.mark.parametrize("kind", THEIRS)


def through_a_file(theirs, folder):
    theirs.save_pretrained(folder)
    return ImageProcessor(read_image_config(json.loads((folder / FILE_NAME).read_text())))


def run_theirs(theirs, images, **options):
    return torch.stack([theirs(i, return_tensors="pt", **options).pixel_values[0] for i in images])


def noise(height, width, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["vit", "deit", "shorter edge"])
def test_photographs(kind, tmp_path):
    if not os.environ.get("QKV_DATA"):
        pytest.skip("needs the named data sets: set QKV_DATA to their folder")
    files = sorted(Path(os.environ["QKV_DATA"], "hymenoptera_160").rglob("*.jp*g"))
    assert len(files) == 397
    theirs = THEIRS[kind]()
    ours = through_a_file(theirs, tmp_path)
    for i in range(0, len(files), 20):
        images = [PIL.Image.open(file) for file in files[i : i + 20]]
        assert torch.equal(ours(files[i : i + 20]), run_theirs(theirs, images))


@each
@pytest.mark.parametrize("size", [(1, 1), (2, 301), (301, 3), (97, 131), (200, 150)])
def test_odd_sizes(kind, size, tmp_path):
    theirs = THEIRS[kind]()
    image = noise(*size)
    assert torch.equal(through_a_file(theirs, tmp_path)([image]), run_theirs(theirs, [image]))


@each
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_other_channels(kind, mode, tmp_path):
    theirs = THEIRS[kind]()
    image = noise(41, 29, channels=4 if mode in ("RGBA", "LA") else 3)
    image = image.convert(mode)
    expected = run_theirs(theirs, [image], do_convert_rgb=True)
    assert torch.equal(through_a_file(theirs, tmp_path)([image]), expected)


def test_grey_images_for_a_grey_model(tmp_path):
    theirs = ViTImageProcessorPil(size=37, image_mean=[0.2], image_std=[0.3])
    image = noise(41, 29).convert("L")
    assert torch.equal(through_a_file(theirs, tmp_path)([image]), run_theirs(theirs, [image]))


@pytest.mark.parametrize(
    "config", [ImageConfig(), ImageConfig(size=43, crop_size=(31, 47), resample="box")]
)
def test_they_read_what_we_write(config, tmp_path):
    (tmp_path / FILE_NAME).write_text(json.dumps(write_image_config(config)))
    theirs_class = DeiTImageProcessorPil if config.crop_size else ViTImageProcessorPil
    image = noise(41, 59)
    expected = run_theirs(theirs_class.from_pretrained(tmp_path), [image])
    assert torch.equal(ImageProcessor(config)([image]), expected)
