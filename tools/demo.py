"""The albatross in one command: run notebook 02, write out/, print the verdict."""

import html
import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out"
FILES = ("albatross_zero.png", "albatross_zero.json", "comparison.png", "02_albatross.html")


def described(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A figure as HTML with its alternative text, which nbconvert's template leaves out; sliders as their picture."""
    for kind in ("image/png", "image/jpeg"):
        if kind in output.get("data", {}):
            alt = html.escape(output.metadata.get(kind, {}).get("alt", ""))
            output.data = {"text/html": f'<img alt="{alt}" src="data:{kind};base64,{output.data[kind]}">'}
            output.metadata = {}
    return output


def page(book: nbformat.NotebookNode) -> str:
    """A notebook as one HTML file."""
    for cell in book.cells:
        cell.outputs = [described(output) for output in cell.get("outputs", [])]
    return HTMLExporter().from_notebook_node(book)[0]


def main() -> int:
    OUT.mkdir(exist_ok=True)
    for name in FILES:
        (OUT / name).unlink(missing_ok=True)  # what is there afterwards was made now
    path = ROOT / "notebooks" / "02_albatross.ipynb"
    print(f"Zeroing the features of the albatross: running notebooks/{path.name}, a minute or two ...", flush=True)
    os.environ["ZERO_OUT_OUT"] = str(OUT)
    book, resources = nbformat.read(path, as_version=4), {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(book, resources=resources, store_widget_state=False)
    client.execute(stderr=subprocess.DEVNULL)  # where remarks of the debugger would stand
    (OUT / FILES[-1]).write_text(page(book), encoding="utf-8")
    certificate = json.loads((OUT / "albatross_zero.json").read_text())
    said = "".join(
        output.text
        for cell in book.cells
        if "verdict" in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.output_type == "stream"
    )
    print(f"{said}largest change: {certificate['linf']}/255")
    print("all features zero in the saved PNG:", certificate["zero"])
    for name in FILES:
        print(f"  out/{name}")
    return 0 if certificate["zero"] and "exactly the blank prediction: True" in said else 1


if __name__ == "__main__":
    sys.exit(main())
