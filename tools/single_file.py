"""Make single-file versions of the notebooks: each carries the helpers and the images that it needs.

    python tools/single_file.py          # writes out/single/

Only their setup cell differs. The weights (38 MB) are too large to carry. They are read from where helpers/weights.py
looks (a folder named in ZERO_OUT_WEIGHTS, torch's cache, Kaggle's inputs) or downloaded from the repository, and their
sha256 is checked.
"""

import base64
import io
import re
import zipfile
from pathlib import Path

import nbformat
from sync_notebooks import DEVICE, NOTEBOOKS, ROOT, TAG, URL

SETUP = '''# Setup: unpacks the helpers and pictures that this file carries, finds the weights.
import base64
import io
import os
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

URL = "{url}"
WEIGHTS = {weights}
CARRIED = """
{carried}"""
unpacked = tempfile.TemporaryDirectory(prefix="zero-out-")  # removed at the end
root = Path(unpacked.name)
with zipfile.ZipFile(io.BytesIO(base64.b64decode(CARRIED))) as carried:
    carried.extractall(root)
sys.path.insert(0, str(root))
os.environ.setdefault("ZERO_OUT_OUT", str(Path.cwd() / "out"))
from helpers import weights

weights.BUNDLED.mkdir(parents=True, exist_ok=True)
for file in (getattr(weights, name) for name in WEIGHTS):
    try:
        found = weights.find_or_download(replace(file, url=URL + file.name))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    (weights.BUNDLED / file.name).write_bytes(found.read_bytes())
{device}'''
NEEDED = {  # word in the code -> weights
    "vgg16": "VGG16_BASE",
    "efficientnet_lite0": "EFFICIENTNET_LITE0",
    "vgg16_hardened": "VGG16_HARDENED",
}


def single(path: Path) -> str:
    """The text of a notebook whose setup cell carries what it needs."""
    book = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in book.cells if cell.cell_type == "code")
    setup = next(cell for cell in book.cells if "setup" in cell.metadata.get("tags", []))
    setup.source = SETUP.format(
        url=f"{URL.replace('https://github.com', 'https://raw.githubusercontent.com')}/{TAG}/data/weights/",
        weights=[name for word, name in NEEDED.items() if word in code],
        carried=base64.encodebytes(carried(code)).decode(),
        device=DEVICE,
    )
    setup.metadata["jupyter"] = {"source_hidden": True}
    return nbformat.writes(book) + "\n"


def carried(code: str) -> bytes:
    """A zip file of helpers/ and the folders of data/ that the code names, without the weights.

    If the code names folders inside one, only these: DATA / "defences" / "zero", load_photos("train").
    """
    content = io.BytesIO()
    files = {*(ROOT / "helpers").rglob("*.py")}
    for folder in (path for path in (ROOT / "data").iterdir() if path.is_dir() and path.name != "weights"):
        if re.search(rf"(?:\b|_){folder.name}\b", code):  # DATA / "images", load_photos
            parts = [part for part in folder.iterdir() if part.is_dir() and f'"{part.name}"' in code]
            files |= {*folder.glob("*"), *(path for part in parts or [folder] for path in part.rglob("*"))}
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in files if path.is_file() and not path.name.startswith(".")):
            archive.write(path, path.relative_to(ROOT))
    return content.getvalue()


def main(folder: Path = ROOT / "out" / "single") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in NOTEBOOKS:
        path = folder / notebook.path.name
        path.write_text(single(notebook.path), encoding="utf-8")
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
