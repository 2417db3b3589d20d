"""The form of the notebooks; what their cells compute is compared by nbval."""

import ast
from pathlib import Path

import nbformat
import pytest
import sync_notebooks
import torch
from nbformat import NotebookNode
from nets import corridor, lowering, noise, picture, random_net

from helpers.attack import zero_out

ROOT = Path(__file__).resolve().parents[1]
MAIN = sorted((ROOT / "notebooks").glob("*.ipynb"))
MORE = sorted((ROOT / "notebooks" / "appendix").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
PICTURES = {"image/png", "image/jpeg"}
WIDGET = "application/vnd.jupyter.widget-view+json"

each_notebook = pytest.mark.parametrize("path", MAIN + MORE + SOLUTIONS, ids=lambda path: path.stem)
each_main = pytest.mark.parametrize("path", MAIN, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(cells: list[NotebookNode]) -> list[NotebookNode]:
    return [output for cell in cells for output in cell.get("outputs", [])]


def headings(path: Path) -> list[str]:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return [line for line in text.splitlines() if line.startswith("#")]


@each_notebook
def test_header_setup_cell_and_navigation_have_not_drifted(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == sync_notebooks.synced(path)


def test_the_readmes_table_has_not_drifted() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == sync_notebooks.readme(text)


@each_notebook
def test_github_can_show_it(path: Path) -> None:
    """GitHub refuses widget state and large files."""
    nbformat.validate(read(path))
    assert "widgets" not in read(path).metadata
    assert path.stat().st_size < 2_000_000


@each_notebook
def test_cells_were_run_once_from_top_to_bottom_without_a_warning(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for o in outputs(cells) if o.output_type == "error" or o.get("name") == "stderr"]


@each_notebook
def test_sliders_have_a_still_twin(path: Path) -> None:
    for output in outputs(code_cells(path)):
        if WIDGET in (data := output.get("data", {})):
            assert "text/plain" in data and (PICTURES & set(data) or "upload" in data["text/plain"])


@each_notebook
def test_code_fits_the_page(path: Path) -> None:
    for cell in code_cells(path):
        if "setup" not in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 20 and max(map(len, lines)) <= 79, cell.source


@each_notebook
def test_every_figure_has_a_text_and_no_two_touch(path: Path) -> None:
    before = False
    for cell in read(path).cells:
        described = [
            output.metadata[kind].alt for output in outputs([cell]) for kind in PICTURES & {*output.get("data", {})}
        ]
        assert all(len(alt.split()) >= 4 for alt in described), cell.source
        assert not (before and described), cell.source
        before = bool(described)


@each_main
def test_the_order_of_a_notebook(path: Path) -> None:
    cells = read(path).cells
    assert "**You will learn**" in cells[1].source and "**You need**" in cells[1].source
    assert [cell.cell_type for cell in cells[:3]] == ["markdown", "markdown", "code"]
    assert len([heading for heading in headings(path) if heading.startswith("# ")]) == 1
    assert [heading.removeprefix("## ") for heading in headings(path)][-3:] == [
        "What we saw", "Try it yourself", "References",
    ]  # fmt: skip


@each_main
def test_something_is_seen_within_four_cells_after_setup_and_imports(path: Path) -> None:
    assert any(cell.outputs for cell in code_cells(path)[2:6])


def test_each_notebook_has_solutions() -> None:
    assert [path.stem for path in SOLUTIONS] == [f"{path.stem}_solutions" for path in MAIN]


# --- the loop of notebook 02 ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand() -> object:
    """The function zero_out_by_hand of notebook 02, with all imports and functions that stand there."""
    cells = [cell for cell in code_cells(MAIN[1]) if "setup" not in cell.metadata.get("tags", [])]
    nodes = [node for cell in cells for node in ast.parse(cell.source).body]
    kept = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef)]
    names: dict[str, object] = {}
    exec(compile(ast.Module(kept, []), "02", "exec"), names)
    return names["zero_out_by_hand"]


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
