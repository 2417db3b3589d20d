"""The one writer of stored tables: it resumes where it stopped and records what made the rows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.attack import Result
from helpers.tables import read_record, read_rows, table_path, write_table

Row = Mapping[str, Any]


def fill(
    path: str | Path,
    cells: Iterable[Row],
    make: Callable[[Row], Sequence[Row]],
    *,
    precision: str = "float32",
) -> list[dict[str, str]]:
    """Make the rows of each cell that the table lacks, and write the table after each cell.

    path: a CSV file; NAME.json beside it records what made the rows.
    cells: dicts that identify rows; their values are the first columns.
    make: cell -> its rows, all with the same further columns.
    precision: arithmetic of the attack; one table holds rows of one precision only.
    Returns all rows of the table, as text. Raises ValueError for a table of another precision.
    """
    path = table_path(path)
    rows = read_rows(path)
    check_precision(path, precision)
    for cell in cells:
        key = {column: text(value) for column, value in cell.items()}
        if any(key.items() <= row.items() for row in rows):
            continue
        new = [{**key, **{column: text(value) for column, value in row.items()}} for row in make(cell)]
        rows += new
        write_table(path, rows, len(new), precision=precision)
        print(path.stem, *new[-1:], flush=True)
    return rows


def check_precision(path: Path, precision: str) -> None:
    """Raise ValueError unless every row of a table was made in this precision, as NAME.json says."""
    made = read_record(path)
    others = {entry["precision"] for entry in made} - {precision}
    if others or (path.exists() and not made):
        found = f"was made in {others.pop()}" if others else "has no record of how it was made"
        raise ValueError(f"{path.name} {found}, and a table holds one precision; move it away, or ask for another")


def completed(result: Result) -> Result:
    """The result of zero_out; raise KeyboardInterrupt if the attack was interrupted, so that nothing stores it."""
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def text(value: object) -> str:
    """A value as a table holds it: floats with six digits, None as an empty place."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
