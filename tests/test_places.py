"""The setup cell where readers run notebooks: a laptop, Colab, Kaggle; with and without the Internet.

The places are those of places.py. Whole notebooks run there with `make places`.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pack_kaggle
import pytest
import single_file
from places import COLAB, KAGGLE, LAYOUTS, ROOT, Place, code_cells
from sync_notebooks import SETUP

Make = Callable[..., Place]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-in for git is a shell script")


def forget_helpers() -> None:
    """As a new kernel."""
    for name in [name for name in sys.modules if name.split(".")[0] == "helpers"]:
        del sys.modules[name]


@pytest.fixture
def make_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """make_place(folder, source, **variables): a machine, where we are, whose git copies source, or fails."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for variable in (*COLAB, *KAGGLE, "ZERO_OUT_OUT"):
        monkeypatch.setenv(variable, "")  # put back afterwards, whatever a setup cell does
        monkeypatch.delenv(variable)
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "helpers"}
    forget_helpers()

    def make(folder: str, source: Path | None = None, **variables: str) -> Place:
        place = Place(tmp_path / "top", tmp_path / "git.log")
        git = place.install_git(source or tmp_path / "nowhere")
        monkeypatch.setenv("PATH", f"{git}{os.pathsep}{os.environ['PATH']}")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(place.at(folder))
        return place

    yield make
    forget_helpers()
    sys.modules.update(kept)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A project that holds only what the setup cell wants."""
    folder = tmp_path / "small" / "helpers"
    folder.mkdir(parents=True)
    for name in ("__init__.py", "attack.py"):
        (folder / name).touch()
    (folder / "runtime.py").write_text("def pick_device(): return 'cpu'")
    return tmp_path / "small"


# --- where the helpers are --------------------------------------------------------------------------


def test_on_a_laptop_the_cell_looks_upwards(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_place("/home/reader")
    monkeypatch.chdir(ROOT / "notebooks" / "solutions")
    assert place.setup(SETUP) == ROOT and not place.clones()


def test_away_from_the_project_a_sentence_tells_what_to_do(make_place: Make) -> None:
    with pytest.raises(SystemExit, match=r"clone https://github\.com/\S+ and open the notebook there"):
        make_place("/home/reader").setup(SETUP)


@pytest.mark.parametrize("folder, variables", [("/content", COLAB), ("/kaggle/working", KAGGLE)])
def test_in_a_cloud_the_tag_is_cloned_once(folder, variables, make_place: Make, small: Path) -> None:
    place = make_place(folder, small, **variables)
    place.at("/content/sample_data")  # Kaggle's image is built on Colab's; only /kaggle/working is kept
    found = place.setup(SETUP)
    assert found.parent == place.at(folder)
    assert place.setup(SETUP) == found, "the kernel was restarted"
    (call,) = place.clones()
    assert re.search(r"--depth=1 -b v\d+\.\d+\.\d+ https://github\.com/\S+/\S+ ", call)


def test_a_failed_clone_says_what_failed_and_what_helps(make_place: Make) -> None:
    place = make_place("/content", **COLAB)
    with pytest.raises(SystemExit, match=r"(?s)not resolve host.*Switch the Internet on, or attach https://\S+ as"):
        place.setup(SETUP)
    assert not list(place.at("/content").iterdir()), "nothing half-made is left"


def test_without_git_the_cell_says_so(make_place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_place("/content", **COLAB)
    monkeypatch.setenv("PATH", str(place.at("/empty")))
    with pytest.raises(SystemExit, match=r"git.*not found"):
        place.setup(SETUP)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_attached_data_set_is_found(layout: str, make_place: Make, small: Path) -> None:
    place = make_place("/kaggle/working", **KAGGLE)
    place.at("/kaggle/input/another-data-set/images")
    root = place.at(LAYOUTS[layout])
    (small / "helpers").rename(root / "helpers")
    assert place.setup(SETUP) == root and not place.clones()


def test_a_readers_own_helpers_does_not_come_first(make_place: Make, small: Path, monkeypatch) -> None:
    place = make_place("/home/reader")
    (small / "notebooks").mkdir()
    (small / "notebooks" / "helpers.py").touch()
    monkeypatch.chdir(small / "notebooks")
    sys.path.insert(0, str(small / "notebooks"))
    place.setup(SETUP)
    assert Path(str(importlib.import_module("helpers").__file__)).parent == small / "helpers"


def test_another_helpers_that_was_imported_before_is_named(make_place: Make, monkeypatch) -> None:
    place = make_place("/home/reader")
    (place.at("/home/reader") / "helpers.py").touch()
    sys.path.insert(0, str(place.at("/home/reader")))
    importlib.import_module("helpers")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit, match=r"reader/helpers\.py came first: restart the kernel"):
        place.setup(SETUP)


# --- packed forms: whole notebooks run there with everywhere.py ----------------------------------------


@pytest.mark.places
def test_what_kaggle_wants_is_beside_the_files(tmp_path: Path) -> None:
    folder, *_ = pack_kaggle.pack(tmp_path, "someone")
    dataset = json.loads((folder / "dataset-metadata.json").read_text(encoding="utf-8"))
    assert re.fullmatch(r"someone/[a-z0-9-]{6,50}", dataset["id"]) and 6 <= len(dataset["title"]) <= 50
    assert not list(folder.rglob("__pycache__"))
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        place = tmp_path / "notebooks" / path.stem
        about = json.loads((place / "kernel-metadata.json").read_text(encoding="utf-8"))
        assert (place / about["code_file"]).read_bytes() == path.read_bytes()
        assert about["dataset_sources"] == [dataset["id"]] and not about["enable_internet"]
        assert re.fullmatch(r"someone/[a-z0-9-]{5,50}", about["id"]) and len(about["title"]) <= 50


@pytest.mark.parametrize("owner", ["", "Some One", "../x"])
def test_a_malformed_owner_is_refused_before_anything_is_removed(owner: str, tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with pytest.raises(SystemExit, match="give your Kaggle user name"):
        pack_kaggle.pack(tmp_path, owner)
    assert (tmp_path / "kept").exists()


@pytest.mark.places
def test_a_single_file_differs_in_its_setup_cell_only_and_can_be_uploaded(tmp_path: Path) -> None:
    single_file.main(tmp_path)
    for path in tmp_path.iterdir():
        assert code_cells(path)[1:] == code_cells(ROOT / "notebooks" / path.name)[1:]
        assert path.stat().st_size < 25_000_000


@pytest.mark.places
def test_a_single_file_downloads_its_weights_and_checks_them(make_place: Make, server: tuple, tmp_path: Path) -> None:
    place, (address, pages) = make_place("/home/reader", TORCH_HOME=str(tmp_path / "torch")), server
    path = place.at("/home/reader") / "single.ipynb"
    path.write_text(single_file.single(ROOT / "notebooks" / "02_albatross.ipynb"), encoding="utf-8")
    text = re.sub(r'^URL = ".*"$', f'URL = "{address}/"', code_cells(path)[0], flags=re.M)
    with pytest.raises(SystemExit, match=r"ZERO_OUT_WEIGHTS"):
        place.setup(text)
    weights = {f"/{file.name}": file.read_bytes() for file in (ROOT / "data" / "weights").iterdir()}
    pages |= {name: content + b"!" for name, content in weights.items()}
    forget_helpers()
    with pytest.raises(SystemExit, match="altered or cut short"):
        place.setup(text)
    pages |= weights
    forget_helpers()
    assert not place.setup(text).is_relative_to(ROOT)
