"""qkv: attention and Transformers in PyTorch.

The names in ``qkv.api``, and the explorer's ``explore`` and ``explore_weights``, are attributes of
``qkv``, each imported on first use.
"""

import importlib
import importlib.metadata
from typing import Any

ABOVE = dict.fromkeys(("explore", "explore_weights"), "qkv.explorer.notebook")  # the api
__version__ = importlib.metadata.version("qkv")


def __getattr__(name: str) -> Any:
    if name.startswith("_"):  # what Python and its tools look for is never in the api
        raise AttributeError(f"module 'qkv' has no attribute {name!r}")
    if name in ABOVE:
        return getattr(importlib.import_module(ABOVE[name]), name)
    api = importlib.import_module("qkv.api")
    if name not in api.__all__:
        raise AttributeError(
            f"module 'qkv' has no attribute {name!r}; it offers {[*api.__all__, *ABOVE]}"
        )
    return getattr(api, name)


def __dir__() -> list[str]:
    return [*importlib.import_module("qkv.api").__all__, *ABOVE, "__version__"]
