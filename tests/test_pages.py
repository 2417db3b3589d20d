"""README, docs and the text of notebooks: links, headings, words; the site; the loop."""

import itertools
import json
import re
import runpy
from pathlib import Path

import nbformat
from demo import described
from PIL import Image, ImageSequence

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"])
NOTEBOOKS = sorted([*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("notebooks/[as]*/*.ipynb")])
FORBIDDEN = ["first to zero features", "undetectable", "/work/", "/tmp/", "/root/", "/home/"]


def read(path: Path) -> str:
    """A page, or the text of a notebook, without code."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


TEXTS = {path: read(path) for path in PAGES + NOTEBOOKS}


def anchors(path: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    found = re.findall(r"^#+ (.*)$", TEXTS[path], flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def links(path: Path) -> list[tuple[Path, str]]:
    """The file and the heading of each link to a file here."""
    found = [link for link in re.findall(r"\]\(([^)\s]+)\)", TEXTS[path]) if not re.match(r"[a-z]+:", link)]
    parts = [link.partition("#") for link in found]
    return [((path.parent / file).resolve() if file else path, anchor) for file, _, anchor in parts]


def test_links_lead_somewhere() -> None:
    found = [(path, file, anchor) for path in TEXTS for file, anchor in links(path)]
    assert [link for link in found if not link[1].exists()] == []
    assert [link for link in found if link[2] and link[2] not in anchors(link[1])] == []


def test_no_word_promises_too_much_or_belongs_to_one_machine() -> None:
    for path in TEXTS:
        text = re.sub(r'"image/\w+": ".*"', "", path.read_text(encoding="utf-8")).lower()
        assert [(path.name, word) for word in FORBIDDEN if word in text] == []


def test_a_page_has_one_title_and_leaves_no_level_out() -> None:
    for path in PAGES:
        depths = [len(marks) for marks in re.findall(r"^(#+) ", TEXTS[path], flags=re.M)]
        assert depths[0] == 1 and depths.count(1) == 1, path
        assert all(after <= before + 1 for before, after in itertools.pairwise(depths)), path


def test_images_have_a_text() -> None:
    texts = [text for path in PAGES for text in re.findall(r"!\[([^\]]*)\]\(", TEXTS[path])]
    assert texts and [text for text in texts if len(text.split()) < 4] == []


def test_every_page_is_reached_from_the_front_door() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += [file for file, _ in links(path) if file.suffix == ".md"]
    assert set(PAGES) <= reached


def test_commands_of_the_pages_are_in_the_makefile_and_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.M)) <= targets
    assert targets - {"help", "lint"} <= set(re.findall(r"make ([a-z-]+)", makefile))


def on_the_site(name: str, text: str) -> str:
    """A page as `make site` gives it to Sphinx."""
    source = [text]
    runpy.run_path(str(ROOT / "site" / "conf.py"))["adapt"](None, name, source)
    return source[0]


def test_a_notebook_on_the_site_folds_its_setup_and_describes_its_figures() -> None:
    cells = json.loads(on_the_site("notebooks/x", NOTEBOOKS[0].read_text(encoding="utf-8")))["cells"]
    tags = [tag for cell in cells for tag in cell["metadata"].get("tags", [])]
    assert "hide-input" in tags and "navigation" not in tags
    figures = [cell for cell in cells if "'image/" in str([output.get("data") for output in cell.get("outputs", [])])]
    assert figures and all(cell["metadata"]["mystnb"]["image"]["alt"] for cell in figures)


def test_a_figure_on_the_page_of_the_demo_has_its_text() -> None:
    metadata = {"image/png": {"alt": 'an "albatross"'}}
    output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0K"}, metadata=metadata)
    html = described(output).data["text/html"]
    assert html == '<img alt="an &quot;albatross&quot;" src="data:image/png;base64,iVBORw0K">'


def test_every_page_is_in_the_sites_contents() -> None:
    listed = [line for line in on_the_site("README", "# Title\n").splitlines() if re.match(r"[\w/*.]+$", line)]
    assert {path for line in listed for path in ROOT.glob(f"{line}.md")} >= set(PAGES) - {ROOT / "README.md"}


def test_the_loop_is_small_endless_and_ends_in_its_longest_frame() -> None:
    path = ROOT / "data" / "loop.gif"
    assert path.stat().st_size < 1_500_000
    with Image.open(path) as loop:
        times = [frame.info["duration"] for frame in ImageSequence.Iterator(loop)]
        assert loop.info["loop"] == 0 and times[-1] == max(times) and sum(times) < 15_000, "milliseconds"
