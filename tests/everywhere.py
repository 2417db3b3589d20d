"""Run whole notebooks where readers run them: part of `make places`. Slow; nothing here is a test.

    python tests/everywhere.py [--place kaggle single] [--notebook 02 05] [--python OTHER/bin/python]

The places are rebuilt below a temporary folder (tests/places.py) and hold only the notebook, with an
empty home, a git that is no git, and proxies that lead nowhere. An attached data set is read-only.
--python runs the kernel of another environment, which needs ipykernel and the dependencies.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from places import COLAB, KAGGLE, LAYOUTS, ROOT, Place

sys.path.insert(0, str(ROOT / "tools"))
import pack_kaggle
import single_file

# What runs after the last cell: the helpers came from the place, not from an installed project.
LAST = "import helpers\nprint(helpers.__file__)"
ENDED, STOPPED = "ran to its end", "stopped at its first cell"


@dataclass(frozen=True)
class Where:
    """What a place has, and what a notebook shall do there."""

    folder: str  # where the notebook lies
    variables: dict[str, str] = field(default_factory=dict)
    attached: str = ""  # where the project is attached
    clones: bool = False  # git reaches the project
    single: bool = False  # the notebook is the one of `make single`
    shall: str = ENDED


PLACES = {
    "kaggle": Where("/kaggle/working", KAGGLE, LAYOUTS["slug"]),
    "kaggle-owner": Where("/kaggle/working", KAGGLE, LAYOUTS["owner and slug"]),
    "colab": Where("/content", COLAB, clones=True),
    "single": Where("/home/reader", {"ZERO_OUT_WEIGHTS": str(ROOT / "data" / "weights")}, single=True),
    "empty": Where("/home/reader", shall=STOPPED),
    "colab-offline": Where("/content", COLAB, shall=STOPPED),
    "kaggle-offline": Where("/kaggle/working", KAGGLE, shall=STOPPED),
    "single-offline": Where("/home/reader", single=True, shall=STOPPED),
}


def kernelspec(folder: Path, python: str) -> None:
    """A kernel that runs that Python; the administrator's powers over read-only folders are dropped."""
    argv = [python, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=ERROR"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        argv = ["setpriv", "--bounding-set=-dac_override", *argv]
    spec = folder / "kernels" / "everywhere"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": python, "language": "python"}))
    os.environ["JUPYTER_PATH"] = str(folder)


def furnish(where: Where, place: Place, project: Path) -> dict[str, str]:
    """Put into a place what it has; return the variables of its kernel."""
    if where.attached:
        shutil.copytree(project, place.at(where.attached), dirs_exist_ok=True)
        for path in [place.at(where.attached), *place.at(where.attached).rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
    git = place.install_git(project if where.clones else place.top / "nowhere")
    own = ("ZERO_OUT_", "COLAB_", "KAGGLE_", "XDG_", "TORCH_", "HF_", "KERAS_", "PYTHON", "MPL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    folders = {"HOME": str(place.at("/root")), "TMPDIR": str(place.at("/tmp"))}
    path = f"{git}{os.pathsep}{kept['PATH']}"
    return {**kept, **proxies, **folders, **where.variables, "PATH": path}


def outcome(book: NotebookNode, path: Path, place: Place, where: Where, environment: dict[str, str]) -> str:
    """Run a notebook in its place; what became of it."""
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    cells[0].source = place.moved(cells[0].source)
    book.cells.append(nbformat.v4.new_code_cell(LAST))
    resources = {"metadata": {"path": str(Path(shutil.copy(path, place.at(where.folder))).parent)}}
    try:
        NotebookClient(book, kernel_name="everywhere", resources=resources).execute(env=environment)
    except (CellExecutionError, DeadKernelError) as error:
        number = max(cell.execution_count or 0 for cell in cells)
        kind, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", str(error))
        if number == 1 and kind == "SystemExit":
            return f"{STOPPED}: {text}"
        return f"failed at cell {number}: {kind}: {text}"
    found = book.cells[-1].outputs[0].text.strip()
    return ENDED if Path(found).is_relative_to(place.top) else f"failed at its end: helpers came from {found}"


def visit(name: str, path: Path, project: Path) -> bool:
    """One notebook in one place: prints a row of the table; whether it did what it shall do there."""
    where, start = PLACES[name], time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="everywhere-") as folder:
        place = Place(Path(folder).resolve(), Path(folder) / "git.log")
        if where.single:
            path = place.at("/upload") / path.name
            path.write_text(single_file.single(ROOT / "notebooks" / path.name), encoding="utf-8")
        book = nbformat.read(path, as_version=4)
        text = outcome(book, path, place, where, furnish(where, place, project))
    mark = "ok" if text.startswith(where.shall) else "NO"
    print(f"{mark} | {name:14} | {path.stem:14} | {time.perf_counter() - start:4.0f} s | {text}", flush=True)
    return mark == "ok"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", nargs="+", default=list(PLACES), choices=PLACES)
    parser.add_argument("--notebook", nargs="+", default=[""], help="how its name begins, for example 02")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs the kernel")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everywhere-") as folder:
        kernelspec(Path(folder) / "jupyter", given.python)
        project, *_ = pack_kaggle.pack(Path(folder) / "kaggle")
        notebooks = sorted(path for start in given.notebook for path in (ROOT / "notebooks").glob(f"{start}*.ipynb"))
        done = [visit(name, path, project) for path in notebooks for name in given.place]
    print(f"{sum(done)} of {len(done)} as they shall")
    return int(not all(done))


if __name__ == "__main__":
    sys.exit(main())
