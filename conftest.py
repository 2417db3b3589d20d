"""All of `make test` in one go, helpers and notebooks: what runs on which of the two workers, in which order."""

from pathlib import PurePosixPath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# These read what the other has kept in out/kept/: side by side, each would compute it.
TOGETHER = {"06_bypass": "05_defence", "05_defence_solutions": "05_defence", "06_bypass_solutions": "05_defence"}
TOGETHER |= dict.fromkeys(("test_certificate", "test_bench_tables"), "test_attack")  # one real attack serves all
LONGEST = "05_defence"  # begins early, so that no worker is left alone with it at the end


def group(file: str) -> str:
    """The files of one group run on one worker, in their order."""
    stem = PurePosixPath(file).stem
    return TOGETHER.get(stem, stem)


class ByGroup(LoadFileScheduling):
    # Not xdist's own `loadgroup`: under pytest 9.2 it no longer sees the marks and spreads a notebook's cells over
    # both workers (https://github.com/pytest-dev/pytest-xdist/issues/1386).
    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid.split("::", 1)[0])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByGroup:
    return ByGroup(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks before tests, the longest first."""
    items.sort(key=lambda item: (item.path.suffix == ".py", group(item.path.name) != LONGEST))
    for item in items:
        # nbval waits five seconds for each output of a cell, with no option to change it: a busy machine needs more.
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
