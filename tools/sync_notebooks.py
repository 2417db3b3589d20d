"""Write what all notebooks share: header, setup cell, navigation; and the list of notebooks in README.md.

    python tools/sync_notebooks.py           # write
    python tools/sync_notebooks.py --check   # exit 1 when something has drifted

Cells are known by their tag (header, setup, navigation) and made when missing.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
from generated import write_or_check
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
URL, TAG = PROJECT["urls"]["Repository"], "v" + PROJECT["version"]
COLAB = "https://colab.research.google.com/github"
KAGGLE = "https://kaggle.com/kernels/welcome?src=https://github.com"


class Notebook(NamedTuple):
    """One notebook; name: with its folder below notebooks/; minutes: of a whole run on a laptop without a GPU."""

    name: str
    title: str
    question: str
    minutes: int

    @property
    def path(self) -> Path:
        return ROOT / "notebooks" / f"{self.name}.ipynb"

    @property
    def chapter(self) -> int:
        return int(self.path.name[:2])


NOTEBOOKS = [
    Notebook(
        "01_glossary",
        "Glossary: classification, transfer learning, VGG-16",
        "What does a pre-trained network make of an image?",
        1,
    ),
    Notebook("02_albatross", "Albatross: making VGG-16 go blind", "Can I blind a pre-trained network?", 2),
    Notebook(
        "03_activations",
        "Activations: watching a network go blind",
        "Where along the depth, and on which step, is the image lost?",
        2,
    ),
    Notebook("04_sweeps", "Sweeps: how much is needed?", "Which budget, how many steps, which loss?", 2),
    Notebook("05_defence", "Defence: what can be done against it?", "Which defence helps, and which cannot?", 3),
    Notebook(
        "06_bypass",
        "Bypass: getting past the defence",
        "Which defence still stands when the attacker knows it?",
        3,
    ),
    Notebook("07_limits", "Limits: how far does it go?", "How does it compare, and where does it end?", 1),
]
# One question each, for readers of the chapter with the same number.
APPENDIX = [
    Notebook("appendix/02_post_of_2023", "The post of 2023", "Which layer did the post zero?", 1),
    Notebook("appendix/02_visibility", "Visibility", "Can you tell the changed image from the original?", 1),
    Notebook("appendix/03_explanations", "Saliency maps and Grad-CAM", "What do they show of a zeroed image?", 1),
    Notebook("appendix/05_detectors", "All detectors", "How do eleven detectors compare, alone and together?", 1),
    Notebook("appendix/05_readers", "Readers and filters", "What can a linear probe still read?", 1),
    Notebook("appendix/06_pipeline", "The whole defence", "Does knowing every check help the attacker?", 1),
    Notebook("appendix/06_memory", "A defence with a memory", "Who is caught when all images are compared?", 1),
    Notebook("appendix/06_positions", "Every position", "What does matching leave at each place of the image?", 1),
    Notebook("appendix/06_hardening", "Hardening the base", "Can the base be trained to resist?", 1),
    Notebook("appendix/06_sanity", "The sanity list", "Are the attacks on the defences strong enough?", 1),
    Notebook("appendix/07_ablation", "Loss, optimiser, rounding", "Which part of the attack matters?", 1),
    Notebook("appendix/07_small_budgets", "Small budgets", "Where does a small budget fail?", 1),
    Notebook("appendix/07_universal", "One pattern for all images", "Can one pattern zero every image?", 1),
    Notebook("appendix/07_networks", "Which endings can be zero", "Which networks can be zeroed at all?", 1),
]
DEVICE = """from helpers.runtime import pick_device

device = pick_device()  # a GPU if there is one that works"""
SETUP = f'''# Setup: finds the project here, on Colab or on Kaggle. Run this first.
import subprocess
import sys
from pathlib import Path

URL, TAG = "{URL}", "{TAG}"
clouds = [p for p in map(Path, ["/kaggle/working", "/content"]) if p.is_dir()]
near = [Path.cwd(), *Path.cwd().parents, *(p for c in clouds for p in c.iterdir())]
sets = (p for n in range(1, 5) for p in Path("/kaggle/input").glob("*/" * n))
found = (p for places in (near, sets) for p in places)
root = next((p for p in found if (p / "helpers/attack.py").is_file()), None)
if root is None and not clouds:
    sys.exit(f"There is no helpers/ here: clone {{URL}} and open the notebook there.")
if root is None:  # only the notebook is here: fetch the rest
    root = clouds[0] / URL.rsplit("/", 1)[1]
    git = f"git -c advice.detachedHead=false clone -q --depth=1 -b {{TAG}} {{URL}} {{root}}"
    done = subprocess.run(git, shell=True, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{{done.stderr}}Switch the Internet on, or attach {{URL}} as a data set.")
other = getattr(sys.modules.get("helpers"), "__file__", str(root))
if not Path(other).is_relative_to(root):
    sys.exit(f"{{other}} came first: restart the kernel and run this cell before it.")
sys.path.insert(0, str(root))
{DEVICE}'''


