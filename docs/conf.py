"""Sphinx configuration of the course's site; `docs/build.py` prepares the pages it reads."""

import sys
from pathlib import Path

# The pages are staged in build/docs; what they need of the builder lies here.
sys.path.insert(0, str(Path(__file__).parent.joinpath("..", "..", "docs").resolve()))

from search import SearchBoth

project = "kexue_lab"
author = "The kexue_lab authors"
copyright = "2026, the kexue_lab authors"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build"]
nitpicky = False
suppress_warnings = ["myst.header"]

# Notebooks are shown as they are stored.
nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

# A formula is typeset when it comes near the window: a page is there at once. Print typesets all.
mathjax3_config = {"loader": {"load": ["ui/lazy"]}, "options": {"lazyMargin": "600px"}}

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True

html_theme = "sphinx_book_theme"
html_title = "kexue_lab"
html_static_path = ["_static"]
html_css_files = ["course.css"]
html_js_files = ["frames.js", "verified.js", "print.js", "snippets.js"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_sourcelink_suffix = ""
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_repository_button": False,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navigation_with_keys": True,
    "navbar_persistent": [],
}


# Docstrings are plain text: `name` is code, and |x| is an absolute value.
default_role = "code"


def _escape_bars(app, what, name, obj, options, lines):
    lines[:] = [line.replace("|", r"\|") for line in lines]


def _skip_plain_fields(app, what, name, obj, skip, options):
    """Leave out the fields of named tuples: their class describes them, Python's words do not."""
    return True if (obj.__doc__ or "").startswith("Alias for field number") else None


def setup(app):
    """Register what docstrings need."""
    app.add_search_language(SearchBoth)
    app.connect("autodoc-process-docstring", _escape_bars)
    app.connect("autodoc-skip-member", _skip_plain_fields)
