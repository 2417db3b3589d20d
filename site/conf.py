"""The site: all notebooks and pages as static HTML, with navigation and search. `make site` builds it.

Nothing is executed: the committed outputs are shown. The setup cell is folded, navigation is left out, and each figure
gets its alternative text.
"""

import json

project = "Zero-Out"
author = copyright = "The Zero-Out authors"
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "data/README.md", "notebooks/*.ipynb", "notebooks/*/*.ipynb"]
exclude_patterns = ["**/.ipynb_checkpoints", ".venv", "out"]
extensions = ["myst_nb"]
nb_execution_mode = "off"
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]  # sliders: their still
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "amsmath"]
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
html_theme = "furo"
html_title = "Zero-Out: can I blind a pre-trained network?"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
TREES = {
    "Notebooks": "notebooks/0*",
    "Appendices": "notebooks/appendix/*",
    "Solutions": "notebooks/solutions/*",
    "Pages": "docs/*\nCONTRIBUTING\nCHANGELOG\ndata/README",
}


def adapt(app: object, name: str, source: list[str]) -> None:
    """Change a page before it is read."""
    if name == root_doc:
        for caption, pages in TREES.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n:glob:\n\n{pages}\n```\n"
    elif name.startswith("notebooks/"):
        book = json.loads(source[0])
        book["cells"] = [adapted(cell) for cell in book["cells"] if "navigation" not in tags(cell)]
        source[0] = json.dumps(book)


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def adapted(cell: dict) -> dict:
    """A cell with its setup folded and its figure described."""
    if "setup" in tags(cell):
        cell["metadata"]["tags"] = [*tags(cell), "hide-input"]
    for output in cell.get("outputs", []):
        for kind in ("image/png", "image/jpeg"):
            if text := output.get("metadata", {}).get(kind, {}).get("alt"):
                cell["metadata"]["mystnb"] = {"image": {"alt": text}}
    return cell


def setup(app: object) -> None:
    app.connect("source-read", adapt)  # type: ignore[attr-defined]
