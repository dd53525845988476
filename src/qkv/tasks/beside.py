"""The tokenizer and the preprocessor of images in the folder of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from qkv.checkpoints.checkpoint import Checkpoint
from qkv.data.image_config import FILE_NAME as IMAGES_FILE
from qkv.data.image_config import read_image_config, write_image_config
from qkv.data.images import ImageConfig, ImageProcessor
from qkv.data.tokenizers import Tokenizer, load_tokenizer
from qkv.errors import ConfigError, DataError
from qkv.json_fields import read_json


def read_tokenizer(folder: Path, checkpoint: Checkpoint) -> Tokenizer | None:
    """Return the tokenizer of a folder, if it has one.

    Raises:
        DataError: if it has more tokens than the model's embedding has rows.
    """
    tokenizer = load_tokenizer(folder)
    rows = getattr(checkpoint.model.config, "vocab_size", None)
    if tokenizer is not None and rows is not None and tokenizer.vocab_size > rows:
        raise DataError(
            f"the tokenizer of {folder} has {tokenizer.vocab_size} tokens, but the embedding of "
            f"the model has {rows} rows: they do not belong together"
        )
    return tokenizer


def read_preprocessor(folder: Path, checkpoint: Checkpoint) -> ImageProcessor | None:
    """Return the preprocessor of a folder, if it has one and the model processes images.

    Raises:
        ConfigError: if it is not supported.
        DataError: if its number of channels differs from the model's.
    """
    path = folder / IMAGES_FILE
    n_channels = getattr(checkpoint.model.config, "n_channels", None)
    if not path.is_file() or n_channels is None:
        return None
    try:
        config = read_image_config(read_json(path), model_type=checkpoint.config["model_type"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    if len(config.mode) != n_channels:
        raise DataError(
            f"{path} makes images of {len(config.mode)} channels, but the model expects "
            f"{n_channels}: they do not belong together"
        )
    return ImageProcessor(config)


def write_preprocessor(config: ImageConfig, model: dict[str, Any], old: bytes | None) -> bytes:
    """Return preprocessor_config.json; the old bytes if they still describe the preprocessor."""
    if old is not None and config == read_image_config(
        json.loads(old), model_type=model["model_type"]
    ):
        return old
    return (json.dumps(write_image_config(config), indent=2) + "\n").encode()
