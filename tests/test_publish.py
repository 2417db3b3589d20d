"""The project's address, versions and lists: one place holds each, and the others agree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import describe_data
import publish
import pytest
from sync_notebooks import PROJECT, TAG, URL, tomllib

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = URL.removeprefix("https://github.com/")
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts of the project, without data."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("tools", "notebooks", "docs", "site"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    return folder


def texts(folder: Path) -> dict[Path, str]:
    return {
        path: path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.suffix in (".md", ".toml", ".cff", ".ipynb")
    }


def test_a_new_address_is_written_everywhere_and_can_be_taken_back(copy: Path) -> None:
    def to(address: str) -> None:
        subprocess.run([sys.executable, copy / "tools" / "publish.py", address], check=True, capture_output=True)

    before = texts(copy)
    to("some-one/blind.nets_2")
    after = texts(copy)
    assert [path for path, text in after.items() if ADDRESS in text] == []
    for path in (copy / "notebooks").glob("*.ipynb"):
        for place in (
            'URL, TAG = \\"https://github.com',
            "colab.research.google.com/github",
            "welcome?src=https://github.com",
        ):
            assert f"{place}/some-one/blind.nets_2" in after[path]
    to(ADDRESS)
    assert texts(copy) == before


@pytest.mark.parametrize("name", ["", "name", "https://github.com/a/b", "a/b.git", 'a/"b'])
def test_a_malformed_address_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="give it as owner/name, for example"):
        publish.publish(name)


def test_the_citation_agrees_with_the_project() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    citation = dict(line.split(": ", 1) for line in lines if re.match(r"[\w-]+: ", line))
    assert "v" + citation["version"] == TAG and citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == URL
    assert f"## {citation['version']}, {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )


def test_the_conda_file_names_what_readers_need() -> None:
    lines = (ROOT / "environment.yml").read_text(encoding="utf-8").splitlines()
    listed = {line.removeprefix("  - ").replace(" ", "") for line in lines if line.startswith("  - ")}
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["lab"]]
    wanted = {re.sub(r"^[\w-]+", lambda match: CONDA.get(match[0], match[0]), line) for line in needed}
    assert listed - {"python=3.12", "pip"} == wanted


def test_no_package_is_installed() -> None:
    """helpers/ needs data/ beside it."""
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"] == []


def test_every_data_file_is_described_with_its_hash() -> None:
    assert (ROOT / "data" / "README.md").read_text(encoding="utf-8") == describe_data.page()


def test_the_repository_stays_small() -> None:
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    sizes = [(ROOT / name).stat().st_size for name in files if name and (ROOT / name).is_file()]
    assert sum(sizes) < 80_000_000 and max(sizes, default=0) < 95_000_000
