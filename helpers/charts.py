"""Figures of numbers, tables and feature maps, in the style of plots.py. Every function returns a matplotlib Figure."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter, SymmetricalLogLocator
from pandas import DataFrame
from torch import Tensor
from torchvision.utils import make_grid

from helpers.plots import ATTACKED, CLEAN, NARROW, THRESHOLD, WIDE, colour_of

DASHES = ("-", (0, (6, 1)), (0, (3, 1)), (0, (1, 1)), (0, (7, 1, 1, 1)), (0, (4, 1, 1, 1, 1, 1)), (0, (4, 3)))


def curves(
    lines: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    *,
    x: Sequence[float] | Sequence[str] | None = None,
    log: bool = False,
    stairs: bool = False,
) -> Figure:
    """One line per entry.

    lines: name -> values.
    x: the x values, or names of places. (Default: 0, 1, 2, ...)
    log: a logarithmic y axis with a place for zero. (Default: False)
    stairs: draw steps instead of slopes. (Default: False)
    """
    figure, ax = plt.subplots(figsize=(NARROW, 3.4))
    for i, ((name, values), dash) in enumerate(zip(lines.items(), cycle(DASHES), strict=False)):
        places, drawn = range(len(values)) if x is None else x, "steps-post" if stairs else "default"
        ax.plot(places, values, color=colour_of(name, i), linestyle=dash, label=name, drawstyle=drawn)
    if x is None:
        ax.locator_params(axis="x", integer=True)
    if log:
        count_axis(ax, max(max(values) for values in lines.values()))
        ax.set_ylim(bottom=0)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.25)
    if len(lines) > 1:
        ax.legend()
    return figure


def count_axis(ax: Axes, high: float, least: float = 1.0) -> None:
    """Make the y axis logarithmic up to `high` and linear below `least`, with a place for zero and plain numbers."""
    parts = (1, 2, 5) if high <= 100 * least else (1,)
    ax.set_yscale("symlog", linthresh=least)
    ax.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=least, subs=parts))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.6g}"))


def label_line_ends(ax: Axes) -> None:
    """Write the name of each line at its right end, in place of a legend; names do not overlap."""
    ax.get_legend().remove()
    lines = sorted(ax.get_lines(), key=lambda line: line.get_ydata()[-1])
    ax.set_xlim(right=max(line.get_xdata()[-1] for line in lines))
    ax.figure.draw_without_rendering()  # fixes where the ends lie
    free = -math.inf
    for line in lines:
        end = line.get_xydata()[-1]
        height = 72 / ax.figure.dpi * ax.transData.transform(end)[1]
        shift = max(free - height, 0)
        free = height + shift + 12  # points
        ax.annotate(line.get_label(), end, (5, shift), textcoords="offset points", va="center", color=line.get_color())


def heat_map(
    table: DataFrame,
    xlabel: str,
    ylabel: str = "",
    title: str = "",
    *,
    high: float | None = None,
    centre: float | None = None,
) -> Figure:
    """A table as coloured cells, darker for more. Up to 60 cells show their numbers; larger tables get a colour bar.

    high: the value of the darkest cells. (Default: the largest)
    centre: a value that stays white, with one colour below and one above. (Default: none)
    """
    values = table.to_numpy(dtype=float)
    high = high or max(values.max(), 1e-9)
    norm = Normalize(0, high) if centre is None else TwoSlopeNorm(centre, 0, high)
    numbers = table.size <= 60
    size = (NARROW, 0.42 * len(table) + 1.3) if numbers else (WIDE, 0.22 * len(table) + 1)
    figure, ax = plt.subplots(figsize=size)
    drawn = ax.imshow(values, cmap="YlOrBr" if centre is None else "PuOr_r", norm=norm, aspect="auto")
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(range(table.shape[1]), table.columns)
    ax.set_yticks(range(len(table)), table.index)
    if not numbers:
        figure.colorbar(drawn, ax=ax, pad=0.01)
        return figure
    for (i, j), value in np.ndenumerate(values):
        depth = norm(value) if centre is None else 2 * abs(norm(value) - 0.5)
        ax.text(j, i, f"{value:,.4g}", ha="center", va="center", color="white" if depth > 0.6 else THRESHOLD)
    return figure


def strip_plot(
    panels: Mapping[str, Mapping[object, Sequence[float]]],
    ylabel: str,
    columns: int = 4,
    *,
    xlabel: str = "",
    to_scale: bool = False,
    least: float = 1.0,
) -> Figure:
    """One panel per setting: a dot per image above each value, and the medians, joined where the values are numbers.

    panels: title -> value of the setting -> one number per image.
    columns: panels in a row. (Default: 4)
    to_scale: place the values to scale on the x axis, not at equal distances. (Default: False)
    least: below it, the logarithmic y axis of all panels is linear, with a place for zero. (Default: 1)
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = WIDE if columns > 2 else NARROW * (1 + columns) / 2
    figure, axes = plt.subplots(rows, columns, figsize=(width, 2.9 * rows), squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    high = max(max(numbers) for values in panels.values() for numbers in values.values())
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=False):
        dots_on(ax, values, title, to_scale)
        ax.set(title=title, xlabel=xlabel)
        count_axis(ax, high, least)
        ax.margins(x=0.12)
        ax.grid(alpha=0.25)
    axes[0, 0].set_ylim(-0.3 * least, 2 * high + least)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return figure


