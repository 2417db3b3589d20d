"""nbval waits five seconds for each output of a cell, with no option to change it: a busy machine needs more."""


def pytest_collection_modifyitems(items: list) -> None:
    for item in items:
        if hasattr(item, "output_timeout"):
            item.output_timeout = 60
