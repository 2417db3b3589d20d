"""The form of the notebooks, the page and the helpers; what the cells compute is compared by nbval."""

import ast
import hashlib
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat import NotebookNode
from nets import corridor, levels, lowering, picture

from helpers import weights
from helpers.attack import zero_out
from helpers.images import on_grid

ROOT = Path(__file__).resolve().parents[1]
MAIN = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
PAGES = [path for path in (ROOT / "README.md", ROOT / "data" / "README.md") if path.is_file()]
HELPERS = sorted((ROOT / "helpers").glob("*.py"))

each_notebook = pytest.mark.parametrize("path", MAIN + SOLUTIONS, ids=lambda path: path.stem)
each_main = pytest.mark.parametrize("path", MAIN, ids=lambda path: path.stem)


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def headings(path: Path) -> list[str]:
    """Markdown headings, without lines in code blocks."""
    text = re.sub(r"^```.*?^```", "", prose(path), flags=re.M | re.S)
    return re.findall(r"^#+ .*$", text, flags=re.M)


PICTURES = ("image/png", "image/jpeg")


def pictures(cell: NotebookNode) -> list[tuple[NotebookNode, str]]:
    """Outputs that hold a picture, each with its kind."""
    outputs = cell.get("outputs", [])
    return [(output, kind) for output in outputs for kind in PICTURES if kind in output.get("data", {})]


# --- notebooks ------------------------------------------------------------------------------------


