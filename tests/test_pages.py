"""README, docs and the other pages: links, headings, words, and that each page is reached."""

import importlib
import itertools
import json
import re
import runpy
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"])
FORBIDDEN = ["first to zero features", "undetectable", "/work/", "/tmp/", "/root/", "/home/"]

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def read(path: Path) -> str:
    """A page without its code."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    found = re.findall(r"^#+ (.*)$", read(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def links(path: Path) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", read(path)) if not re.match(r"[a-z]+:", link)]


@each_page
def test_links_lead_somewhere(path: Path) -> None:
    for link in links(path):
        target, _, anchor = link.partition("#")
        file = path.parent / target if target else path
        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


@each_page
def test_there_is_one_title_and_no_level_is_left_out(path: Path) -> None:
    depths = [len(marks) for marks in re.findall(r"^(#+) ", read(path), flags=re.M)]
    assert depths[0] == 1 and depths.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(depths))


@each_page
def test_words_that_promise_too_much_or_belong_to_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8").lower()
    assert [word for word in FORBIDDEN if word in text] == []


@each_page
def test_pictures_have_a_text(path: Path) -> None:
    for text in re.findall(r"!\[([^\]]*)\]\(", read(path)):
        assert len(text.split()) >= 4


def test_every_page_is_reached_from_the_front_door() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            targets = [(path.parent / link.partition("#")[0]).resolve() for link in links(path)]
            waiting += [target for target in targets if target.suffix == ".md"]
    assert set(PAGES) <= reached


def test_commands_of_the_pages_are_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.M))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", text, flags=re.M))
    assert {"demo", "lab", "test", "kaggle", "single", "publish"} <= named <= targets
    for target in targets - {"help"}:
        assert re.search(rf"make {target}\b", makefile), f"make help does not list {target}"


# --- the site -----------------------------------------------------------------------------------------


def on_the_site(name: str, text: str) -> str:
    """A page as `make site` gives it to Sphinx."""
    source = [text]
    runpy.run_path(str(ROOT / "site" / "conf.py"))["adapt"](None, name, source)
    return source[0]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_on_the_site_fold_their_setup_and_describe_their_figures(path: Path) -> None:
    text = on_the_site(path.relative_to(ROOT).with_suffix("").as_posix(), path.read_text(encoding="utf-8"))
    cells = json.loads(text)["cells"]
    assert not [cell for cell in cells if "navigation" in cell["metadata"].get("tags", [])]
    (setup,) = [cell for cell in cells if "setup" in cell["metadata"].get("tags", [])]
    assert "hide-input" in setup["metadata"]["tags"]
    for cell in cells:
        kinds = {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}
        if {"image/png", "image/jpeg"} & kinds:
            assert len(cell["metadata"]["mystnb"]["image"]["alt"].split()) >= 4


def test_every_page_is_in_the_sites_contents() -> None:
    text = on_the_site("README", "# Title\n")
    listed = [line for line in text.splitlines() if re.match(r"[\w/*.]+$", line)]
    found = {path for line in listed for path in ROOT.glob(f"{line}.md") if path in PAGES}
    assert found == set(PAGES) - {ROOT / "README.md"}


# --- the loop -------------------------------------------------------------------------------------------


def test_the_loop_is_small_endless_and_ends_in_its_longest_frame() -> None:
    path = ROOT / "data" / "loop.gif"
    assert path.stat().st_size < 1_500_000
    with Image.open(path) as loop:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(loop)]
        assert loop.width == 560 and loop.info["loop"] == 0 and len(times) >= 12
    assert times[-1] == max(times) and 4000 < sum(times) < 15_000, "milliseconds"


def test_frames_of_the_loop_are_steps_whose_count_has_fallen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    seen = [(step, None, left) for step, left in enumerate([1000, 1000, 900, 400, 450, 30, 29, 28, 3, 4, 0])]
    chosen = importlib.import_module("make_loop").choose(seen)
    assert [chosen[0], chosen[-1]] == [seen[0], seen[-1]] and len(chosen) <= 26
    counts = [left for _, _, left in chosen]
    assert counts == sorted(counts, reverse=True) and 450 not in counts
