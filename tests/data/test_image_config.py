"""What preprocessor_config.json may say, as it was written over the years."""

import pytest

from qkv.data.image_config import read_image_config, write_image_config
from qkv.data.images import ImageConfig
from qkv.errors import ConfigError

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
DEIT = ImageConfig(
    size=(256, 256),
    resample="bicubic",
    crop_size=(224, 224),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)


def test_files_of_published_models():
    today = {
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "ViTImageProcessor",
        "resample": 2,
        "rescale_factor": 0.00392156862745098,
        "size": {"height": 224, "width": 224},
    }
    assert read_image_config(today) == ImageConfig()
    old = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "size": 224}
    assert read_image_config(old, model_type="vit") == ImageConfig()
    distilled = {"crop_size": 224, "do_center_crop": True, "size": 256, "resample": 3, **IMAGENET}
    named = {"feature_extractor_type": "DeiTFeatureExtractor"}
    assert read_image_config({**named, **distilled}) == DEIT


def test_the_processor_says_what_an_absence_means():
    assert read_image_config({}, model_type="vit") == ImageConfig()
    assert read_image_config(IMAGENET, model_type="deit") == DEIT
    # A plain DeiT is a ViT, prepared as DeiT.
    named = {"image_processor_type": "DeiTImageProcessorFast", "image_mean": None, **IMAGENET}
    assert read_image_config(named, model_type="vit") == DEIT


def test_steps_can_be_left_out():
    steps = ("resize", "center_crop", "rescale", "normalize")
    config = read_image_config({f"do_{step}": False for step in steps}, model_type="deit")
    assert (config.size, config.crop_size, config.rescale_factor) == (None, None, None)
    assert (config.mean, config.std) == (None, None)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (7, (7, 7)),
        ([7, 5], (7, 5)),
        ({"height": 7, "width": 5}, (7, 5)),
        ({"shortest_edge": 7}, 7),
    ],
)
def test_sizes(size, expected):
    assert read_image_config({"size": size}, model_type="vit").size == expected


@pytest.mark.parametrize(
    "config",
    [
        ImageConfig(),
        DEIT,
        ImageConfig(size=7, resample="lanczos", mean=(0.3,), std=(0.1,)),
        ImageConfig(size=None, crop_size=(5, 3), rescale_factor=None),
        ImageConfig(mean=None, std=None, rescale_factor=0.5),
    ],
)
def test_what_is_written_is_read(config):
    assert read_image_config(write_image_config(config)) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_processor_type": "CLIPImageProcessor"}, "processor CLIPImageProcessor is not imp"),
        ({"image_processor_type": "ViT"}, "the image processor ViT is not implemented"),
        ({"do_pad": True}, "do_pad = True is not implemented; expected False"),
        ({"crop_pct": 0.9}, "crop_pct = 0.9: unknown, so the pixels could differ"),
        ({"size": {"longest_edge": 7}}, "size = {'longest_edge': 7} is not implemented"),
        ({"size": {"shortest_edge": 7, "longest_edge": 9}}, "size = .* is not implemented"),
        ({"size": {"height": 7, "width": 9, "depth": 1}}, "size = .* is not implemented"),
        ({"do_center_crop": True}, "crop_size = None is not implemented"),
        ({"do_center_crop": True, "crop_size": {"shortest_edge": 7}}, "crop_size = .* is not imp"),
        ({"resample": 6}, r"resample = 6 is unknown; expected one of 0 \(nearest\), 1 \(lanczos\)"),
        ({"resample": "bicubic"}, "resample = 'bicubic' is unknown"),
        ({"do_resize": "no"}, "do_resize = 'no'; expected true or false"),
        ({"rescale_factor": "1/255"}, "rescale_factor = '1/255'; expected a number"),
        (
            {"image_mean": 0.5},
            "image_mean = 0.5 is not implemented; expected one number per channel",
        ),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        read_image_config(fields, model_type="vit")


def test_another_family_is_refused():
    for model_type in (None, "clip"):
        with pytest.raises(ConfigError, match=f"the image processor of {model_type} is not impl"):
            read_image_config({}, model_type=model_type)
