"""Pack the project for Kaggle: a data set with helpers/ and data/, and one folder per notebook.

    python tools/pack_kaggle.py [--owner NAME]      # writes out/kaggle/

With the data set attached, the notebooks need no Internet. The files that Kaggle's command line needs are written next
to them: dataset-metadata.json and kernel-metadata.json.
"""

import argparse
import json
import re
import shutil
from pathlib import Path

from sync_notebooks import NOTEBOOKS, ROOT, URL, Notebook

OWNER, SLUG = URL.split("/")[-2:]
HIDDEN = shutil.ignore_patterns("__pycache__", ".*", "*.part")


def pack(folder: Path, owner: str = OWNER) -> list[Path]:
    """Write the data set and the notebooks below folder, which is emptied first. Returns their folders.

    owner: a Kaggle user name (lower-case letters, digits, hyphens).
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", owner):
        raise SystemExit(f"OWNER is {owner!r}; give your Kaggle user name, for example zero-out")
    shutil.rmtree(folder, ignore_errors=True)
    notebooks = [pack_notebook(folder / "notebooks", owner, *item) for item in enumerate(NOTEBOOKS, 1)]
    return [pack_dataset(folder / "dataset", owner), *notebooks]


def pack_dataset(folder: Path, owner: str) -> Path:
    """The data set: helpers/, which the setup cell looks for, and data/."""
    for name in ("helpers", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=HIDDEN)
    for name in ("pyproject.toml", "LICENSE", "CITATION.cff"):
        shutil.copy(ROOT / name, folder)
    about = {
        "title": "Zero-Out: helpers, weights and pictures",
        "id": f"{owner}/{SLUG}",
        "licenses": [{"name": "other"}],  # several: data/README.md names one for each file
    }
    (folder / "dataset-metadata.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    return folder


def pack_notebook(folder: Path, owner: str, number: int, notebook: Notebook) -> Path:
    """A folder with a notebook and its metadata for Kaggle."""
    title = f"Zero-Out {number}: {notebook.title.split(':')[0]}"
    place = folder / notebook.name
    place.mkdir(parents=True)
    shutil.copy(notebook.path, place)
    about = {
        "id": f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower())}",  # Kaggle makes it from the title, too
        "title": title,
        "code_file": notebook.path.name,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": False,
        "enable_internet": False,
        "dataset_sources": [f"{owner}/{SLUG}"],
    }
    (place / "kernel-metadata.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    return place


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", default=OWNER, help="Kaggle user name; default: the repository's owner")
    dataset, *notebooks = pack(ROOT / "out" / "kaggle", parser.parse_args().owner)
    print(f"kaggle datasets create --dir-mode zip -p {dataset.relative_to(ROOT)}")
    for folder in notebooks:
        print(f"kaggle kernels push -p {folder.relative_to(ROOT)}")
