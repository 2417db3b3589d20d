"""Write the address of the repository everywhere.

    python tools/publish.py OWNER/NAME       # or: make publish REPO=OWNER/NAME

pyproject.toml holds the address. It is replaced there and in the files of PLACES; badges,
setup cells and links of the notebooks are then written from it by tools/sync_notebooks.py.
"""

import re
import subprocess
import sys

from sync_notebooks import ROOT, URL

PLACES = ("pyproject.toml", "CITATION.cff", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*.md", "site/*")
NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*/(?!\.+$)[\w.-]+(?<!\.git)", re.ASCII)


def publish(repository: str) -> None:
    """Replace the old address by that of repository, "owner/name"."""
    if not NAME.fullmatch(repository):
        raise SystemExit(f"REPO is {repository!r}; give it as owner/name, for example zero-out/zero-out-attack")
    # Colab's, raw files' and badges' addresses hold owner/name after a slash as well.
    old = re.compile(rf"(?<=/){re.escape(URL.removeprefix('https://github.com/'))}(?![\w-])")
    for path in sorted(path for place in PLACES for path in ROOT.glob(place) if path.is_file()):
        text = path.read_text(encoding="utf-8")
        if (new := old.sub(repository, text)) != text:
            path.write_text(new, encoding="utf-8")
            print("written:", path)


if __name__ == "__main__":
    publish(" ".join(sys.argv[1:]))
    subprocess.run([sys.executable, str(ROOT / "tools" / "sync_notebooks.py")], check=True)
