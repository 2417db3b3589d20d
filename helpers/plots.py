"""Three kinds of figure in one style: strip, feature maps, curves. Each returns a matplotlib Figure."""

import io
import math
import statistics
from collections.abc import Collection, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm, SymLogNorm, TwoSlopeNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from pandas import DataFrame
from PIL import Image, ImageFile
from torch import Tensor

WIDE, NARROW = 11.0, 6.0  # inches, the only two widths
Prediction = Sequence[tuple[str, float]]
LINES = ("-", "--", "-.", ":")  # beside the colour, for readers who do not see it
INK, ACCENT, GRID = "#3f3f46", "#b45309", "#27272a"
KINDS = {"picture": INK, "convolution": "#006ba4", "pooling": ACCENT}  # in `architecture`
QUALITY = 92  # of the JPEGs that show pictures
FEW = 2000  # colours: more than a drawing has with the soft edges of its lines, fewer than a photo has


def use_style() -> None:
    """One look for all figures: white ground (readable in dark mode), colour-blind-safe, 100 dpi."""
    names = ("petroff10", "tableau-colorblind10")  # the first from matplotlib 3.10 on
    plt.style.use(next(name for name in names if name in plt.style.available))
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.facecolor": "white",
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.constrained_layout.use": True,
            "image.interpolation": "nearest",
            "legend.frameon": False,
        }
    )


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alternative text, and close it; small, so that notebooks stay below GitHub's limit."""
    full = io.BytesIO()
    photo = holds_photo(figure)
    figure.savefig(full, format="png")
    plt.close(figure)
    kind, content = for_display(Image.open(full).convert("RGB"), photo)
    display({kind: content, "text/plain": alt}, raw=True, metadata={kind: {"alt": alt}})


def holds_photo(figure: Figure) -> bool:
    """Whether a figure shows a picture in colours of its own, not numbers on a colour map."""
    return any(image.get_array().ndim == 3 for ax in figure.axes for image in ax.images)


def for_display(colours: Image.Image, photo: bool) -> tuple[str, bytes]:
    """The kind and the bytes of a picture as pages show it.

    photo: a JPEG without colour subsampling, whose mean error is about one grey level; 256 colours
    would be coarser than the attack. Everything else is drawn with 256 colours, a third of the size.
    """
    stream = io.BytesIO()
    if photo and colours.getcolors(FEW) is None:
        room = 3 * colours.width * colours.height  # Pillow's buffer must hold an optimised JPEG of noise
        ImageFile.MAXBLOCK = max(ImageFile.MAXBLOCK, room)
        colours.save(stream, format="jpeg", quality=QUALITY, subsampling=0, optimize=True, progressive=True)
        return "image/jpeg", stream.getvalue()
    palette(colours).save(stream, format="png", optimize=True)
    return "image/png", stream.getvalue()


def palette(colours: Image.Image) -> Image.Image:
    """A drawing in 255 colours, found by k-means and not dithered, and pure white."""
    few = colours.quantize(255, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    white = Image.fromarray((np.asarray(colours) == 255).all(2))
    few.putpalette([*few.getpalette()[:765], *[0] * (765 - len(few.getpalette()[:765])), 255, 255, 255])
    few.paste(255, mask=white)  # the ground must stay white
    return few


def image_on(ax: Axes, image: Tensor, title: str = "") -> None:
    """Draw one picture (3, H, W) or (1, 3, H, W) without ticks."""
    ax.imshow(image.detach().squeeze(0).permute(1, 2, 0).float().cpu().clamp(0, 1).numpy())
    ax.set(title=title, xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def bars_on(ax: Axes, prediction: Prediction, title: str = "") -> None:
    """Draw the best labels as horizontal bars on a scale from 0 to 1, each with its number."""
    values = [value for _, value in prediction]
    ax.barh(range(len(values)), values, color=ACCENT, height=0.34)
    for i, (name, value) in enumerate(prediction):
        ax.text(0, i - 0.19, f"{name}  {value:.2g}" if value < 0.1 else f"{name}  {value:.2f}", va="bottom", fontsize=9)
    ax.set(title=title, xlim=(0, 1), ylim=(len(values) - 0.7, -0.85), yticks=[], xticks=[0, 0.5, 1])
    ax.spines["left"].set_visible(False)


def amplification(change: Tensor) -> int:
    """A round factor that makes a change fill about half of the grey scale."""
    largest = change.abs().max().item()
    return next((k for k in (50, 30, 20, 10, 5, 3, 2) if k * largest <= 0.52), 1)


def portrait(image: Tensor, predictions: Mapping[str, Prediction]) -> Figure:
    """One picture, and beside it one panel of bars per title."""
    panels = 1 + len(predictions)
    side = 2.75
    figure, axes = plt.subplots(1, panels, figsize=(side * panels, side + 0.35))
    image_on(axes[0], image)
    for ax, (title, prediction) in zip(axes[1:], predictions.items(), strict=True):
        bars_on(ax, prediction, title)
    return figure


def strip(
    original: Tensor, attacked: Tensor, before: Prediction | None = None, after: Prediction | None = None
) -> Figure:
    """Original, change x k around grey, attacked picture; with predictions also their bars."""
    change = attacked.cpu() - original.cpu()  # either may lie on a GPU
    k = amplification(change)
    panels = 3 + (before is not None) + (after is not None)
    figure, axes = plt.subplots(1, panels, figsize=(WIDE, WIDE / panels + 0.35))
    axes = list(axes)
    image_on(axes[0], original, "original")
    if before is not None:
        bars_on(axes.pop(1), before, "what it says")
    image_on(axes[1], 0.5 + k * change, f"change x {k}")
    image_on(axes[2], attacked, "attacked")
    if after is not None:
        bars_on(axes[3], after, "what it says now")
    return figure


def pictures(images: Tensor | Sequence[Tensor], titles: Sequence[str], columns: int = 6) -> Figure:
    """Many pictures (3, H, W) in rows, each with a title; `columns` of them fill the page."""
    side = WIDE / columns
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * side, rows * (side + 0.25)), squeeze=False)
    for ax in axes.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        image_on(ax, image, title)
    return figure


