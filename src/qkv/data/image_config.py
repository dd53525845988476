"""`preprocessor_config.json`: the preprocessing of images for a published model."""

import re
from collections.abc import Mapping
from typing import Any

from qkv.data.images import FILTERS, ImageConfig
from qkv.errors import ConfigError
from qkv.json_fields import is_number, shown, whole

SIDE = whole(1, 2**16)  # pixels of an image's side
FILE_NAME = "preprocessor_config.json"
PROCESSOR = re.compile(r"(\w+?)(?:ImageProcessor(?:Fast|Pil)?|FeatureExtractor)")

COMMON = {
    "do_resize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
# The defaults of the processors of transformers.
DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": {**COMMON, "size": 224, "resample": 2, "do_center_crop": False, "crop_size": None},
    "deit": {**COMMON, "size": 256, "resample": 3, "do_center_crop": True, "crop_size": 224},
}
# Ours cuts out and centers the drawing. It has a separate name, because transformers would ignore
# an unknown field of a ViTImageProcessor.
DEFAULTS["ink"] = {**DEFAULTS["vit"], "ink_box": 20, "size": 28}
ONLY = {"do_pad": False, "default_to_square": True, "data_format": "channels_first"}
# Fields without effect: images always get the channels of the model, whatever do_convert_rgb is.
HARMLESS = frozenset(
    """
    _processor_class _valid_processor_keys device disable_grouping do_convert_rgb
    feature_extractor_type image_processor_type image_seq_length input_data_format pad_size
    processor_class return_tensors use_fast
    """.split()  # noqa: SIM905 - as long as the list above it
)


def read_image_config(raw: Mapping[str, Any], *, model_type: str | None = None) -> ImageConfig:
    """Return the config that the fields of the file describe.

    Args:
        raw: the file's fields.
        model_type: model_type in config.json, for old files that name no processor.

    Raises:
        ConfigError: a processor, a field or a value is not implemented.
    """
    present = {name: value for name, value in raw.items() if value is not None}
    defaults = DEFAULTS[_kind(present, model_type)]
    for name, value in ONLY.items():
        if present.get(name, value) != value:
            raise ConfigError(
                f"{name} = {shown(present[name])} is not implemented; expected {value!r}"
            )
    if unknown := sorted(present.keys() - defaults.keys() - ONLY.keys() - HARMLESS):
        raise ConfigError(
            f"{', '.join(f'{name} = {shown(present[name])}' for name in unknown)}: unknown, so the "
            f"pixels could differ from those of training; remove it from {FILE_NAME} if it is "
            "harmless"
        )
    fields = {**defaults, **present}
    resize, crop, rescale, normalize = (
        _read_flag(fields, f"do_{step}")
        for step in ("resize", "center_crop", "rescale", "normalize")
    )
    return ImageConfig(
        ink_box=_read_box(fields["ink_box"]) if "ink_box" in fields else None,
        size=_read_resizing(fields["size"]) if resize else None,
        resample=_read_filter(fields["resample"]),
        crop_size=_read_size("crop_size", fields["crop_size"]) if crop else None,
        rescale_factor=_read_number(fields, "rescale_factor") if rescale else None,
        mean=_read_numbers(fields, "image_mean") if normalize else None,
        std=_read_numbers(fields, "image_std") if normalize else None,
    )


def write_image_config(config: ImageConfig) -> dict[str, Any]:
    """Return the fields of the file that describe a config."""
    raw = {
        "image_processor_type": f"{_name(config)}ImageProcessor",
        "ink_box": config.ink_box,
        "do_resize": config.size is not None,
        "size": _write_size(config.size),
        "resample": FILTERS.index(config.resample),
        "do_center_crop": config.crop_size is not None,
        "crop_size": _write_size(config.crop_size),
        "do_rescale": config.rescale_factor is not None,
        "rescale_factor": config.rescale_factor,
        "do_normalize": config.mean is not None,
        "image_mean": list(config.mean or ()) or None,
        "image_std": list(config.std or ()) or None,
    }
    return {name: value for name, value in raw.items() if value is not None}


def _name(config: ImageConfig) -> str:
    if config.ink_box is not None:
        return "Ink"
    return "DeiT" if config.crop_size else "ViT"


def _kind(present: Mapping[str, Any], model_type: str | None) -> str:
    named = present.get("image_processor_type", present.get("feature_extractor_type"))
    match = PROCESSOR.fullmatch(str(named))
    kind = model_type if named is None else match and match[1].lower()
    if kind not in DEFAULTS:
        raise ConfigError(
            f"the image processor {named or f'of {model_type}'} is not implemented; expected "
            "ViTImageProcessor, DeiTImageProcessor or InkImageProcessor"
        )
    return kind


def _read_flag(fields: Mapping[str, Any], name: str) -> bool:
    if not isinstance(fields[name], bool):
        raise ConfigError(f"{name} = {shown(fields[name])}; expected true or false")
    return fields[name]


def _read_box(box: Any) -> int:
    if not SIDE.fits(box):
        raise ConfigError(f"ink_box = {shown(box)}; expected a whole number of pixels")
    return box


def _read_resizing(size: Any) -> tuple[int, int] | int:
    match size:
        case {"shortest_edge": edge, **rest} if not rest and SIDE.fits(edge):
            return edge
    return _read_size("size", size)


def _read_size(name: str, size: Any) -> tuple[int, int]:
    match size:
        case _ if SIDE.fits(size):
            return size, size
        case [height, width] if SIDE.fits(height) and SIDE.fits(width):
            return height, width
        case {"height": height, "width": width, **rest} if (
            not rest and SIDE.fits(height) and SIDE.fits(width)
        ):
            return height, width
    raise ConfigError(
        f"{name} = {shown(size)} is not implemented; expected a number, or height and width (to "
        "resize the shorter edge: shortest_edge alone)"
    )


def _write_size(size: tuple[int, int] | int | None) -> dict[str, int] | None:
    match size:
        case None:
            return None
        case int():
            return {"shortest_edge": size}
    return {"height": size[0], "width": size[1]}


def _read_filter(number: Any) -> Any:
    if number not in range(len(FILTERS)):
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(FILTERS))
        raise ConfigError(f"resample = {shown(number)} is unknown; expected one of {known}")
    return FILTERS[number]


def _read_number(fields: Mapping[str, Any], name: str) -> float:
    if not is_number(fields[name]):
        raise ConfigError(f"{name} = {shown(fields[name])}; expected a number")
    return fields[name]


def _read_numbers(fields: Mapping[str, Any], name: str) -> tuple[float, ...]:
    numbers = fields[name]
    if not isinstance(numbers, list) or not all(map(is_number, numbers)):
        raise ConfigError(
            f"{name} = {shown(numbers)} is not implemented; expected one number per channel"
        )
    return tuple(map(float, numbers))
