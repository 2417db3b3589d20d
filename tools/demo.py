"""The Albatross demonstration in one command: run notebook 02, write out/, print the verdict."""

import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "out"
FILES = ("albatross_zero.png", "albatross_zero.json", "comparison.png", "02_albatross.html")


def main() -> int:
    # Imported here, so that `import tools.demo` is free of side effects and fast.
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    OUT.mkdir(exist_ok=True)
    for name in FILES:
        (OUT / name).unlink(missing_ok=True)  # what is there afterwards was made now
    os.environ["ZERO_OUT_OUT"] = str(OUT)
    path = ROOT / "notebooks" / "02_albatross.ipynb"
    book = nbformat.read(path, as_version=4)
    print("Blinding VGG-16: running notebooks/02_albatross.ipynb, about two minutes ...", flush=True)
    client = NotebookClient(book, resources={"metadata": {"path": str(path.parent)}}, store_widget_state=False)
    client.execute()
    page, _ = HTMLExporter().from_notebook_node(book)
    part = OUT / "02_albatross.html.part"
    part.write_text(page, encoding="utf-8")
    part.replace(OUT / "02_albatross.html")
    certificate = json.loads((OUT / "albatross_zero.json").read_text(encoding="utf-8"))
    verdict = json.loads((OUT / "verdict.json").read_text(encoding="utf-8"))
    print(f"before: {verdict['before']}")
    print(f"after:  {verdict['after']}, the blank prediction: {verdict['blank']}")
    left, total = certificate["nonzero"], certificate["outputs"]
    print(f"{left} of {total:,} outputs left in the saved PNG, largest change {certificate['linf']}/255")
    for name in FILES:
        print(f"  out/{name}")
    return 0 if certificate["zero"] and verdict["blank"] else 1


if __name__ == "__main__":
    sys.exit(main())