def feature_maps(maps: Mapping[str, Tensor], titles: Sequence[str] = (), cmap: str = "viridis") -> Figure:
    """Rows of maps (C, H, W), one row per entry, of any length, all on one colour scale with its bar."""
    columns = max(len(row) for row in maps.values())
    low = min(row.min().item() for row in maps.values())
    high = max(row.max().item() for row in maps.values())
    side = WIDE / (columns + 0.6)
    figure, axes = plt.subplots(len(maps), columns, figsize=(WIDE, len(maps) * side + 0.4), squeeze=False)
    for axes_row, (name, row) in zip(axes, maps.items(), strict=True):
        for ax in axes_row[len(row) :]:
            ax.set_axis_off()
        for i, ax in enumerate(axes_row[: len(row)]):
            drawn = ax.imshow(row[i].detach().float().cpu().numpy(), cmap=cmap, vmin=low, vmax=high or 1e-9)
            ax.set(xticks=[], yticks=[])
        axes_row[0].set_ylabel(name)
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title)
    figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01)
    return figure


def curves(
    lines: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    *,
    x: Sequence[float] | None = None,
    log: bool = False,
    stairs: bool = False,
    title: str = "",
) -> Figure:
    """One line per entry; log: a symmetric logarithmic axis, on which zero has a place; stairs: no slopes."""
    figure, ax = plt.subplots(figsize=(NARROW, 3.4))
    for i, (name, values) in enumerate(lines.items()):
        places, drawn = range(len(values)) if x is None else x, "steps-post" if stairs else "default"
        ax.plot(places, values, LINES[i % len(LINES)], label=name, drawstyle=drawn)
    if x is None:
        ax.locator_params(axis="x", integer=True)  # no half steps
    if log:
        count_axis(ax, max(max(values) for values in lines.values()))
        ax.set_ylim(bottom=0)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.grid(alpha=0.25)
    if len(lines) > 1:
        ax.legend()
    return figure


def count_axis(ax: Axes, high: float, least: float = 1.0) -> None:
    """A logarithmic y axis with a place for zero, up to `high`, linear below `least`; its ticks are plain numbers."""
    decades = math.ceil(math.log10(max(high / least, 10)) + 1e-9)
    few = (1, 2, 5) if decades <= 2 else (1,)
    ticks = [0.0, *(least * part * 10**decade for decade in range(decades + 1) for part in few)]
    ax.set_yscale("symlog", linthresh=least)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= 1.7 * high or tick <= least]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def contrast(change: Tensor) -> Tensor:
    """Any tensor (.., H, W) scaled so that its largest size becomes 1 and zero lies at 0.5."""
    return 0.5 + change / (2 * torch.clamp(change.abs().max(), min=1e-12))


