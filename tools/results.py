"""Write docs/results.md and the table of results in README.md from data/bench/.

python -m tools.results           # write
python -m tools.results --check   # exit 1 when one is not up to date
"""

import json
import re
import sys
from pathlib import Path

import pandas as pd

from tools.generated import write_or_check

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "data" / "bench"
TOP = """# Results

These tables are the numbers behind notebook 07 and the README. `python -m tools.results` writes this page from
`data/bench/`. A budget (`eps`) is in 1/255; an l2 budget is in units of [0, 1]. Each table names the machine and the
precision of the search that made it; bfloat16 means version 1 of the notebooks. Verdicts are always float32.

Each image is attacked alone and judged on its reloaded PNG file. The settings of the attack were chosen on other
photos. SSIM, SSIMULACRA2 and FLIP are formulas: no person was asked. SSIMULACRA2 is 100 for equal images; at 80 two
images look the same side by side, and at 30 the change is obvious. FLIP is 0 for equal images.
"""


def zeroed_by(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Per group: photos, how many are exactly zero, and features left."""
    left = rows.groupby(keys, sort=False).left
    table = left.agg(["size", "min", "median", "max"]).rename(columns={"size": "photos"})
    table.insert(1, "exactly zero", left.agg(lambda left: (left == 0).sum()))
    return table.reset_index()


def peers(rows: pd.DataFrame) -> pd.DataFrame:
    """Per recipe: see zeroed_by."""
    return zeroed_by(rows, ["recipe"]).sort_values("median")


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


def positions(rows: pd.DataFrame) -> pd.DataFrame:
    """Per photo: features left, and the share of active units that lie at the 52 outermost of 14 x 14 positions."""
    keys = ["eps", "label", "photo", "steps", "left"]
    edge = rows[rows.row.isin([0, 13]) | rows.column.isin([0, 13])].groupby(keys)
    table = edge[["clean", "attacked"]].sum() / rows.groupby(keys)[["clean", "attacked"]].sum()
    return table.add_prefix("at the border, ").reset_index()


SECTIONS = {
    "strength": "The attack on each image",
    "visibility": "How visible the change is",
    "visibility_steps": "The images that fare worst, in more steps",
    "visibility_recipes": "How visible other recipes are, at most 200 steps",
    "visibility_filters": "Clean answers that come back after a filter",
    "photographs": "Whole photographs from packages",
    "l2": "A budget on each pixel and on the whole change",
    "peers": "Beside other recipes, 8/255",
    "peers_bfloat16": "Beside other recipes, 8/255, version 1",
    "ablation": "Loss, optimiser and rounding taken apart",
    "resist": "What is left at small budgets",
    "positions": "Where it lies",
    "universal": "One pattern for all images",
    "robust": "Zeroed files in other arithmetic and after small damage",
    "unrounded": "Zeroed files on the weights before rounding",
    "transfer": "Zeroed images given to another network",
    "networks": "Other endings, random weights",
    "trained": "Trained networks beside VGG-16",
}
# The page shows all rows of the other tables.
VIEWS = {"peers": peers, "peers_bfloat16": peers, "positions": positions, "robust": robust, "transfer": transfer}


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
    parts = [TOP, f"## In short\n\n{facts()}\n"]
    for name, title in SECTIONS.items():
        if (BENCH / f"{name}.csv").exists():
            table = VIEWS.get(name, pd.DataFrame)(pd.read_csv(BENCH / f"{name}.csv"))
            parts.append(f"## {title}\n\n`{name}.csv`, made by:\n\n{made(name)}\n\n{markdown(table)}\n")
    return "\n".join(parts)


def at_8() -> dict[int, pd.DataFrame]:
    """The attacks at 8/255 by the steps allowed; a run that is still short of images is left out."""
    rows = pd.read_csv(BENCH / "strength.csv")
    groups = dict(list(rows[rows.eps == 8].groupby("at most")))
    return {steps: group for steps, group in groups.items() if len(group) == max(map(len, groups.values()))}


def facts() -> str:
    """The attack at 8/255 and the least visible change in two tables."""
    parts = []
    for steps, rows in at_8().items():
        zero, rest = rows[rows.left == 0], rows[rows.left > 0]
        left = f"{rest.left.min()} to {rest.left.max()}" if len(rest) else "-"
        change = f"{rest['total variation'].max():.1g}" if len(rest) else "-"
        found = {
            "exactly zero in the saved file": f"{len(zero)} of {len(rows)}",
            "steps, median of the zeroed": f"{zero.steps.median():.0f}",
            "features left in the others, of 25,088": left,
            "largest distance of a six-class answer from the blank one, in the others": change,
        }
        lines = [f"| {len(rows)} images, 8/255, at most {steps} steps | |", "|---|---|"]
        parts.append("\n".join([*lines, *(f"| {name} | {value} |" for name, value in found.items())]))
    return "\n\n".join([*parts, "\n".join(visible())])


def visible() -> list[str]:
    """How visible the two kinds of change are: a table as lines."""
    groups = pd.read_csv(BENCH / "visibility.csv").groupby("method", sort=False)
    lines = [f"| {groups.size().iloc[0]} images | budget of 8/255 | least visible change |", "|---|---|---|"]
    zero = [str((rows.left == 0).sum()) for _, rows in groups]
    lines.append(f"| exactly zero in the saved file | {' | '.join(zero)} |")
    for name, column in {"SSIM": "ssim", "SSIMULACRA2": "ssimulacra2", "FLIP": "flip"}.items():
        worst = groups[column].max() if column == "flip" else groups[column].min()
        digits = 0 if column == "ssimulacra2" else 2
        pairs = [f"{a:.{digits}f}, {b:.{digits}f}" for a, b in zip(groups[column].median(), worst, strict=True)]
        lines.append(f"| {name}: median, worst | {' | '.join(pairs)} |")
    return lines


def short() -> str:
    """The README's table: the main numbers of both."""
    found = {}
    for steps, rows in at_8().items():
        zero = rows[rows.left == 0]
        found[f"exactly zero within {steps} steps, budget of 8/255"] = f"{len(zero)} of {len(rows)} images"
        found.setdefault("steps to exact zero, median", f"{zero.steps.median():.0f}")
    groups = dict(list(pd.read_csv(BENCH / "visibility.csv").groupby("method")))
    least = groups["least visible"]
    zero = f"{(least.left == 0).sum()} of {len(least)} images"
    found[f"exactly zero with the least visible change, {least.steps.max()} steps"] = zero
    for name, method in {"budget of 8/255": "8/255", "least visible change": "least visible"}.items():
        scores = groups[method].ssimulacra2
        found[f"SSIMULACRA2, {name}: median, worst of {len(scores)}"] = f"{scores.median():.0f}, {scores.min():.0f}"
    return "\n".join(
        ["| measured | result |", "|---|---|", *(f"| {name} | {value} |" for name, value in found.items())]
    )


def readme(text: str) -> str:
    """The README with its table of results."""
    return re.sub(r"(<!-- results -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{short()}\n{m[2]}", text, flags=re.S)


if __name__ == "__main__":
    front = ROOT / "README.md"
    wanted = {ROOT / "docs" / "results.md": page(), front: readme(front.read_text(encoding="utf-8"))}
    sys.exit(write_or_check(__doc__, wanted))
