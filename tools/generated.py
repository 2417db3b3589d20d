"""Shared by the tools that write generated files."""

import argparse
from pathlib import Path


def write_or_check(about: str, wanted: dict[Path, str]) -> int:
    """Write each file whose text differs. With --check on the command line, change nothing and return 1 on drift."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 on drift")
    check = parser.parse_args().check
    drifted = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in drifted:
        print("drifted:" if check else "written:", path)
        if not check:
            path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return int(check and bool(drifted))
