"""Detection of notebooks."""

import sys


def in_notebook() -> bool:
    """Return whether this runs in a Jupyter kernel, which shows Markdown, figures and widgets."""
    ipython = sys.modules.get("IPython")  # imported by a kernel, but also by many libraries
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
