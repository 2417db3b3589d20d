"""Tables of results as CSV files, each with a JSON file that says what made its rows."""

import csv
import datetime
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.decode import user_path
from helpers.images import write_file
from helpers.runtime import machine

Row = Mapping[str, str]


def table_path(path: str | Path) -> Path:
    """The path of a table, "~" expanded. Raises ValueError unless it ends in .csv, since NAME.json is taken."""
    path = user_path(path)
    if path.suffix != ".csv":
        raise ValueError(f"the table is {path.name!r}; give a name that ends in .csv")
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, with every value as text ("001" and "NA" are kept); no rows if there is no file."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8-sig", newline="") as file:  # Excel adds a BOM
        return list(csv.DictReader(file))


def read_record(path: Path) -> list[dict[str, Any]]:
    """What made the rows of a table, from NAME.json: one entry per machine and versions."""
    record = path.with_suffix(".json")
    return json.loads(record.read_text(encoding="utf-8")) if record.exists() else []


def text(value: object, digits: int = 6) -> str:
    """A value as text in a table: floats with so many digits, functions by name, None and NaN as empty text."""
    if value is None or value != value:
        return ""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(getattr(value, "__name__", value))


def write_table(path: Path, rows: Sequence[Row], new: int, **about: object) -> None:
    """Write all rows, and note in NAME.json that `new` of them were made on this machine today.

    about: what else made them.
    Both files are replaced whole. Raises ValueError if a row has a column that the first lacks.
    """
    here = {**about, **machine()}
    made = read_record(path)
    same = [entry for entry in made if here.items() <= entry.items()]
    entry = {**here, "date": datetime.date.today().isoformat(), "rows": new + sum(old["rows"] for old in same)}
    made = [*(old for old in made if old not in same), entry]
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_file(path.with_suffix(".json"), (json.dumps(made, indent=2) + "\n").encode())
    write_file(path, content.getvalue().encode())