def wall(panels: Mapping[str, Tensor], across: int = 32, columns: int = 2) -> Figure:
    """All channels of a layer at a glance: one panel per entry (C, H, W), zero black, one cube-root scale."""
    rows = -(-len(panels) // columns)
    high = max(maps.max().item() for maps in panels.values()) or 1e-9
    figure, axes = plt.subplots(rows, columns, figsize=(WIDE, rows * WIDE / columns * 0.56), squeeze=False)
    for ax, (name, maps) in zip(axes.flat, panels.items(), strict=False):
        c, h, w = maps.shape
        tiles = torch.nn.functional.pad(maps.detach().float().cpu(), (0, 1, 0, 1, 0, -c % across), value=torch.nan)
        picture = tiles.view(-1, across, h + 1, w + 1).transpose(1, 2).flatten(2).flatten(0, 1)[:-1, :-1]
        drawn = ax.imshow(picture.numpy(), cmap="magma", norm=PowerNorm(1 / 3, 0, high), interpolation="none")
        ax.set(title=name, xticks=[], yticks=[], facecolor=GRID)
    figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, label="output (cube-root scale)")
    return figure


def heat_map(
    table: DataFrame,
    xlabel: str,
    title: str = "",
    cmap: str = "viridis",
    high: float = 1.0,
    centre: float | None = None,
) -> Figure:
    """A table as coloured cells on a scale from 0 to `high`: its rows from top to bottom.

    centre: the value that gets the middle colour, for a diverging colour map.
    """
    figure, ax = plt.subplots(figsize=(WIDE, 0.22 * len(table) + 1))
    norm = Normalize(0, high) if centre is None else TwoSlopeNorm(centre, 0, high)
    drawn = ax.imshow(table.to_numpy(), cmap=cmap, norm=norm, aspect="auto")
    ax.set(title=title, xlabel=xlabel, xticks=range(table.shape[1]), yticks=range(len(table)))
    ax.set_xticklabels(table.columns)
    ax.set_yticklabels(table.index)
    figure.colorbar(drawn, ax=ax, pad=0.01)
    return figure


