"""Pack the project for Kaggle: a data set with helpers/ and data/, and one folder per notebook.

    python tools/pack_kaggle.py [--owner NAME]      # writes out/kaggle/

With the data set attached the notebooks need no Internet. What Kaggle's own command line
wants is written beside the files: dataset-metadata.json and kernel-metadata.json.
"""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

from sync_notebooks import NOTEBOOKS, ROOT, URL

OWNER, SLUG = URL.split("/")[-2:]
ALSO = ("pyproject.toml", "LICENSE", "CITATION.cff")
HIDDEN = shutil.ignore_patterns("__pycache__", ".*", "*.part")


def pack(folder: Path, owner: str = OWNER) -> list[Path]:
    """Write the data set and the notebooks below folder, which is emptied first; return their folders.

    owner: a Kaggle user name (lower-case letters, digits, hyphens). Raises ValueError for another.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", owner):
        raise ValueError(f"OWNER is {owner!r}; give your Kaggle user name, for example zero-out")
    shutil.rmtree(folder, ignore_errors=True)
    return [pack_dataset(folder / "dataset", owner), *(pack_notebooks(folder / "notebooks", owner))]


def pack_dataset(folder: Path, owner: str) -> Path:
    """The data set: what the setup cell looks for, and the data beside it."""
    for name in ("helpers", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=HIDDEN)
    for name in ALSO:
        shutil.copy(ROOT / name, folder)
    about = {
        "title": "Zero-Out: helpers, weights and pictures",
        "id": f"{owner}/{SLUG}",
        "licenses": [{"name": "other"}],  # several: data/README.md names one for each file
    }
    return write(folder / "dataset-metadata.json", about)


def pack_notebooks(folder: Path, owner: str) -> list[Path]:
    """For each notebook a folder with it and what Kaggle wants to know of it."""
    made = []
    for number, notebook in enumerate(NOTEBOOKS, 1):
        title = f"Zero-Out {number}: {notebook.title.split(':')[0]}"
        place = folder / notebook.name
        place.mkdir(parents=True)
        shutil.copy(notebook.path, place)
        about = {
            "id": f"{owner}/{re.sub('[^a-z0-9]+', '-', title.lower())}",  # Kaggle makes it from the title, too
            "title": title,
            "code_file": f"{notebook.name}.ipynb",
            "language": "python",
            "kernel_type": "notebook",
            "is_private": True,
            "enable_gpu": False,
            "enable_internet": False,
            "dataset_sources": [f"{owner}/{SLUG}"],
            "competition_sources": [],
            "kernel_sources": [],
        }
        made.append(write(place / "kernel-metadata.json", about))
    return made


def write(path: Path, about: dict[str, object]) -> Path:
    """Write about as JSON; return its folder."""
    path.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return path.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", default=OWNER, help="Kaggle user name; default: the repository's owner")
    try:
        dataset, *notebooks = pack(ROOT / "out" / "kaggle", parser.parse_args().owner)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"kaggle datasets create --dir-mode zip -p {dataset.relative_to(ROOT)}")
    for folder in notebooks:
        print(f"kaggle kernels push -p {folder.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
