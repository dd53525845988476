"""Checkpoints of the Hugging Face Hub."""

import re
from pathlib import Path

from qkv.checkpoints.reader import COMPANIONS
from qkv.errors import DataError, MissingDependencyError

HUB_ID = re.compile(r"(?=.{3,96}$)[\w.-]+/[\w.-]+")  # as the Hub limits them


def download(name: str) -> Path:
    """Return the folder of a Hub id, from the Hub's cache or downloaded: no pickled file.

    Raises:
        MissingDependencyError: if huggingface_hub is not installed.
        DataError: if there is no such model, or no way to the Hub.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise MissingDependencyError(
            f"{name!r} is no folder, and a Hub id needs huggingface_hub: pip install 'qkv[hub]'"
        ) from error
    patterns = ["*.safetensors", *(f"*{suffix}" for suffix in COMPANIONS)]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{name!r} is no folder here, and as a Hub id it cannot be had: {error}"
        ) from error
