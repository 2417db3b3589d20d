"""Places where readers run notebooks, rebuilt below a temporary folder: test_places.py and everywhere.py use them.

The text of a setup cell gets /content and /kaggle moved there, and a stand-in for git on PATH
copies the project, or fails as without a network.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
COLAB = {"COLAB_RELEASE_TAG": "release-colab-external", "COLAB_GPU": "0"}
KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "KAGGLE_URL_BASE": "https://www.kaggle.com"}
LAYOUTS = {
    "slug": "/kaggle/input/zero-out-attack",
    "owner and slug": "/kaggle/input/datasets/someone/zero-out-attack",
    "all of it": "/kaggle/input/datasets/someone/zero-out-attack/zero-out-attack-1.0.0",
}
GIT = """#!/bin/sh
echo "$@" >> "{log}"
for last; do :; done
[ -d "{source}" ] || {{ echo "fatal: unable to access: Could not resolve host" >&2; exit 128; }}
cp -r "{source}" "$last"
"""


def code_cells(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


@dataclass
class Place:
    """A machine below a temporary folder."""

    top: Path
    log: Path

    def at(self, path: str) -> Path:
        """A folder of this machine, made when missing."""
        folder = self.top / path.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def install_git(self, source: Path) -> Path:
        """Put the stand-in for git here, which copies source or fails when it is not there; return its folder."""
        git = self.at("/usr/bin") / "git"
        git.write_text(GIT.format(log=self.log, source=source))
        git.chmod(0o755)
        return git.parent

    def moved(self, text: str) -> str:
        """A setup cell with its roots below this machine's."""
        return re.sub(r'"(/kaggle|/content)', lambda m: f'"{self.top}{m[1]}', text)

    def setup(self, text: str) -> Path:
        """Run a setup cell; return where it found the helpers."""
        names: dict[str, object] = {}
        exec(compile(self.moved(text), "setup", "exec"), names)
        root = names["root"]
        assert isinstance(root, Path) and sys.path[0] == str(root) and "device" in names
        return root

    def clones(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
