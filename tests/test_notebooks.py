"""The form of the notebooks; what their cells compute is compared by nbval."""

import itertools
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
import sync_notebooks
import torch
from nbformat import NotebookNode
from nets import corridor, lowering, noise, picture, random_net

from experiments.ch02_details import loop
from helpers.attack import zero_out

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/[as]*/*.ipynb")])
BOOKS = {path: nbformat.read(path, as_version=4) for path in PATHS}
MAIN = [path for path in BOOKS if path.parent.name == "notebooks"]
PICTURES = {"image/png", "image/jpeg"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def code_cells(book: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def outputs(*cells: NotebookNode) -> list[NotebookNode]:
    return [output for cell in cells for output in cell.get("outputs", [])]


def is_setup(cell: NotebookNode) -> bool:
    return "setup" in cell.metadata.get("tags", [])


def breaking(rule: Callable[[NotebookNode], bool]) -> list[str]:
    """The notebooks that do not keep a rule."""
    return [path.stem for path, book in BOOKS.items() if not rule(book)]


def test_header_setup_cell_and_navigation_have_not_drifted() -> None:
    assert [path.stem for path in BOOKS if path.read_text(encoding="utf-8") != sync_notebooks.synced(path)] == []
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<!-- notebooks -->" in readme and readme == sync_notebooks.readme(readme)


def test_each_notebook_has_solutions() -> None:
    solutions = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
    assert [path.stem for path in solutions] == [f"{path.stem}_solutions" for path in MAIN]


def test_github_can_show_them() -> None:
    """GitHub refuses widget state and large files."""
    for book in BOOKS.values():
        nbformat.validate(book)
    assert breaking(lambda book: "widgets" not in book.metadata) == []
    assert [path.stem for path in BOOKS if path.stat().st_size > 2_000_000] == []


def test_cells_were_run_once_from_top_to_bottom_without_a_warning() -> None:
    def keeps(book: NotebookNode) -> bool:
        counts = [cell.execution_count for cell in code_cells(book)]
        troubles = [o for o in outputs(*book.cells) if o.output_type == "error" or o.get("name") == "stderr"]
        return counts == list(range(1, len(counts) + 1)) and not troubles

    assert breaking(keeps) == []


def test_sliders_have_a_still_twin() -> None:
    shown = [output.get("data", {}) for book in BOOKS.values() for output in outputs(*book.cells)]
    sliders = [data for data in shown if WIDGET in data]
    assert sliders and all(PICTURES & {*data} for data in sliders)


def test_code_fits_the_page() -> None:
    def fits(cell: NotebookNode) -> bool:
        lines = [line for line in cell.source.splitlines() if line.strip()]
        return is_setup(cell) or (len(lines) <= 20 and max(map(len, lines)) <= 79)

    assert breaking(lambda book: all(map(fits, code_cells(book)))) == []


def test_every_figure_has_a_text_and_no_two_touch() -> None:
    def texts(cell: NotebookNode) -> list[str]:
        return [o.metadata[kind].alt for o in outputs(cell) for kind in PICTURES & {*o.get("data", {})}]

    def keeps(book: NotebookNode) -> bool:
        found = [texts(cell) for cell in book.cells]
        touching = [one and other for one, other in itertools.pairwise(found)]
        return not any(touching) and all(len(text.split()) >= 4 for one in found for text in one)

    assert breaking(keeps) == []


@pytest.mark.parametrize("path", [path for path in BOOKS if "solutions" not in path.parts], ids=lambda path: path.stem)
def test_the_order_of_a_notebook(path: Path) -> None:
    cells = BOOKS[path].cells
    assert "**You will learn**" in cells[1].source and "**You need**" in cells[1].source
    assert [cell.cell_type for cell in cells[:3]] == ["markdown", "markdown", "code"]
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert len([heading for heading in headings if heading.startswith("# ")]) == 1
    assert headings[-3:] == ["## What we saw", "## Try it yourself", "## References"]
    assert outputs(*code_cells(BOOKS[path])[2:6]), "something is seen within four cells after setup and imports"


# --- the loop of notebook 02 ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand() -> Callable[..., torch.Tensor]:
    """The function zero_out_by_hand of notebook 02."""
    return loop()


@pytest.mark.parametrize(
    "base, image, eps",
    [
        (lowering(90.5), picture(100.0), 12),
        (lowering(90.5), picture(120.0), 12),
        (corridor(100.5, 110.5), picture(130.0), 60),
        (random_net(), noise(), 40),
    ],
    ids=["near", "too far", "a corridor", "a bumpy way"],
)
def test_the_loop_written_by_hand_takes_the_steps_of_the_helper(base, image, eps, by_hand) -> None:
    """The same features left after each step, and the same image at the end where it is zeroed."""
    settings, counts = {"eps": eps / 255, "steps": 120, "step_size": 4 / 255}, []
    found = by_hand(base, image, **settings, log=counts.append).detach()
    result = zero_out(base, image, **settings)
    assert counts == result.history[0]
    if result.nonzero == [0]:
        assert torch.equal(found, result.images)
