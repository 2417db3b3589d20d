"""Imports between helpers run one way, and the attack loads quickly."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import helpers

HELPERS = Path(helpers.__file__).parent


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(HELPERS.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(HELPERS.rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The helpers that a file imports, anywhere in its text."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & set(MODULES) - {"helpers"}


GRAPH = {name: imported(path) for name, path in MODULES.items()}


def test_there_is_no_circle() -> None:
    graphlib.TopologicalSorter(GRAPH).prepare()


def test_only_defence_imports_defence() -> None:
    core = {name: names for name, names in GRAPH.items() if not name.startswith("helpers.defence")}
    assert {name for name, names in core.items() if any(one.startswith("helpers.defence") for one in names)} == set()


def test_plots_imports_no_other_helper() -> None:
    assert GRAPH["helpers.plots"] == set()


def test_the_attack_and_the_networks_load_no_heavy_package_but_torch() -> None:
    heavy = {"scipy", "sklearn", "pandas", "matplotlib", "timm"}
    code = f"import sys, helpers.attack, helpers.networks; print(*{heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], cwd=HELPERS.parent, capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_package_says_what_each_file_is_for() -> None:
    named = {line.split()[0] for line in str(helpers.__doc__).splitlines() if line.startswith("    ")}
    assert named == {name.split(".")[1] for name in MODULES if name != "helpers"} - {"__main__"}
