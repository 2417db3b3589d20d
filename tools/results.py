"""Write docs/results.md, and the README's table of results, from data/bench/.

python -m tools.results           # write
python -m tools.results --check   # exit 1 when one is not up to date
"""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from tools.generated import write_or_check

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "data" / "bench"
TOP = """# Results

All stored tables behind notebook 07 and the README, from `data/bench/`. This page is written by
`python -m tools.results`. Each table says what made it. Where the precision is bfloat16, it is that of the search, in
version 1 of these notebooks; verdicts are always float32. Budgets (`eps`) are in 1/255, with l2 in units of [0, 1].
"""


def peers(rows: pd.DataFrame) -> pd.DataFrame:
    """Per recipe: photos, how many are zeroed, and features left."""
    left = rows.groupby("recipe", sort=False).left
    table = left.agg(["size", "min", "median", "max"]).rename(columns={"size": "photos"})
    table.insert(1, "exactly zero", left.agg(lambda left: (left == 0).sum()))
    return table.sort_values("median").reset_index()


def robust(rows: pd.DataFrame) -> pd.DataFrame:
    """Per condition: photos that were zero in float32, how many stay zero, and features left."""
    zero = rows[(rows.condition == "float32") & (rows.left == 0)].photo
    groups = rows[rows.photo.isin(zero)].groupby("condition", sort=False)
    left, table = groups.left, groups.left.agg(["size", "median", "max"]).rename(columns={"size": "photos"})
    table.insert(1, "still zero", left.agg(lambda left: (left == 0).sum()))
    table["largest gap"], table["least margin"] = groups.difference.max(), groups.margin.min()
    return table.reset_index()


def transfer(rows: pd.DataFrame) -> pd.DataFrame:
    """Per pair of networks and kind of image: means of ten photos, and answers that stay."""
    groups = rows.groupby(["made on", "given to", "image"], sort=False)
    table = groups[["active share", "norm to clean"]].mean()
    table["same answer, of 10"] = groups["answer stays"].sum(min_count=1)
    return table.reset_index()


def as_it_is(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


SECTIONS: dict[str, tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "strength": ("The attack on each image", as_it_is),
    "visibility": ("How visible the change is", as_it_is),
    "visibility_filters": ("Clean answers that come back behind a filter", as_it_is),
    "l2": ("A budget on each pixel and on the whole change", as_it_is),
    "peers": ("Beside other recipes, 8/255", peers),
    "peers_bfloat16": ("Beside other recipes, 8/255, version 1", peers),
    "resist": ("What is left at small budgets", as_it_is),
    "universal": ("One pattern for all images", as_it_is),
    "robust": ("Zeroed files in other arithmetic and after small damage", robust),
    "transfer": ("Zeroed images given to another network", transfer),
    "networks": ("Other endings, random weights", as_it_is),
}


def cell(value: object) -> str:
    """A value as the page shows it: whole numbers as such, others with four digits."""
    if isinstance(value, float):
        return "" if pd.isna(value) else f"{value:.0f}" if value.is_integer() else f"{value:.4g}"
    return "" if pd.isna(value) else str(value)


def markdown(table: pd.DataFrame) -> str:
    rows = [list(table), ["---"] * len(table.columns), *([cell(v) for v in row] for row in table.astype(object).values)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def made(name: str) -> str:
    """What made the rows of a table, in one line per machine."""
    entries = json.loads((BENCH / f"{name}.json").read_text(encoding="utf-8"))
    return "\n".join("- " + ", ".join(f"{key} {value}" for key, value in entry.items()) for entry in entries)


def page() -> str:
    """The text of docs/results.md."""
    parts = [TOP]
    for name, (title, view) in SECTIONS.items():
        if (BENCH / f"{name}.csv").exists():
            table = view(pd.read_csv(BENCH / f"{name}.csv"))
            parts.append(f"## {title}\n\n`{name}.csv`, made by:\n\n{made(name)}\n\n{markdown(table)}\n")
    return "\n".join(parts)


def facts() -> str:
    """The README's table: the attack at 8/255, and the least visible change."""
    rows = pd.read_csv(BENCH / "strength.csv")
    rows = rows[rows.eps == 8]
    zero, rest = rows[rows.left == 0], rows[rows.left > 0]
    left = f"{rest.left.min()} to {rest.left.max()}" if len(rest) else "-"
    change = f"{rest['total variation'].max():.1g}" if len(rest) else "-"
    found = {
        "exactly zero in the saved file": f"{len(zero)} of {len(rows)}",
        "steps, median of the zeroed": f"{zero.steps.median():.0f}",
        "features left in the others, of 25,088": left,
        "largest change of a six-class answer left in the others": change,
    }
    lines = [f"| {len(rows)} images, 8/255, at most {rows['at most'].max()} steps | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in found.items()]
    return "\n".join([*lines, "", *visible()])


def visible() -> list[str]:
    """The README's second table, as lines: how visible the two kinds of change are."""
    groups = pd.read_csv(BENCH / "visibility.csv").groupby("method", sort=False)
    lines = [f"| {groups.size().iloc[0]} images | budget of 8/255 | least visible change |", "|---|---|---|"]
    zero = [str((rows.left == 0).sum()) for _, rows in groups]
    lines.append(f"| exactly zero in the saved file | {' | '.join(zero)} |")
    for name, column in {"SSIM": "ssim", "SSIMULACRA2": "ssimulacra2", "FLIP (0 is equal)": "flip"}.items():
        worst = groups[column].max() if column == "flip" else groups[column].min()
        digits = 0 if column == "ssimulacra2" else 2
        pairs = [f"{a:.{digits}f}, {b:.{digits}f}" for a, b in zip(groups[column].median(), worst, strict=True)]
        lines.append(f"| {name}: median, worst | {' | '.join(pairs)} |")
    return lines


def readme(text: str) -> str:
    """The README with its table of results."""
    return re.sub(r"(<!-- results -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{facts()}\n{m[2]}", text, flags=re.S)


if __name__ == "__main__":
    front = ROOT / "README.md"
    wanted = {ROOT / "docs" / "results.md": page(), front: readme(front.read_text(encoding="utf-8"))}
    sys.exit(write_or_check(__doc__, wanted))
