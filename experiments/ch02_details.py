"""What each detail of the loop of notebook 02 buys, data/bench/details.csv: features left after each step.

The functions are those of the notebook, so the curves are of the code that its readers see.
"""

import ast
from collections.abc import Callable, Sequence

import nbformat
import torch
from torch import Tensor

from experiments.common import TABLES, picture, vgg16
from experiments.tables import Row, fill
from helpers.images import DATA, to_grid

NOTEBOOK = DATA.parent / "notebooks" / "02_albatross.ipynb"
STEPS = 80
DETAILS = {
    "margin": {"growth": 0.0, "grid": torch.clone},
    "weights": {"margin": 0.0, "grid": torch.clone},
    "margin and weights": {"grid": torch.clone},
}


def loop() -> Callable[..., Tensor]:
    """zero_out_by_hand of notebook 02."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    nodes = [
        node for cell in cells if "setup" not in cell.metadata.get("tags", []) for node in ast.parse(cell.source).body
    ]
    kept = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    names: dict[str, object] = {}
    exec(compile(ast.Module(kept, []), NOTEBOOK.name, "exec"), names)
    return names["zero_out_by_hand"]


def rows(cell: Row) -> list[Row]:
    """Features left after each step, on the albatross at 8/255; where none is left, also those of the rounded image."""
    image, counts = picture("albatross"), []
    found = loop()(vgg16(), image, 8 / 255, STEPS, 16 / 255, log=counts.append, **DETAILS[cell["details"]])
    made = [{"step": step, "left": left, "rounded": None} for step, left in enumerate(counts)]
    if counts[-1] == 0:
        made[-1]["rounded"] = vgg16().verdict(to_grid(found))[0].item()
    return made


def main(_: Sequence[str]) -> None:
    fill(TABLES / "details.csv", [{"details": name} for name in DETAILS], rows)
