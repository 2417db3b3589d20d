"""Write what all notebooks share: header, setup cell, navigation, and the README's table.

    python tools/sync_notebooks.py           # write
    python tools/sync_notebooks.py --check   # exit 1 when something has drifted

Cells are known by their tag (header, setup, navigation) and made when missing.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings its twin
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
URL, TAG = PROJECT["urls"]["Repository"], "v" + PROJECT["version"]


@dataclass(frozen=True)
class Notebook:
    """One notebook of the sequence; minutes are for a whole run."""

    name: str
    title: str
    question: str
    cpu: str


NOTEBOOKS = [
    Notebook(
        "01_glossary",
        "Glossary: classification, transfer learning, VGG-16",
        "What does a pre-trained network see, and what is nothing to it?",
        "1",
    ),
    Notebook(
        "02_albatross",
        "Albatross: making VGG-16 go blind",
        "Can I blind a pre-trained network?",
        "2",
    ),
    Notebook(
        "03_activations",
        "Activations: watching a network go blind",
        "Where along the depth, and on which step, is the picture lost?",
        "2",
    ),
    Notebook(
        "04_sweeps",
        "Sweeps: how much is needed?",
        "Which budget, how many steps, which loss?",
        "2",
    ),
    Notebook(
        "05_defence",
        "Defence: what can be done against it?",
        "Which defence helps, and which cannot?",
        "3",
    ),
    Notebook(
        "06_bypass",
        "Bypass: getting past the defence",
        "Which defence still stands when the attacker knows it?",
        "3",
    ),
    Notebook(
        "07_limits",
        "Limits: how far does it go?",
        "How does it compare, and where does it end?",
        "1",
    ),
]

SETUP = f'''# Setup: finds the helpers here, on Colab and on Kaggle. Run this first.
import subprocess
import sys
from itertools import chain
from pathlib import Path

URL, TAG = "{URL}", "{TAG}"
MARK = "helpers/attack.py"
clouds = [p for p in map(Path, ["/kaggle/working", "/content"]) if p.is_dir()]
near = [Path.cwd(), *Path.cwd().parents]
near += [f.parents[1] for p in clouds for f in p.glob("*/" + MARK)]
deep = ("*/" * n + MARK for n in range(1, 5))  # data sets, however packed
far = (f.parents[1] for g in deep for f in Path("/kaggle/input").glob(g))
root = next((p for p in chain(near, far) if (p / MARK).is_file()), None)
if root is None and clouds:  # only the notebook arrived: fetch the rest
    root = clouds[0] / URL.rsplit("/", 1)[1]
    git = ["git", "-c", "advice.detachedHead=false", "clone", "-q"]
    git += ["--depth=1", "-b", TAG, URL, str(root)]
    if subprocess.run(git).returncode:
        sys.exit(f"Switch the Internet on, or attach {{URL}} as a data set.")
elif root is None:
    sys.exit(f"helpers/ is missing: clone {{URL}} and open it from there.")
sys.path.insert(0, str(root))'''


def existing() -> list[Notebook]:
    """The notebooks of the list that are there, in order."""
    return [n for n in NOTEBOOKS if path_of(n).exists()]


def path_of(notebook: Notebook) -> Path:
    return ROOT / "notebooks" / f"{notebook.name}.ipynb"


def header(notebook: Notebook, number: int) -> str:
    blob = f"{URL.removeprefix('https://github.com/')}/blob/main/notebooks/{notebook.name}.ipynb"
    return "\n".join(
        [
            f"# {number}. {notebook.title}",
            "",
            f"*{notebook.question}*",
            "",
            f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
            f"(https://colab.research.google.com/github/{blob})",
            f"[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]"
            f"(https://kaggle.com/kernels/welcome?src=https://github.com/{blob})",
            "",
            f"Time: about {notebook.cpu} min on a laptop without a GPU.",
        ]
    )


def navigation(notebook: Notebook) -> str:
    there = existing()
    place = there.index(notebook)
    parts = [f"[Contents]({URL}#the-notebooks)"]
    if place > 0:
        parts.insert(0, f"Previous: [{there[place - 1].title}]({there[place - 1].name}.ipynb)")
    if place + 1 < len(there):
        parts.append(f"Next: [{there[place + 1].title}]({there[place + 1].name}.ipynb)")
    return " · ".join(parts)


def put(book: NotebookNode, tag: str, source: str, place: int, kind: str = "markdown") -> None:
    """Set the source of the cell with this tag; insert it at its place when missing."""
    for cell in book.cells:
        if tag in cell.metadata.get("tags", []):
            cell.source = source
            return
    make = new_code_cell if kind == "code" else new_markdown_cell
    cell = make(source, metadata={"tags": [tag]})
    book.cells.insert(len(book.cells) if place < 0 else place, cell)


def setup_first(book: NotebookNode) -> None:
    """Move the setup cell before all other code: away from the project nothing can be imported earlier."""
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    setup = next(cell for cell in code if "setup" in cell.metadata.get("tags", []))
    if code[0] is not setup:
        counts = [cell.execution_count for cell in code]
        book.cells.remove(setup)
        book.cells.insert(book.cells.index(code[0]), setup)
        code.insert(0, code.pop(code.index(setup)))
        for cell, count in zip(code, counts, strict=True):  # neither has an output that holds its count
            cell.execution_count = count


def synced(path: Path) -> str:
    """The text of a notebook with its shared cells as they should be."""
    book = nbformat.read(path, as_version=4)
    for number, notebook in enumerate(NOTEBOOKS, 1):
        if path == path_of(notebook):
            put(book, "header", header(notebook, number), 0)
            put(book, "navigation", navigation(notebook), -1)
    put(book, "setup", SETUP, 2, "code")
    setup_first(book)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number:02d}"  # stable from run to run
        for key in ("execution", "collapsed"):
            cell.metadata.pop(key, None)
    return nbformat.writes(book) + "\n"


def table() -> str:
    """The README's table of notebooks."""
    rows = ["| notebook | the question it answers | without a GPU |", "|---|---|---|"]
    rows += [f"| [{n.title}](notebooks/{n.name}.ipynb) | {n.question} | {n.cpu} min |" for n in existing()]
    return "\n".join(rows)


def readme(text: str) -> str:
    """The README with its table; ValueError when the place for the table is gone."""
    filled, places = re.subn(
        r"(<!-- notebooks -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{table()}\n{m[2]}", text, flags=re.S
    )
    if places != 1:
        raise ValueError(f"README.md has {places} places for the table; keep one <!-- notebooks --> ... <!-- end -->")
    return filled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 on drift")
    check = parser.parse_args().check
    wanted = {p: synced(p) for p in sorted((ROOT / "notebooks").rglob("*.ipynb")) if ".ipynb_checkpoints" not in str(p)}
    page = ROOT / "README.md"
    wanted[page] = readme(page.read_text(encoding="utf-8"))
    drifted = [p for p, text in wanted.items() if p.read_text(encoding="utf-8") != text]
    for path in drifted:
        print(("drifted: " if check else "written: ") + str(path.relative_to(ROOT)))
        if not check:
            path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return int(check and bool(drifted))


if __name__ == "__main__":
    sys.exit(main())
