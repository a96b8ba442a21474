"""The docs site: the pages of this folder, and the API from docstrings. Built by `make docs`; nothing is loaded from outside."""

from importlib import metadata

project = "mccore"
version = release = metadata.version("mccore")
extensions = ["myst_parser", "autoapi.extension", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["README.md", "operations/compose.yaml"]
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
# API pages are read from the sources: nothing is imported. They are those of the rooms that other packages use.
autoapi_dirs = ["../mccore"]
autoapi_root = "api"
_INSIDE = (
    "cli", "contexts", "data", "eval", "generate", "host", "launch", "megacontext", "model", "report", "resolve", "runtime",
    "scaling", "serve", "stages", "tasks", "telemetry", "train", "tui",
)  # fmt: skip
autoapi_ignore = ["*/skeleton/*", "*/__main__.py", *(f"*/mccore/{room}/*" for room in _INSIDE)]
autoapi_options = ["members", "undoc-members", "show-module-summary"]
autoapi_add_toctree_entry = False
autoapi_keep_files = False
autoapi_member_order = "bysource"
suppress_warnings = ["autoapi.python_import_resolution", "myst.xref_missing", "ref.python"]
