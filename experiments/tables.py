"""The one writer of stored tables: it resumes where it stopped and records what made the rows."""

import csv
import datetime
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from helpers.attack import Result
from helpers.images import write_file
from helpers.runtime import machine

Row = Mapping[str, Any]


def fill(
    path: str | Path,
    cells: Iterable[Row],
    make: Callable[[Row], Sequence[Row]],
    *,
    precision: str = "float32",
    device: torch.device | None = None,
) -> list[dict[str, str]]:
    """Make the rows of each cell that the table lacks, and write the table after each cell.

    path: a CSV file; NAME.json beside it records what made the rows.
    cells: dicts that identify rows; their values are the first columns.
    make: cell -> its rows, all with the same further columns.
    precision: arithmetic of the attack; one table holds rows of one precision only.
    device: where the rows are computed (default: pick_device()).
    Returns all rows of the table, as text. Raises ValueError for a table of another precision.
    """
    path = Path(path).expanduser()
    if path.suffix != ".csv":
        raise ValueError(f"the table is {path.name!r}; give a name that ends in .csv")
    rows, made = read(path), _provenance(path, precision)
    here = {"precision": precision, **machine(device)}
    for cell in cells:
        key = {column: text(value) for column, value in cell.items()}
        if any(key.items() <= row.items() for row in rows):
            continue
        new = [{**key, **{column: text(value) for column, value in row.items()}} for row in make(cell)]
        rows += new
        made = _count(made, here, len(new))
        write_file(path.with_suffix(".json"), (json.dumps(made, indent=2) + "\n").encode())
        write_file(path, as_csv(rows).encode())
        print(path.stem, *new[-1:], flush=True)
    return rows


def completed(result: Result) -> Result:
    """The result of zero_out; raise KeyboardInterrupt if the attack was interrupted, so that nothing stores it."""
    if getattr(result, "interrupted", False):
        raise KeyboardInterrupt
    return result


def read(path: str | Path) -> list[dict[str, str]]:
    """The rows of a table, every value as text ("001" and "NA" stay as they are); none if there is no file."""
    path = Path(path).expanduser()
    if not path.exists():
        return []
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def text(value: object) -> str:
    """A value as a table holds it: floats with six digits, None as an empty place."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, with the columns of the first. Raises ValueError for a row with another column."""
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]) if rows else [], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue()


def _provenance(path: Path, precision: str) -> list[dict[str, Any]]:
    """The entries of NAME.json. Raises ValueError if the rows there were made otherwise."""
    record = path.with_suffix(".json")
    made = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    others = {entry["precision"] for entry in made} - {precision}
    if others or (path.exists() and not made):
        found = f"was made in {others.pop()}" if others else f"has no {record.name} that says how it was made"
        raise ValueError(f"{path.name} {found}, and a table holds one precision; move it away, or ask for another")
    return made


def _count(made: list[dict[str, Any]], here: dict[str, object], rows: int) -> list[dict[str, Any]]:
    """The entries with `rows` more for this machine, dated today."""
    same = [entry for entry in made if here.items() <= entry.items()]
    before = sum(entry["rows"] for entry in same)
    today = datetime.date.today().isoformat()
    others = [entry for entry in made if entry not in same]
    return [*others, {**here, "date": today, "rows": before + rows}]
