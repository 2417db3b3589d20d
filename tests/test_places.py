"""The setup cell where readers run notebooks: a laptop, Colab, Kaggle; with and without the Internet.

The places are those of places.py; whole notebooks run there with `make everywhere`.
"""

import ast
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient
from places import COLAB, KAGGLE, LAYOUTS, ROOT, Place, code_cells, one_sentence

NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
MARK = Path("helpers") / "attack.py"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for git is a shell script")


@pytest.fixture(scope="module")
def tools() -> Iterator[None]:
    sys.path.insert(0, str(ROOT / "tools"))
    yield
    sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def pack_kaggle(tools: None) -> ModuleType:
    return importlib.import_module("pack_kaggle")


@pytest.fixture(scope="module")
def singles(tools: None, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """What `make single` writes."""
    folder = tmp_path_factory.mktemp("out") / "single"
    importlib.import_module("single_file").main(folder)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def packed(pack_kaggle: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make kaggle` packs: dataset/ and notebooks/."""
    folder = tmp_path_factory.mktemp("kaggle")
    pack_kaggle.pack(folder, "someone")
    return folder


def helpers_there() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "helpers"]


def forget_helpers() -> None:
    """As a new kernel."""
    for name in helpers_there():
        del sys.modules[name]


@pytest.fixture
def make_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Place]]:
    """make_place(source, **variables): a machine whose git copies source, or fails when it is not there."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for variable in (*COLAB, *KAGGLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("ZERO_OUT_OUT", "")  # as unset, and put back afterwards
    monkeypatch.delenv("ZERO_OUT_OUT")
    for name in helpers_there():
        monkeypatch.delitem(sys.modules, name)

    def make(source: Path | None = None, **variables: str) -> Place:
        place = Place(tmp_path / "top", tmp_path / "git.log")
        git = place.install_git(source or tmp_path / "nowhere")
        monkeypatch.setenv("PATH", f"{git}{os.pathsep}{os.environ['PATH']}")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return place

    with plt.rc_context():
        yield make
    forget_helpers()  # monkeypatch then puts the tests' own back


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project that holds the mark only."""
    (tmp_path / "small" / "helpers").mkdir(parents=True)
    (tmp_path / "small" / MARK).touch()
    return tmp_path / "small"


# --- where the helpers are --------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["", "notebooks", "notebooks/solutions"])
def test_on_a_laptop_the_cell_looks_upwards(folder: str, make_place: Callable[..., Place], monkeypatch) -> None:
    place = make_place()
    monkeypatch.chdir(ROOT / folder)
    assert place.setup(NOTEBOOKS[0]) == ROOT and not place.clones()


def test_away_from_the_repository_one_sentence_tells_what_to_do(make_place: Callable[..., Place], monkeypatch) -> None:
    place = make_place()
    monkeypatch.chdir(place.at("/home/reader"))
    assert_one_sentence(place, r"clone https://github\.com/\S+ and open it from there")


def assert_one_sentence(place: Place, remedy: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        place.setup(NOTEBOOKS[0])
    assert re.search(remedy, str(stopped.value)), stopped.value
    assert one_sentence(str(stopped.value))


def test_on_colab_the_tag_is_cloned_once(make_place: Callable[..., Place], small: Path, monkeypatch) -> None:
    place = make_place(small, **COLAB)
    place.at("/content/sample_data")
    monkeypatch.chdir(place.at("/content"))
    found = place.setup(NOTEBOOKS[0])
    assert found.parent == place.at("/content") and (found / MARK).is_file()
    assert place.setup(NOTEBOOKS[0]) == found, "the kernel was restarted"
    (call,) = place.clones()
    assert re.search(r"--depth=1 -b v\d+\.\d+\.\d+ https://github\.com/\S+/\S+ ", call)


@pytest.mark.parametrize("folder, variables", [("/content", COLAB), ("/kaggle/working", KAGGLE)])
def test_without_the_internet_a_cloud_says_so(
    folder: str, variables: dict[str, str], make_place: Callable[..., Place], monkeypatch
) -> None:
    place = make_place(None, **variables)
    place.at("/kaggle/input")
    monkeypatch.chdir(place.at(folder))
    assert_one_sentence(place, r"Switch the Internet on, or attach https://github\.com/\S+ as a data set")
    assert [path.name for path in place.at(folder).iterdir()] == [], "nothing half-made is left"


def test_on_kaggle_the_clone_goes_where_results_are_kept(make_place: Callable[..., Place], small, monkeypatch) -> None:
    """Kaggle's image is built on Colab's, and /content may be there too; only /kaggle/working is kept."""
    place = make_place(small, **KAGGLE)
    place.at("/content"), place.at("/kaggle/input")
    monkeypatch.chdir(place.at("/kaggle/working"))
    assert place.setup(NOTEBOOKS[0]).parent == place.at("/kaggle/working")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_attached_data_set_is_found(
    layout: str, make_place: Callable[..., Place], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(None, **KAGGLE)
    place.at("/kaggle/input/another-data-set/images")
    root = place.at(LAYOUTS[layout])
    (small / "helpers").rename(root / "helpers")
    monkeypatch.chdir(place.at("/kaggle/working"))
    assert place.setup(NOTEBOOKS[0]) == root and not place.clones()


def test_another_package_of_that_name_does_not_come_first(
    make_place: Callable[..., Place], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyPI has a package helpers that is something else."""
    place = make_place()
    other = place.at("/site-packages/helpers")
    (other / "__init__.py").write_text("raise ImportError('the other one')")
    sys.path.insert(0, str(other.parent))
    monkeypatch.chdir(small)
    (small / "helpers" / "__init__.py").touch()
    place.setup(NOTEBOOKS[0])
    assert Path(str(importlib.import_module("helpers").__file__)).is_relative_to(small)


# --- what the notebooks import there ----------------------------------------------------------------


def imports(path: Path) -> str:
    """All import lines of a notebook after its setup cell."""
    nodes = [node for text in code_cells(path)[1:] for node in ast.parse(text).body]
    return "\n".join(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))


@pytest.mark.parametrize("layout", ["slug", "owner and slug"])
def test_every_notebook_sets_up_and_imports_on_kaggle_without_the_internet(
    layout: str, make_place: Callable[..., Place], packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(None, **KAGGLE)
    root = place.at(LAYOUTS[layout])
    root.rmdir()
    root.symlink_to(packed / "dataset")
    monkeypatch.chdir(place.at("/kaggle/working"))
    for path in NOTEBOOKS:
        assert place.setup(path) == root
        exec(imports(path), {})
    images = sys.modules["helpers.images"]
    assert packed / "dataset" / "data" == images.DATA
    monkeypatch.setattr(os, "access", lambda *_: False)  # attached data sets are read-only
    assert images.out_folder() == place.at("/kaggle/working/out")
    networks = sys.modules["helpers.networks"]
    picture = images.load_image(images.DATA / "images" / "albatross.png")
    assert networks.efficientnet_lite0().predict(picture)[0][0][0] == "albatross"


@pytest.mark.parametrize("folder, variables", [("/content", COLAB), ("/kaggle/working", KAGGLE)])
def test_every_notebook_sets_up_and_imports_from_a_clone(
    folder: str, variables: dict[str, str], make_place: Callable[..., Place], packed: Path, monkeypatch
) -> None:
    place = make_place(packed / "dataset", **variables)
    monkeypatch.chdir(place.at(folder))
    for path in NOTEBOOKS:
        root = place.setup(path)
        assert root.parent == place.at(folder)
        exec(imports(path), {})
    assert len(place.clones()) == 1
    images = sys.modules["helpers.images"]
    assert root / "data" == images.DATA
    assert images.out_folder() == root / "out"


def test_a_notebook_alone_in_an_empty_folder_reaches_its_first_figure(
    make_place: Callable[..., Place], packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel of its own, as far as the first picture; the whole of it takes a minute."""
    place = make_place(packed / "dataset", **COLAB)
    folder = place.at("/content")
    book = nbformat.read(NOTEBOOKS[0], as_version=4)
    figures = [i for i, cell in enumerate(book.cells) if "'image/" in str(cell.get("outputs"))]
    book.cells = book.cells[: figures[0] + 1]
    for cell in book.cells:
        cell.outputs = [] if cell.cell_type == "code" else None
    setup = next(cell for cell in book.cells if cell.cell_type == "code")
    setup.source = place.moved(setup.source)
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs") or []]
    (figure,) = [o for o in outputs if {"image/png", "image/jpeg"} & set(o.get("data", {}))]
    assert figure.data["text/plain"]
    assert [path.name for path in folder.iterdir()] == ["zero-out-attack"]


# --- what make kaggle packs -------------------------------------------------------------------------


def test_the_data_set_is_whole_and_described(packed: Path) -> None:
    dataset = packed / "dataset"
    about = json.loads((dataset / "dataset-metadata.json").read_text(encoding="utf-8"))
    assert re.fullmatch(r"someone/[a-z0-9-]{6,50}", about["id"]) and 6 <= len(about["title"]) <= 50
    for folder in ("helpers", "data"):
        kept = [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
        for path in kept:
            if not path.name.startswith("."):
                copy = dataset / path.relative_to(ROOT)
                assert copy.stat().st_size == path.stat().st_size
    assert (dataset / "LICENSE").is_file() and (dataset / "pyproject.toml").is_file()
    assert not list(dataset.rglob("__pycache__"))


def test_each_notebook_has_its_folder(packed: Path) -> None:
    main = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert sorted(path.name for path in (packed / "notebooks").iterdir()) == main
    dataset = json.loads((packed / "dataset" / "dataset-metadata.json").read_text(encoding="utf-8"))["id"]
    for folder in (packed / "notebooks").iterdir():
        about = json.loads((folder / "kernel-metadata.json").read_text(encoding="utf-8"))
        assert (folder / about["code_file"]).read_bytes() == (ROOT / "notebooks" / about["code_file"]).read_bytes()
        assert about["dataset_sources"] == [dataset] and not about["enable_internet"]
        assert re.fullmatch(r"someone/[a-z0-9-]{5,50}", about["id"]) and len(about["title"]) <= 50


@pytest.mark.parametrize("owner", ["", "Some One", "a/b", "-a", "../x"])
def test_a_malformed_owner_is_refused_before_anything_is_written(
    owner: str, pack_kaggle: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(ValueError, match="give your Kaggle user name"):
        pack_kaggle.pack(tmp_path, owner)
    assert (tmp_path / "kept").exists()


# --- notebooks that need no other file --------------------------------------------------------------


def test_a_single_file_runs_in_an_empty_folder_with_weights_from_the_named_one(
    singles: list[Path], make_place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(None, ZERO_OUT_WEIGHTS=str(ROOT / "data" / "weights"))
    empty = place.at("/home/reader")
    monkeypatch.chdir(empty)
    assert [path.name for path in singles] == [path.name for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    for path in reversed(singles):  # the first last: it has all the weights and photos
        assert path.stat().st_size < 25_000_000, "small enough to upload"
        forget_helpers()
        root = place.setup(path)
        assert root.is_dir() and not root.is_relative_to(ROOT)
        exec(imports(path), {})
    images, networks = sys.modules["helpers.images"], sys.modules["helpers.networks"]
    assert root / "data" == images.DATA
    picture = images.load_image(images.DATA / "images" / "albatross.png")
    assert networks.efficientnet_lite0().predict(picture)[0][0][0] == "albatross"
    assert len(images.load_photos("test")[1]) > 10
    assert list(empty.iterdir()) == [] and images.out_folder() == empty / "out"


def test_a_single_file_differs_in_its_setup_cell_only(singles: list[Path]) -> None:
    for path in singles:
        cells = [nbformat.read(p, as_version=4).cells for p in (path, ROOT / "notebooks" / path.name)]
        different = [ours for ours, theirs in zip(*cells, strict=True) if ours.source != theirs.source]
        assert [cell.metadata.tags for cell in different] == [["setup"]]


def named(path: Path) -> set[Path]:
    """What a notebook reads below data/: DATA / "defences" / "zero" and load_photos("test"), as far as written out."""
    found = set()
    for node in (node for text in code_cells(path)[1:] for node in ast.walk(ast.parse(text))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_photos":
            found.add(Path("photos", ast.literal_eval(node.args[0])))
        elif isinstance(node, ast.BinOp) and re.match(r"DATA / '[^']*'$", ast.unparse(node)):
            found.add(Path(ast.literal_eval(node.right)))
        elif isinstance(node, ast.BinOp) and (parts := re.match(r"DATA / '([^']*)' / '([^']*)'$", ast.unparse(node))):
            found.add(Path(*parts.groups()))
    return {path for path in found if not any(path in other.parents for other in found)}


LOADED = {  # by these functions, when a notebook calls them
    "vgg16_base": {"vgg16_base_oxford.safetensors"},
    "efficientnet_lite0": {"efficientnet_lite0.safetensors"},
    "vgg16_hardened": {"vgg16_base_oxford.safetensors", "vgg16_hardened.safetensors"},
}


def test_the_weights_of_a_notebook_are_those_of_its_loaders() -> None:
    assert set().union(*LOADED.values()) == {path.name for path in (ROOT / "data" / "weights").iterdir()}


def test_a_single_file_carries_all_that_its_notebook_reads(
    singles: list[Path], make_place: Callable[..., Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(None, ZERO_OUT_WEIGHTS=str(ROOT / "data" / "weights"))
    monkeypatch.chdir(place.at("/home/reader"))
    for path in singles:
        forget_helpers()
        root = place.setup(path)
        assert named(path), path
        for data in named(path):
            files = [ROOT / "data" / data, *(ROOT / "data" / data).rglob("*")]
            missing = [file for file in files if not (root / file.relative_to(ROOT)).exists()]
            assert not missing, (path.name, missing)
        calls = {name for name in LOADED if f"{name}(" in "\n".join(code_cells(path)[1:])}
        weights = set().union(*(LOADED[name] for name in calls))
        assert weights and weights <= {file.name for file in (root / "data" / "weights").iterdir()}, path.name


def from_server(path: Path, address: str) -> str:
    """The setup cell of a single file with its weights at another address."""
    return re.sub(r'^URL = ".*"$', f'URL = "{address}/"', code_cells(path)[0], flags=re.M)


def test_a_single_file_downloads_its_weights_and_checks_them(
    singles: list[Path], make_place: Callable[..., Place], server: tuple, tmp_path: Path, monkeypatch
) -> None:
    place, (address, pages) = make_place(None, TORCH_HOME=str(tmp_path / "torch")), server
    monkeypatch.chdir(place.at("/home/reader"))
    for path in (ROOT / "data" / "weights").iterdir():
        pages[f"/{path.name}"] = path.read_bytes()[:-1] + b"!"
    with pytest.raises(SystemExit, match=r"is altered or cut short .*; delete it and get it again"):
        place.run(from_server(singles[0], address))
    for path in (ROOT / "data" / "weights").iterdir():
        pages[f"/{path.name}"] = path.read_bytes()
    place.run(from_server(singles[0], address))
    pages.clear()
    place.run(from_server(singles[0], address))  # the second time from torch's cache


def test_a_single_file_without_the_internet_says_what_to_do(
    singles: list[Path], make_place: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_place(None, TORCH_HOME=str(tmp_path / "torch"))
    monkeypatch.chdir(place.at("/home/reader"))
    remedy = r"put it into a folder and name that in ZERO_OUT_WEIGHTS, or switch the Internet on\. Source: https://raw"
    with pytest.raises(SystemExit, match=remedy):
        place.setup(singles[0])
