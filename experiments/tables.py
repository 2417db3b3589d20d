"""The writer of all stored tables: it resumes where it stopped and records what made the rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.attack import Result
from helpers.tables import read_record, read_rows, table_path, write_table

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


def completed(result: Result) -> Result:
    """The result of zero_out. Raises KeyboardInterrupt if the attack was interrupted, so that it is not stored."""
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def text(value: object) -> str:
    """A value as text in a table: floats with six digits, None and NaN as empty text."""
    return "" if pd.isna(value) else f"{value:.6g}" if isinstance(value, float) else str(value)