def dots_on(ax: Axes, values: Mapping[object, Sequence[float]], title: str, to_scale: bool) -> None:
    """Draw one panel of strip_plot: the dots above each value, and their medians."""
    places = list(values if to_scale else range(len(values)))
    named = any(isinstance(value, str) for value in values)
    style = {"linestyle": "", "marker": "_", "markersize": 16} if named else {}
    ax.plot(places, [statistics.median(numbers) for numbers in values.values()], color=THRESHOLD, linewidth=1, **style)
    for place, (name, numbers) in zip(places, values.items(), strict=True):
        colour = CLEAN if "clean" in (name, title.split(" ")[0]) else ATTACKED
        ax.plot([place] * len(numbers), numbers, "o", color=colour, alpha=0.6, markersize=6)
    slanted = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, list(map(str, values)), **slanted if any(len(str(name)) > 6 for name in values) else {})


def dot_plot(
    table: DataFrame,
    xlabel: str,
    high: float,
    *,
    intervals: Mapping[str, DataFrame] | None = None,
    marks: Mapping[str, float] | None = None,
) -> Figure:
    """One line per row of a table and one kind of dot per column, on a scale from 0 to `high`.

    intervals: for a column, a table of two columns that hold the ends of its intervals.
    marks: vertical lines at these values, with their names.
    """
    places, count = np.arange(len(table)), len(table.columns)
    figure, ax = plt.subplots(figsize=(WIDE * 0.8, 0.36 * len(table) + 1.2))
    for i, ((name, values), shape) in enumerate(zip(table.items(), cycle("oDs^v"), strict=False)):
        height = places + (i - (count - 1) / 2) * min(0.22, 0.6 / count)  # equal values do not hide each other
        colour = colour_of(name, i)
        if intervals and name in intervals:
            ends = intervals[name].to_numpy()
            ax.hlines(height, ends[:, 0], ends[:, 1], color=colour, alpha=0.35, linewidth=3)
        ax.plot(values, height, shape, color=colour, label=name, markersize=6)
    for name, value in (marks or {}).items():
        ax.axvline(value, color=THRESHOLD, linewidth=1, linestyle=":")
        ax.annotate(name, (value, 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points")
    ax.set(xlabel=xlabel, xlim=(-0.03 * high, 1.03 * high), ylim=(len(table) - 0.5, -0.7))
    ax.set_yticks(places, table.index)
    ax.tick_params(axis="y", length=0)
    ax.grid(alpha=0.25)
    if count > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def feature_maps(maps: Mapping[str, Tensor | Sequence[Tensor]], titles: Sequence[str] = (), high: float = 0) -> Figure:
    """Rows of maps (C, h, w), one row per entry, on one colour scale up to their largest value or `high`."""
    columns = max(map(len, maps.values()))
    every = [one.detach().float().cpu() for row in maps.values() for one in row]
    low, high = min(one.min().item() for one in every), max(high, 1e-9, *(one.max().item() for one in every))
    size = WIDE, (WIDE - 1) / columns * len(maps) + 0.3 * bool(titles)
    figure, axes = plt.subplots(len(maps), columns, figsize=size, squeeze=False)
    for ax, one in zip(axes.flat, every, strict=True):
        drawn = ax.imshow(one.numpy(), vmin=low, vmax=high, aspect="auto")
        ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[:, 0], maps, strict=True):
        ax.set_ylabel(name)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title)
    figure.colorbar(drawn, ax=axes, pad=0.01, aspect=15 * len(maps))
    return figure


def channel_mosaic(layers: Mapping[str, Tensor], across: int = 32) -> Figure:
    """All channels of a layer (C, h, w) as tiles, one panel per entry, on one cube-root scale; zero is black.

    across: tiles in a row. (Default: 32)
    """
    rows = -(-len(layers) // 2)
    norm = PowerNorm(1 / 3, 0, max(1e-9, *(maps.max().item() for maps in layers.values())))
    figure, axes = plt.subplots(rows, 2, figsize=(WIDE, rows * WIDE * 0.28), squeeze=False)
    for ax, (name, maps) in zip(axes.flat, layers.items(), strict=False):
        tiles = make_grid(maps.detach().float().cpu()[:, None], across, padding=1, pad_value=torch.nan)[0]
        drawn = ax.imshow(tiles.numpy(), cmap="magma", norm=norm, interpolation="none")
        ax.set(title=name, xticks=[], yticks=[], facecolor="#27272a")
    figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, label="activation (cube-root scale)")
    return figure
