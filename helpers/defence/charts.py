"""Figures of attacks against defences, in the style of plots.py. Every function returns a matplotlib Figure."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from pandas import DataFrame
from sklearn.metrics import auc, roc_curve

from helpers.charts import DASHES
from helpers.plots import ATTACKED, CLEAN, NARROW, RANDOM, THRESHOLD, WIDE, colour_of


def histograms(
    groups: Mapping[str, Sequence[float]], xlabel: str, threshold: float | None = None, title: str = ""
) -> Figure:
    """How often each value occurs in each group, on common edges; threshold: a vertical line."""
    edges = np.histogram_bin_edges(np.concatenate(list(groups.values())), 24)
    figure, ax = plt.subplots(figsize=(NARROW, 2.9))
    for i, ((name, values), hatch) in enumerate(zip(groups.items(), cycle(("", "//", "..", "xx")), strict=False)):
        ax.hist(values, edges, label=name, color=colour_of(name, i), alpha=0.55, hatch=hatch, edgecolor="white")
    if threshold is not None:
        ax.axvline(threshold, color=THRESHOLD, linestyle="--", label="threshold")
    ax.set(xlabel=xlabel, ylabel="images", title=title)
    ax.legend()
    return figure


def roc_curves(clean: DataFrame, attacked: DataFrame, detectors: Sequence[str]) -> Figure:
    """Receiver operating characteristics of detectors whose scores, columns of both tables, are high for an attack."""
    figure, ax = plt.subplots(figsize=(NARROW, NARROW * 0.75))
    truth = [0] * len(clean) + [1] * len(attacked)
    for i, (name, dash) in enumerate(zip(detectors, cycle(DASHES), strict=False)):
        false, true, _ = roc_curve(truth, [*clean[name], *attacked[name]])
        ax.plot(false, true, color=colour_of(name, i), linestyle=dash, label=f"{name}, AUROC {auc(false, true):.2f}")
    ax.plot([0, 1], [0, 1], color=RANDOM, linewidth=1, linestyle=":", label="chance")
    ax.set(xlabel="false positive rate", ylabel="true positive rate")
    ax.legend(loc="upper left", bbox_to_anchor=(0, -0.2))  # below: lines run along every edge
    return figure


def chain(
    stages: Sequence[str],
    *,
    attacks: Mapping[str, str] | None = None,
    defences: Mapping[str, str] | None = None,
    bypassed: Sequence[str] = (),
) -> Figure:
    """Boxes from left to right, joined by arrows, with the attacker's notes below them and the defender's above.

    stages: the text of each box, for example ["image", "filter", "base", "features", "head"].
    attacks, defences: a note for some stages, by the text of the box; lines are separated by "\\n".
    bypassed: stages whose defence does not hold; its note is grey and crossed out.
    """
    figure, ax = plt.subplots(figsize=(WIDE, 2.5))
    for i, stage in enumerate(stages):
        defended = stage in (defences or {}) and stage not in bypassed
        edge = ATTACKED if stage in (attacks or {}) else CLEAN if defended else RANDOM
        style = {"boxstyle": "round,pad=0.55", "facecolor": "white", "edgecolor": edge, "linewidth": 1.6}
        ax.text(i, 0, stage, ha="center", va="center", fontsize=12, bbox=style)
        if i:
            ax.annotate("", (i - 0.33, 0), (i - 0.67, 0), arrowprops={"arrowstyle": "->", "color": THRESHOLD})
    for notes, side, colour in ((attacks, -1, ATTACKED), (defences, 1, CLEAN)):
        for stage, note in (notes or {}).items():
            place, crossed = stages.index(stage), side > 0 and stage in bypassed
            shade, align = RANDOM if crossed else colour, "bottom" if side > 0 else "top"
            arrow = {"arrowstyle": "->", "color": shade, "linestyle": ":" if crossed else "-"}
            ends = {"ha": "center", "va": align, "color": shade, "arrowprops": arrow}
            ax.annotate(note, (place, 0.32 * side), (place, 0.75 * side), **ends)
            if crossed:
                ax.plot(place, 0.54, "x", color=ATTACKED, markersize=14, markeredgewidth=3)
    ax.set(xlim=(-0.6, len(stages) - 0.4), ylim=(-1.5, 1.5))
    ax.set_axis_off()
    return figure