def answers(
    images: Sequence[Tensor | None], predictions: Sequence[Prediction], titles: Sequence[str], columns: int = 2
) -> Figure:
    """Pictures (3, H, W), each beside its best labels, `columns` such pairs in a row; None draws an empty frame."""
    rows, side = -(-len(images) // columns), WIDE / columns / 2.2
    ratios = [1, 1.2] * columns
    lines = 0.28 * max(len(prediction) for prediction in predictions)  # inches: a bar below each label
    size = (WIDE, rows * (max(side, lines) + 0.35))
    figure, axes = plt.subplots(rows, 2 * columns, figsize=size, squeeze=False, width_ratios=ratios)
    figure.get_layout_engine().set(h_pad=0.1)
    for ax in axes.flat[2 * len(images) :]:
        ax.set_axis_off()
    for i, (image, prediction, title) in enumerate(zip(images, predictions, titles, strict=True)):
        ax, bars = axes.flat[2 * i : 2 * i + 2]
        if image is None:
            image_on(ax, torch.full((3, 2, 2), 0.93), title)
            ax.text(0.5, 0.5, "no picture", ha="center", va="center", color=INK)
        else:
            image_on(ax, image, title)
        bars_on(bars, prediction)
    return figure


def architecture(layers: Sequence[tuple[str, tuple[int, int, int]]]) -> Figure:
    """A network as a row of blocks: (kind, (channels, height, width)) of each layer's output, not to scale.

    Height grows with the square root of the side, thickness with the logarithm of the
    channels. Above each stands its name, by block and place; below, where it changes, the shape.
    """
    figure, ax = plt.subplots(figsize=(WIDE, 4.4))
    place, last = 0.0, (0, 0)
    names = layer_names([kind for kind, _ in layers])
    for i, (kind, (channels, height, _)) in enumerate(layers):
        side, thick = height**0.5, 0.2 * math.log2(channels)
        depth, low = 0.25 * side, -side / 2
        x = [place, place + thick, place + thick + depth, place + depth]
        y = [low, low + depth, low + side, low + side + depth]
        front = [(x[0], y[0]), (x[1], y[0]), (x[1], y[2]), (x[0], y[2])]
        top = [(x[0], y[2]), (x[1], y[2]), (x[2], y[3]), (x[3], y[3])]
        right = [(x[1], y[0]), (x[2], y[1]), (x[2], y[3]), (x[1], y[2])]
        colour = KINDS["pooling" if "Pool" in kind else "convolution" if "Conv" in kind else "picture"]
        for face, light in ((front, 0.0), (top, 0.6), (right, 0.4)):
            shade = [light + (1 - light) * part for part in to_rgb(colour)]
            ax.add_patch(Polygon(face, facecolor=shade, edgecolor="white", linewidth=0.8))
        ax.text((x[2] + x[3]) / 2, y[3] + 0.3, names[i], rotation=60, fontsize=8, color=INK)
        if ("Pool" not in kind and (channels, height) != last) or i + 1 == len(layers):
            ax.plot([place] * 2, [low - 0.2, -8.3], color="0.75", linewidth=0.8)
            shape, side_of = f"{height} x {height}\nx {channels}", "left" if i else "right"
            ax.text(place, -8.6, shape, ha=side_of, va="top", fontsize=9, color=INK)
            last = channels, height
        place = place + thick + 0.6 + 0.08 * side
    ax.set(xlim=(-3, place + 1.6), ylim=(-10.4, 14.2), aspect="equal")
    ax.legend(handles=[Patch(color=colour, label=name) for name, colour in KINDS.items()], loc="upper right")
    ax.set_axis_off()
    return figure


def layer_names(kinds: Sequence[str]) -> list[str]:
    """Names by block and place, as Simonyan & Zisserman (2015) give them: conv1_1, conv1_2, pool1, conv2_1, ..."""
    names, block, place = [], 1, 0
    for kind in kinds:
        if "Pool" in kind:
            names.append(f"pool{block}")
            block, place = block + 1, 0
        elif "Conv" in kind:
            place += 1
            names.append(f"conv{block}_{place}")
        else:
            names.append(kind)
    return names


def number_grid(table: DataFrame, xlabel: str, ylabel: str, title: str = "") -> Figure:
    """A table of counts as coloured cells on a logarithmic scale, each with its number; zero is palest."""
    figure, ax = plt.subplots(figsize=(NARROW, 0.5 * len(table) + 1.3))
    values = table.to_numpy(dtype=float)
    drawn = ax.imshow(values, cmap="YlOrBr", norm=SymLogNorm(1, vmin=0, vmax=max(values.max(), 10)), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        dark = drawn.norm(value) > 0.6
        ax.text(j, i, f"{value:,.0f}", ha="center", va="center", color="white" if dark else INK)
    ax.set(title=title, xlabel=xlabel, ylabel=ylabel, xticks=range(table.shape[1]), yticks=range(len(table)))
    ax.set_xticklabels(table.columns)
    ax.set_yticklabels(table.index)
    return figure


def spread(
    panels: Mapping[str, Mapping[object, Sequence[float]]],
    ylabel: str,
    columns: int = 4,
    *,
    ordered: bool = True,
    unjoined: Collection[str] = (),
    even: bool = True,
    xlabel: str | Mapping[str, str] = "",
    least: float = 1.0,
) -> Figure:
    """One panel per setting: for each value a dot per picture, and a line through the medians.

    ordered=False: the values are names in no order; they are sorted by their medians, each of which is a
    short bar, and no line joins them. unjoined: titles of panels that are drawn like this, but keep the
    order that they are given in. even=False: values that are numbers stand where they lie on their
    axis. xlabel: of all panels, or one per title. The scale is logarithmic with a place for zero, linear
    below `least`, and the same in all panels.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    width = WIDE if columns > 2 else NARROW * (1 + columns) / 2
    figure, axes = plt.subplots(rows, columns, figsize=(width, 2.9 * rows), squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    high = max(max(numbers) for values in panels.values() for numbers in values.values())
    for ax, (title, values) in zip(axes.flat, panels.items(), strict=False):
        if not ordered:
            values = dict(sorted(values.items(), key=lambda entry: (statistics.median(entry[1]), max(entry[1]))))
        places = list(range(len(values)) if even else values)
        middles = [statistics.median(numbers) for numbers in values.values()]
        joined = ordered and title not in unjoined
        style = {"linestyle": "-"} if joined else {"linestyle": "", "marker": "_", "markersize": 16}
        ax.plot(places, middles, color=INK, linewidth=1, **style)
        for place, numbers in zip(places, values.values(), strict=True):
            ax.plot([place] * len(numbers), numbers, "o", color=ACCENT, alpha=0.6, markersize=6)
        ax.set(title=title, xticks=places, xticklabels=[str(name) for name in values])
        ax.set_xlabel(xlabel if isinstance(xlabel, str) else xlabel.get(title, ""))
        count_axis(ax, high, least)
        ax.margins(x=0.12)
        ax.grid(alpha=0.25)
        if any(len(str(name)) > 6 for name in values):
            plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    axes[0, 0].set_ylim(-0.3 * least, 2 * high + least)
    for row in axes:
        row[0].set_ylabel(ylabel)
    return figure
