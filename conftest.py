"""For nbval: how long it waits for one output of a cell. The tests' own conftest.py is in tests/."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if hasattr(item, "output_timeout"):  # a cell; nbval's five seconds are no option, and too few on a busy machine
            item.output_timeout = 60
