"""Checkpoints from the Hugging Face Hub."""

import re
from pathlib import Path

from qkv.checkpoints.reader import COMPANIONS
from qkv.errors import DataError, MissingDependencyError

HUB_ID = re.compile(r"(?=.{3,96}$)[\w.-]+/[\w.-]+")  # the Hub's limits


def download(name: str) -> Path:
    """Return the folder of a Hub id, cached or downloaded, without pickled files.

    Raises:
        MissingDependencyError: if huggingface_hub is not installed.
        DataError: if there is no such model, or the Hub is not reachable.
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
            f"{name!r} is not a folder, and a Hub id needs huggingface_hub: pip install 'qkv[hub]'"
        ) from error
    patterns = ["*.safetensors", *(f"*{suffix}" for suffix in COMPANIONS)]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"{name!r} is not a folder, and cannot be downloaded from the Hub: {error}"
        ) from error