def test_headers_setup_cells_and_navigation_have_not_drifted() -> None:
    if not (ROOT / "README.md").is_file():
        pytest.skip("there is no README.md yet")
    command = [sys.executable, "tools/sync_notebooks.py", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr


@each_notebook
def test_notebooks_are_well_formed(path: Path) -> None:
    nbformat.validate(read(path))


@each_notebook
def test_cells_were_run_once_from_top_to_bottom(path: Path) -> None:
    counts = [cell.execution_count for cell in code_cells(path) if cell.source.strip()]
    assert counts == list(range(1, len(counts) + 1))


@each_notebook
def test_no_output_is_an_error_or_a_warning(path: Path) -> None:
    outputs = [output for cell in code_cells(path) for output in cell.outputs]
    assert not [output.ename for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


@each_notebook
def test_no_widget_state_is_stored(path: Path) -> None:
    """It breaks the page on GitHub."""
    book = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in book["metadata"]
    assert book["metadata"]["kernelspec"]["name"] == "python3"


@each_notebook
def test_widgets_have_a_still_twin(path: Path) -> None:
    for cell in code_cells(path):
        for output in cell.outputs:
            data = output.get("data", {})
            if "application/vnd.jupyter.widget-view+json" in data:
                assert "text/plain" in data, cell.source
                assert set(PICTURES) & set(data) or "choose_file(" in cell.source, "a button shows no picture"


@each_notebook
def test_notebooks_are_small(path: Path) -> None:
    assert path.stat().st_size < 2_000_000


@each_notebook
def test_there_is_one_title(path: Path) -> None:
    assert len([heading for heading in headings(path) if heading.startswith("# ")]) == 1


@each_notebook
def test_code_fits_the_page(path: Path) -> None:
    for cell in code_cells(path):
        if "setup" in cell.metadata.get("tags", []):
            continue  # generated, and the same everywhere
        lines = [line for line in cell.source.splitlines() if line.strip()]
        assert len(lines) <= 20, cell.source
        assert not [line for line in lines if len(line) > 79]


@each_notebook
def test_code_parses_and_uses_no_magic(path: Path) -> None:
    for cell in code_cells(path):
        ast.parse(cell.source)


@each_notebook
def test_every_figure_has_a_text_and_no_two_touch(path: Path) -> None:
    before = None
    for cell in read(path).cells:
        for output, kind in pictures(cell):
            alt = output.metadata.get(kind, {}).get("alt", "")
            assert len(alt.split()) >= 4, cell.source
        assert not (pictures(cell) and before is not None and pictures(before)), cell.source
        before = cell


@each_main
def test_sections_at_the_end(path: Path) -> None:
    found = [heading.removeprefix("## ") for heading in headings(path)]
    assert found[-3:] == ["What we saw", "Try it yourself", "References"]


@each_main
def test_solutions_are_there(path: Path) -> None:
    assert ROOT / "notebooks" / "solutions" / f"{path.stem}_solutions.ipynb" in SOLUTIONS


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_belong_to_a_notebook(path: Path) -> None:
    assert ROOT / "notebooks" / f"{path.stem.removesuffix('_solutions')}.ipynb" in MAIN


@each_main
def test_notebooks_start_with_what_they_need(path: Path) -> None:
    cells = read(path).cells
    assert "**You will learn**" in cells[1].source and "**You need**" in cells[1].source
    assert [cell.cell_type for cell in cells[:3]] == ["markdown", "markdown", "code"]
    with_output = [i for i, cell in enumerate(code_cells(path)) if cell.outputs]
    assert with_output and with_output[0] <= 5, "something is seen within four cells after setup and imports"


@each_main
def test_every_claim_is_also_asserted(path: Path) -> None:
    nodes = [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]
    assert any(
        isinstance(node, ast.Assert) or getattr(getattr(node, "func", None), "id", "") == "expect" for node in nodes
    )


# --- links and words ------------------------------------------------------------------------------


def links(text: str) -> list[str]:
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    found = re.findall(r"\]\(\s*<?([^)>\s]+)", text) + re.findall(r"(?:src|href)=[\"']([^\"']+)", text)
    return [link for link in found if not re.match(r"(https?:|mailto:|data:|attachment:)", link)]


@pytest.mark.parametrize("path", MAIN + SOLUTIONS + PAGES, ids=lambda path: path.name)
def test_local_links_lead_somewhere(path: Path) -> None:
    text = prose(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    for link in links(text):
        target, _, anchor = link.partition("#")
        assert (path.parent / target).exists(), link
        if not target:
            names = {re.sub(r"[^\w\- ]", "", h.lstrip("# ").lower()).replace(" ", "-") for h in page_headings(text)}
            assert anchor in names, link


def page_headings(text: str) -> list[str]:
    return re.findall(r"^#+ .*$", text, flags=re.M)


FORBIDDEN = ["first to zero features", "undetectable", "/work/", "/tmp/", "/root/", "/home/"]


def words(path: Path) -> str:
    """All text of a file; of a notebook its sources and text outputs, not its pictures."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    parts = []
    for cell in read(path).cells:
        parts.append(cell.source)
        for output in cell.get("outputs", []):
            parts.append(str(output.get("text", "")))
            parts += [str(value) for kind, value in output.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join(parts)


@pytest.mark.parametrize("path", MAIN + SOLUTIONS + PAGES + HELPERS, ids=lambda path: path.name)
def test_words_that_promise_too_much_or_belong_to_one_machine(path: Path) -> None:
    text = words(path).lower()
    assert [word for word in FORBIDDEN if word in text] == []


# --- the loop of notebook 02 ----------------------------------------------------------------------

ALBATROSS = ROOT / "notebooks" / "02_albatross.ipynb"


def calls_nothing(node: ast.stmt) -> bool:
    """Whether this sets a constant in capitals from plain values."""
    if not isinstance(node, ast.Assign) or any(isinstance(n, ast.Call) for n in ast.walk(node.value)):
        return False
    return all(isinstance(target, ast.Name) and target.id.isupper() for target in node.targets)


@pytest.fixture
def by_hand() -> object:
    """The function zero_out_by_hand of notebook 02, with the imports, constants and functions it needs."""
    if not ALBATROSS.is_file():
        pytest.skip("notebook 02 is not there yet")
    cells = [cell for cell in code_cells(ALBATROSS) if "setup" not in cell.metadata.get("tags", [])]
    nodes = [node for cell in cells for node in ast.parse(cell.source).body]
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    needed, waiting = [], ["zero_out_by_hand"]
    while waiting:  # the function, those it names, those they name
        function = functions.pop(waiting.pop(), None)
        if function is not None:
            needed.append(function)
            waiting += [node.id for node in ast.walk(function) if isinstance(node, ast.Name)]
    assert needed, "the loop is written out in notebook 02"
    top = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) or calls_nothing(node)]
    namespace: dict[str, object] = {}
    exec(compile(ast.Module([*top, *needed], []), str(ALBATROSS), "exec"), namespace)
    return namespace["zero_out_by_hand"]


def test_the_loop_written_by_hand_is_short(by_hand: object) -> None:
    nodes = [node for cell in code_cells(ALBATROSS) for node in ast.walk(ast.parse(cell.source))]
    function = next(n for n in nodes if isinstance(n, ast.FunctionDef) and n.name == "zero_out_by_hand")
    lines = [line for node in function.body for line in ast.unparse(node).splitlines()]
    assert len(lines) - (ast.get_docstring(function) is not None) <= 18


@pytest.mark.parametrize("level, eps, zeroed", [(100.0, 12, True), (120.0, 12, False), (60.0, 12, True)])
def test_the_loop_written_by_hand_does_what_the_helper_does(
    by_hand: object, level: float, eps: int, zeroed: bool
) -> None:
    base, image = lowering(90.5), picture(level)
    before = image.clone()
    found = by_hand(base, image, eps / 255, 60, 4 / 255).detach()
    helper = zero_out(base, image, eps=eps / 255, steps=60, step_size=4 / 255, autocast=False)
    assert torch.equal(image, before)
    assert on_grid(found) and found.min() >= 0 and found.max() <= 1
    assert (levels(found) - levels(image)).abs().max() <= eps
    left = int(base.features(found).ne(0).sum())
    assert [left] == helper.nonzero
    assert (left == 0) is zeroed


def test_the_loop_written_by_hand_finds_a_corridor_too(by_hand: object) -> None:
    """Zero only between red 101 and 110: from 130 it must go down, and not too far."""
    base, image = corridor(100.5, 110.5), picture(130.0)
    found = by_hand(base, image, 60 / 255, 150, 4 / 255).detach()
    helper = zero_out(base, image, eps=60 / 255, steps=150, step_size=4 / 255, autocast=False)
    assert helper.nonzero == [0]
    assert not base.features(found).any()
    assert levels(found)[:, 0].min() >= 101 and levels(found)[:, 0].max() <= 110


# --- helpers --------------------------------------------------------------------------------------

FLOORS = {
    "images": 0, "runtime": 0, "weights": 0,
    "base": 1.1, "walk": 1.2, "cache": 1.3, "networks": 1.4, "certificate": 1.5,
    "attack": 2, "activations": 3, "sweeps": 3, "defences": 3, "universal": 3, "harden": 3, "detectors": 4, "bypass": 4,
    "plots": 4, "charts": 5, "sliders": 5,
}  # fmt: skip


def imported(path: Path) -> set[str]:
    """The helpers that a helper imports, anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the floor"
            if node.module == "helpers":
                names |= {alias.name for alias in node.names}
            elif node.module and node.module.startswith("helpers."):
                names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("helpers.")}
    return names


@pytest.mark.parametrize("path", [p for p in HELPERS if p.stem != "__init__"], ids=lambda path: path.stem)
def test_helpers_import_lower_floors_only(path: Path) -> None:
    """So there can be no circle either."""
    assert path.stem in FLOORS, "a new helper needs a floor"
    assert {name for name in imported(path) if FLOORS[name] >= FLOORS[path.stem]} == set()


def test_helpers_do_not_import_plots_or_networks_by_themselves() -> None:
    assert imported(ROOT / "helpers" / "__init__.py") == set()


@pytest.mark.parametrize("path", [p for p in HELPERS if p.stem != "__init__"], ids=lambda path: path.stem)
def test_public_helpers_are_typed_and_described(path: Path) -> None:
    module = importlib.import_module(f"helpers.{path.stem}")
    assert module.__doc__
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert node.returns is not None and all(a.annotation is not None for a in arguments), node.name
            described = ast.get_docstring(node) is not None
            assert described or node.name.startswith("_"), node.name
            assert node.name.isascii(), node.name
            first = node.body[described] if len(node.body) > described else node.body[0]
            assert node.end_lineno - first.lineno < 40, f"{node.name} is long"


# --- files that describe the project -----------------------------------------------------------------


def test_the_conda_file_names_only_python_pip_and_the_project() -> None:
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    items = [line.strip().removeprefix("- ") for line in lines if line.strip().startswith("- ")]
    assert [re.split("[=<> ]", item)[0] for item in items[:2]] == ["python", "pip"]
    assert items[2:] == ["pip:", "-e .[dev]"]


def listed() -> dict[str, str]:
    page = ROOT / "data" / "README.md"
    if not page.is_file():
        pytest.skip("data/README.md is not there yet")
    return {
        name: digest
        for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", page.read_text(encoding="utf-8"), flags=re.M)
    }


def test_every_data_file_is_described_with_its_hash() -> None:
    data = ROOT / "data"
    files = [p for p in data.rglob("*") if p.is_file() and p != data / "README.md" and not p.name.startswith(".")]
    found = {p.relative_to(data).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
    assert found == listed()


@pytest.mark.parametrize("file", [weights.VGG16_BASE, weights.EFFICIENTNET_LITE0], ids=lambda file: file.name)
def test_the_described_weights_are_those_that_are_loaded(file: weights.WeightFile) -> None:
    assert file.algorithm == "sha256"
    assert listed()[f"weights/{file.name}"] == file.digest


def test_the_repository_stays_small() -> None:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if run.returncode:
        pytest.skip("not a git checkout")
    sizes = [(ROOT / name).stat().st_size for name in run.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len(sizes) > 20 and sum(sizes) < 60_000_000
