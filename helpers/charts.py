"""Figures of tables, in the style of plots.py: dots, histograms, receiver operating curves, names at lines."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame

from helpers.plots import ACCENT, GRID, INK, LINES, NARROW, WIDE

MARKS = (("o", "#006ba4"), ("D", ACCENT), ("s", INK), ("^", "#898989"))  # shape beside colour
NAMED = (  # colour and dashes of the lines of `name_ends`: dark enough for their names
    ("#006ba4", "-"),
    (ACCENT, (0, (6, 1))),
    ("#0f766e", (0, (3, 1))),
    ("#6b7280", (0, (1, 1))),
    ("#832db6", (0, (7, 1, 1, 1))),
    (INK, (0, (4, 1, 1, 1, 1, 1))),
    ("#be185d", (0, (4, 3))),
)
__all__ = ["dots", "histograms", "name_ends", "roc"]


def check_count(count: int, what: str) -> None:
    """Raises ValueError where there are more than MARKS: the rest would not be drawn."""
    if count > len(MARKS):
        raise ValueError(f"there are {count} {what} and marks for {len(MARKS)}; draw them in two figures")


def dots(
    table: DataFrame,
    xlabel: str,
    high: float,
    *,
    bars: Mapping[str, DataFrame] | None = None,
    marks: Mapping[str, float] | None = None,
    connect: bool = True,
) -> Figure:
    """One row per row of a table, one kind of dot per column, on a scale from 0 to `high`.

    The columns of a row lie a little below each other, so that equal values do not hide each other. A table
    of one column has no legend. Raises ValueError for more than four columns.
    bars: for a column a table of two columns, a bar from the first to the second. marks: upright lines
    at these values, with their names. connect: a grey line between the outermost dots of a row.
    """
    places, count = np.arange(len(table)), len(table.columns)
    check_count(count, "columns")
    figure, ax = plt.subplots(figsize=(WIDE * 0.8, 0.36 * len(table) + 1.4))
    if connect and bars is None:
        ax.hlines(places, table.min(axis=1), table.max(axis=1), color="0.85", linewidth=2, zorder=1)
    for i, ((name, values), (shape, colour)) in enumerate(zip(table.items(), MARKS, strict=False)):
        height = places + (i - (count - 1) / 2) * min(0.22, 0.6 / count)
        if bars is not None and name in bars:
            ends = bars[name]
            ax.hlines(height, ends.iloc[:, 0], ends.iloc[:, 1], color=colour, alpha=0.35, linewidth=3, zorder=1)
        ax.plot(values, height, shape, color=colour, label=name, markersize=6)
    for name, value in (marks or {}).items():
        ax.axvline(value, color="0.6", linewidth=1, linestyle=":")
        ax.annotate(
            name, (value, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points", color="0.4"
        )
    ax.set(xlabel=xlabel, yticks=places, xlim=(-0.03 * high, 1.03 * high), ylim=(len(table) - 0.5, -0.7))
    ax.set_yticklabels(table.index)
    ax.tick_params(axis="y", length=0)
    if count > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def histograms(
    groups: Mapping[str, Sequence[float]], xlabel: str, limit: float | None = None, bins: int = 24, title: str = ""
) -> Figure:
    """How often each value occurs in each group, on one scale; limit: an upright line.

    Raises ValueError for more than four groups.
    """
    check_count(len(groups), "groups")
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(values) for values in groups.values()]), bins)
    figure, ax = plt.subplots(figsize=(NARROW, 2.9))
    for (name, values), (_, colour), hatch in zip(groups.items(), MARKS, ("", "//", "..", "xx"), strict=False):
        ax.hist(values, edges, label=name, facecolor=colour, alpha=0.55, edgecolor=GRID, linewidth=0.5, hatch=hatch)
    if limit is not None:
        ax.axvline(limit, color=INK, linestyle="--", label="threshold")
    ax.set(xlabel=xlabel, ylabel="pictures", title=title)
    ax.legend()
    return figure


def roc(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str = "") -> Figure:
    """Share of attacked pictures caught against share of clean pictures refused, one line per detector."""
    figure, ax = plt.subplots(figsize=(NARROW, 3.9))
    for i, (name, (alarms, caught)) in enumerate(lines.items()):
        ax.plot(alarms, caught, LINES[i % len(LINES)], label=name)
    ax.plot([0, 1], [0, 1], color="0.8", linewidth=1)
    ax.set(
        xlabel="clean pictures refused", ylabel="attacked pictures caught", title=title, xlim=(-0.02, 1), ylim=(0, 1.03)
    )
    ax.grid(alpha=0.25)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def name_ends(ax: Axes, apart: float = 12.0) -> None:
    """Give each line a colour and dashes of its own, and its name at its right end instead of a legend.

    apart: points between two names at least; the upper one gives way. Raises ValueError for more than seven lines.
    """
    lines = ax.get_lines()
    if len(lines) > len(NAMED):
        raise ValueError(f"there are {len(lines)} lines and dashes for {len(NAMED)}; draw them in two figures")
    if ax.get_legend() is not None:
        ax.get_legend().remove()
    for line, (colour, dash) in zip(lines, NAMED, strict=False):
        line.set(color=colour, linestyle=dash)
    ax.set_xlim(right=max(line.get_xdata()[-1] for line in lines))
    ax.figure.draw_without_rendering()  # so that it is known where the ends lie
    scale, free = 72 / ax.figure.dpi, -np.inf
    for line in sorted(lines, key=lambda line: line.get_ydata()[-1]):
        end = line.get_xydata()[-1]
        height = scale * ax.transData.transform(end)[1]
        place, free = max(height, free), max(height, free) + apart
        ax.annotate(
            line.get_label(), end, (5, place - height), textcoords="offset points", va="center", color=line.get_color()
        )
