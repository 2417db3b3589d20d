"""The project's address, versions and lists: one place holds each, and the others agree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import describe_data
import pytest
from publish import publish
from sync_notebooks import PROJECT, TAG, URL, tomllib

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = URL.removeprefix("https://github.com/")
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def texts(folder: Path) -> dict[Path, str]:
    paths = [path for path in folder.rglob("*") if path.suffix in (".md", ".toml", ".cff", ".ipynb")]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def test_a_new_address_is_written_everywhere_and_can_be_taken_back(tmp_path: Path) -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("tools", "notebooks", "docs", "site"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    command = [sys.executable, tmp_path / "tools" / "publish.py"]
    before = texts(tmp_path)
    subprocess.run([*command, "some-one/blind.nets_2"], check=True, capture_output=True)
    after = texts(tmp_path)
    assert [path for path, text in after.items() if ADDRESS in text] == []
    for path in (tmp_path / "notebooks").glob("*.ipynb"):
        for place in ('URL, TAG = \\"https://github.com', "research.google.com/github", "src=https://github.com"):
            assert f"{place}/some-one/blind.nets_2" in after[path]
    subprocess.run([*command, ADDRESS], check=True, capture_output=True)
    assert texts(tmp_path) == before


@pytest.mark.parametrize("name", ["", "name", "https://github.com/a/b", "a/b.git", 'a/"b'])
def test_a_malformed_address_is_refused(name: str) -> None:
    with pytest.raises(SystemExit, match="give it as owner/name, for example"):
        publish(name)


def test_the_citation_agrees_with_the_project() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    citation = dict(line.split(": ", 1) for line in lines if re.match(r"[\w-]+: ", line))
    assert ("v" + citation["version"], citation["license"]) == (TAG, PROJECT["license"])
    assert citation["repository-code"] == URL
    news = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {citation['version']}, {citation['date-released']}" in news


def test_the_conda_file_names_what_readers_need() -> None:
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = {line.removeprefix("  - ").replace(" ", "") for line in lines if line.startswith("  - ")}
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]]
    wanted = {re.sub(r"^[\w-]+", lambda match: CONDA.get(match[0], match[0]), line) for line in needed}
    assert listed - {"python=3.12", "pip"} == wanted


def test_no_package_is_installed() -> None:
    """helpers/ needs data/ beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["setuptools"]["packages"] == []


def test_every_data_file_is_described_with_its_hash() -> None:
    assert (ROOT / "data" / "README.md").read_text(encoding="utf-8") == describe_data.page()


def test_the_repository_stays_small() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    sizes = [(ROOT / name).stat().st_size for name in files if name and (ROOT / name).is_file()]
    assert sum(sizes) < 80_000_000 and max(sizes, default=0) < 95_000_000
