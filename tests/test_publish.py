"""The project's address: one line holds it, and `make publish` keeps all the others in step."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
ADDRESS = re.findall(r'^Repository = "https://github\.com/(.+)"$', PROJECT, flags=re.M)[0]
VERSION = re.findall(r'^version = "(.+)"$', PROJECT, flags=re.M)[0]
COPIED = ("tools", "notebooks", "docs", "site")
NEW = "some-one/blind.nets_2"


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts of the project, without data."""
    folder = tmp_path_factory.mktemp("copy")
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, folder)
        elif path.name in COPIED:
            ignore = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
            shutil.copytree(path, folder / path.name, ignore=ignore)
    return folder


def run(folder: Path, tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "tools" / tool), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def texts(folder: Path) -> dict[Path, str]:
    kinds = (".md", ".toml", ".cff", ".ipynb", ".yml")
    return {p: p.read_text(encoding="utf-8") for p in sorted(folder.rglob("*")) if p.suffix in kinds}


def sources(path: Path) -> str:
    return "\n".join("".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf-8"))["cells"])


@pytest.mark.parametrize(
    "name",
    ["", "name", "https://github.com/a/b", "a/b/c", "a b/c", "-a/b", "a/..", "a/b.git", "a/b\n", 'a/"b', "a/b c"],
)
def test_a_malformed_name_is_refused_in_one_sentence_and_nothing_changes(name: str, copy: Path) -> None:
    before = texts(copy)
    refused = run(copy, "publish.py", name)
    assert refused.returncode == 2 and not refused.stdout
    assert re.fullmatch(r"REPO is .*; give it as owner/name, for example \S+/\S+\n", refused.stderr)
    assert texts(copy) == before


def test_a_new_address_stands_everywhere_and_can_be_taken_back(copy: Path) -> None:
    before = texts(copy)
    done = run(copy, "publish.py", NEW)
    assert done.returncode == 0, done.stderr
    after = texts(copy)
    assert [path for path, text in after.items() if ADDRESS in text] == []
    changed = {path.relative_to(copy).as_posix() for path in after if before[path] != after[path]}
    assert {"pyproject.toml", "CITATION.cff"} <= changed
    for path in copy.glob("notebooks/**/*.ipynb"):
        assert f'URL, TAG = "https://github.com/{NEW}", "v{VERSION}"' in sources(path)
    for path in copy.glob("notebooks/*.ipynb"):
        for badge in ("colab.research.google.com/github", "kaggle.com/kernels/welcome?src=https://github.com"):
            assert f"{badge}/{NEW}/blob/main/notebooks/{path.name}" in sources(path)
    assert run(copy, "sync_notebooks.py", "--check").returncode == 0
    assert run(copy, "publish.py", ADDRESS).returncode == 0
    assert texts(copy) == before


def test_without_the_line_that_holds_the_address_one_sentence_says_so(copy: Path) -> None:
    project = copy / "pyproject.toml"
    project.write_text(project.read_text(encoding="utf-8").replace("Repository =", "Home ="), encoding="utf-8")
    try:
        refused = run(copy, "publish.py", NEW)
    finally:
        project.write_text(PROJECT, encoding="utf-8")
    assert refused.returncode == 2 and "has no line Repository" in refused.stderr


def test_the_citation_agrees_with_the_project() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    citation = dict(line.split(": ", 1) for line in lines if re.match(r"[\w-]+: ", line))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == VERSION and citation["license"] == "MIT"
    assert citation["repository-code"] == f"https://github.com/{ADDRESS}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", citation["date-released"])
    assert f"## {VERSION}, {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
