"""How the documentation is built: `nox -s docs`."""

from __future__ import annotations

import importlib.metadata
import inspect
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import trio_mcp_pool
import trio_mcp_pool.config
import trio_mcp_pool.testing

project = "trio_mcp_pool"
author = "The trio_mcp_pool contributors"
copyright = author
release = version = importlib.metadata.version("trio-mcp-pool")

extensions = ["myst_parser", "sphinx.ext.autodoc", "markdown_docstrings", "public_links"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "trio_mcp_pool"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]


autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
suppress_warnings = ["config.cache"]


def _tell_autodoc_where_things_are_defined() -> None:
    """Public classes say that they live in `trio_mcp_pool`; autodoc reads their fields' docstrings where they were written."""
    dir(trio_mcp_pool)  # loads every module
    package = Path(inspect.getfile(trio_mcp_pool)).parent
    for module in [module for name, module in sys.modules.items() if name.startswith("trio_mcp_pool.")]:
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_relative_to(package):
            continue
        source = Path(file).read_text()
        for name, value in vars(module).items():
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            word = "class" if inspect.isclass(value) else "def"
            if value.__module__.startswith("trio_mcp_pool") and f"{word} {name}" in source:
                value.__module__ = module.__name__


_tell_autodoc_where_things_are_defined()
