"""The writer of all stored tables: it resumes where it stopped and records what made the rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.tables import read_record, read_rows, table_path, text, write_table

Row = Mapping[str, Any]
Rows = pd.DataFrame | Sequence[Row]


def fill(path: str | Path, cells: Iterable[Row], make: Callable[[Row], Rows]) -> list[dict[str, str]]:
    """Make the rows of each cell that the table lacks, and write the table after each cell.

    path: a CSV file; NAME.json next to it records what made the rows.
    cells: dicts that identify rows; their values are the first columns.
    make: cell -> its rows, all with the same further columns.
    Returns all rows of the table, as text. Raises ValueError for a table that was made in another precision.
    """
    path = table_path(path)
    rows = read_rows(path)
    if others := {entry["precision"] for entry in read_record(path)} - {"float32"}:
        raise ValueError(f"{path.name} was made in {others.pop()}, and a table holds one precision; move it away")
    for cell in cells:
        key = {column: text(value) for column, value in cell.items()}
        if any(key.items() <= row.items() for row in rows):
            continue
        made = pd.DataFrame(make(cell)).to_dict("records")
        rows += [key | {column: text(value) for column, value in row.items()} for row in made]
        write_table(path, rows, len(made), precision="float32")
        print(path.stem, rows[-1], flush=True)
    return rows