def header(notebook: Notebook) -> str:
    """The first cell: title, question, badges, time."""
    address = f"{URL.removeprefix('https://github.com/')}/blob/main/notebooks/{notebook.name}.ipynb"
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    number = f"Appendix to {notebook.chapter}:" if notebook in APPENDIX else f"{notebook.chapter}."
    return f"""# {number} {notebook.title}

*{notebook.question}*

[![Open in Colab]({badge})]({COLAB}/{address})
[![Open in Kaggle](https://kaggle.com/static/images/open-in-kaggle.svg)]({KAGGLE}/{address})

Time: about {notebook.minutes} min on a laptop without a GPU."""


def navigation(notebook: Notebook) -> str:
    """The last cell: links to the notebook before, the contents, the notebook after; in an appendix to its chapter."""
    parts, number = [f"[Contents]({URL}#the-notebooks)"], notebook.chapter
    if notebook in APPENDIX:
        chapter = NOTEBOOKS[number - 1]
        return " · ".join([f"Back to [{number}. {chapter.title}](../{chapter.path.name})", *parts])
    if number > 1:
        before = NOTEBOOKS[number - 2]
        parts.insert(0, f"Previous: [{before.title}]({before.path.name})")
    if number < len(NOTEBOOKS):
        after = NOTEBOOKS[number]
        parts.append(f"Next: [{after.title}]({after.path.name})")
    return " · ".join(parts)


def put(book: NotebookNode, tag: str, source: str, place: int) -> None:
    """Set the source of the cell with this tag; insert it at place when it is missing."""
    for cell in book.cells:
        if tag in cell.metadata.get("tags", []):
            cell.source = source
            return
    make = new_code_cell if tag == "setup" else new_markdown_cell
    book.cells.insert(place, make(source, metadata={"tags": [tag]}))


def synced(path: Path) -> str:
    """The text of a notebook with its shared cells as they should be."""
    book = nbformat.read(path, as_version=4)
    for notebook in NOTEBOOKS + APPENDIX:
        if path == notebook.path:
            put(book, "header", header(notebook), 0)
            put(book, "navigation", navigation(notebook), len(book.cells))
    first = next((i for i, cell in enumerate(book.cells) if cell.cell_type == "code"), len(book.cells))
    put(book, "setup", SETUP, first)
    book.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number:02d}"  # stable from run to run
        for key in ("execution", "collapsed"):
            cell.metadata.pop(key, None)
    return nbformat.writes(book) + "\n"


def reading(notebook: Notebook) -> int:
    """Minutes to read a notebook at 200 words a minute, text and code without setup, in steps of five."""
    cells = nbformat.read(notebook.path, as_version=4).cells
    words = sum(len(cell.source.split()) for cell in cells if "setup" not in cell.metadata.get("tags", []))
    return max(5, 5 * round(words / 200 / 5))


def readme(text: str) -> str:
    """The README with its table of notebooks, and the appendices of each chapter in one line."""
    rows = ["| notebook | the question it answers | read, min | run, min |", "|---|---|---|---|"]
    for n in NOTEBOOKS:
        link = f"{n.chapter}. [{n.title}](notebooks/{n.path.name})"
        rows.append(f"| {link} | {n.question} | {reading(n)} | {n.minutes} |")
    lines = []
    for chapter in sorted({n.chapter for n in APPENDIX}):
        links = [f"[{n.title}](notebooks/{n.name}.ipynb)" for n in APPENDIX if n.chapter == chapter]
        lines.append(f"- after {chapter}: {', '.join(links)}")
    table = "\n".join([*rows, "", "Appendices:", "", *lines])
    return re.sub(r"(<!-- notebooks -->\n).*?(\n<!-- end -->)", lambda m: m[1] + table + m[2], text, flags=re.S)


def main() -> int:
    books = [path for path in sorted((ROOT / "notebooks").rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    page = ROOT / "README.md"
    wanted = {path: synced(path) for path in books} | {page: readme(page.read_text(encoding="utf-8"))}
    return write_or_check(__doc__, wanted)


if __name__ == "__main__":
    sys.exit(main())
