"""Sphinx: the site of the documentation, which `make docs` builds (see tools/build_docs.py)."""

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tools"))

project, author, copyright = "qkv", "the authors of qkv", "the authors of qkv"
release = version = installed("qkv")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_design",
    "docs_docstrings",
]
nb_execution_mode = "off"  # the notebooks are executed by tools/build_notebook.py
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
default_role = "code"

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
python_maximum_signature_line_length = 88
viewcode_line_numbers = True
highlight_language = "python"

html_theme = "pydata_sphinx_theme"
html_title = f"qkv {release}"
html_static_path = [os.environ["QKV_DOCS"] + "/_static"]
html_context = {"default_mode": "auto"}
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "navigation_depth": 2,
    "show_toc_level": 2,
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
# Nothing comes from another host.
mathjax_path = "mathjax/tex-svg.js"
mathjax_config_path = "mathjax.js"
