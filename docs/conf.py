"""How `make docs` makes a site of these pages: Sphinx, MyST for Markdown, furo for the looks; nothing from outside."""

from __future__ import annotations

from sphinx.application import Sphinx

project = "Tierwave"
copyright = "Tierwave founders, MIT licence"
extensions = ["myst_parser"]
exclude_patterns = ["cluster"]
html_theme = "furo"
html_title = "Tierwave"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
myst_heading_anchors = 3

# Files beside docs/ that are pages of the site too. In the pages their links are those that work in the repository.
PAGES = {
    "../CONTRIBUTING.md": "contributing.md",
    "../bench/README.md": "measurements.md",
    "../CHANGELOG.md": "changelog.md",
}


def _link_pages(app: Sphinx, name: str, source: list[str]) -> None:
    for path, page in PAGES.items():
        source[0] = source[0].replace(f"]({path}", f"]({page}")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _link_pages)
