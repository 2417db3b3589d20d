"""Figures of images and feature maps in one style, which charts.py shares. They return a matplotlib Figure."""

import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from cycler import cycler
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

DPI = 100
WIDE, NARROW = 11.0, 6.0  # inches, the only two widths
# One colour per concept in all notebooks. All are told apart by colour-blind readers and are dark enough for text.
CLEAN, ATTACKED, RANDOM, THRESHOLD = "#0072b2", "#c04f00", "#767676", "#222222"
OTHERS = ("#00795c", "#7a3e9d", "#8a6500", "#b03a7a", "#3f3f46", "#4d7c0f")
CONCEPTS = {"clean": CLEAN, "original": CLEAN, "random": RANDOM, "noise": RANDOM}
CONCEPTS |= dict.fromkeys(("attacked", "zeroed", "zero-out", "zero_out"), ATTACKED)
WINDOW, ZOOM = 100, 4  # pixels of an image, and their magnification
GAP, HEADING, BARS = 16, 26, 156  # pixels of a figure
LETTER = 6.3  # pixels of a letter above a bar, on average
LARGEST_PNG = 600_000  # bytes
Prediction = Sequence[tuple[str, float]]  # (class, probability), the best first


def use_style() -> None:
    """One look for all figures, with a white background that dark themes leave readable."""
    plt.rcdefaults()
    settings = {
        "axes.prop_cycle": cycler(color=(CLEAN, ATTACKED, *OTHERS)),
        "figure.dpi": DPI,
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.constrained_layout.use": True,
        "legend.frameon": False,
    }
    plt.rcParams.update(settings)


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alternative text, and close it."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    plt.close(figure)
    kind, small = compress(Image.open(content))
    display({kind: small, "text/plain": alt}, raw=True, metadata={kind: {"alt": alt}})


def compress(image: Image.Image) -> tuple[str, bytes]:
    """MIME type and bytes of an image for a page: a PNG, or where that is too large a JPEG."""
    content = io.BytesIO()
    image.convert("RGB").save(content, format="png", optimize=True)
    if content.tell() <= LARGEST_PNG:
        return "image/png", content.getvalue()
    content = io.BytesIO()
    image.convert("RGB").save(content, format="jpeg", quality=92, subsampling=0)
    return "image/jpeg", content.getvalue()


def colour_of(name: str, place: int = 0) -> str:
    """The colour of a concept that a name begins with, else one of OTHERS."""
    return next((c for word, c in CONCEPTS.items() if name.startswith(word)), OTHERS[place % len(OTHERS)])


def image_on(ax: Axes, image: Tensor, title: str = "") -> None:
    """Draw one image (3, H, W) or (1, 3, H, W) without ticks; whole magnifications show its pixels as they are."""
    ax.imshow(image.detach().squeeze(0).permute(1, 2, 0).float().cpu().clamp(0, 1).numpy(), interpolation="antialiased")
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def bars_on(ax: Axes, prediction: Prediction, title: str = "", chance: float | None = None) -> None:
    """Draw classes as horizontal bars, each with its probability; the best one is darker.

    chance: 1 / number of classes, drawn as a dotted line; below 0.05 the axis is logarithmic.
    """
    best = max(probability for _, probability in prediction)
    room = int(ax.get_window_extent().width / LETTER)  # letters that fit above a bar
    for i, (name, probability) in enumerate(prediction):
        ax.barh(i, probability, color="#3f3f46" if probability == best else "#a1a1aa", height=0.34)
        number = f"{probability:.2f}" if probability >= 0.1 else f"{probability:.2g}"
        most = max(room - len(number) - 2, 4)
        name = name if len(name) <= most else name[: most - 1].rstrip() + "…"
        label = ax.text(0.01, i - 0.19, f"{name}  {number}", va="bottom", fontsize=9)
        label.set_transform(ax.get_yaxis_transform())
    ax.set(title=title, xlim=(0, 1), ylim=(len(prediction) - 0.7, -0.85), yticks=[], xticks=[0, 0.5, 1])
    if chance is not None:
        ax.axvline(chance, color=RANDOM, linestyle=":", linewidth=1, zorder=0)
    if chance is not None and chance < 0.05:
        ax.set(xscale="log", xlim=(chance / 10, 1), xticks=[chance, 1], xticklabels=[f"{chance:.2g}\n(chance)", "1"])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.spines["left"].set_visible(False)


def amplification(change: Tensor) -> int:
    """A round factor that makes a change fill about half of the grey scale."""
    largest = change.abs().max().item()
    return next((k for k in (50, 30, 20, 10, 5, 3, 2) if k * largest <= 0.52), 1)


def contrast(change: Tensor) -> Tensor:
    """A tensor (..., H, W) scaled so that its largest absolute value becomes 1 and zero lies at 0.5."""
    return 0.5 + change / (2 * change.abs().max().clamp(min=1e-12))


def canvas(width: float, height: float) -> Figure:
    """An empty figure of a size in pixels, to be filled by `panel`."""
    with plt.rc_context({"figure.constrained_layout.use": False}):
        return plt.figure(figsize=(round(width) / DPI, round(height) / DPI))


def panel(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in whole pixels, so that images are not resampled."""
    across, down = figure.get_size_inches() * DPI
    left, top, width, height = (round(number) for number in (left, top, width, height))
    return figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))


def fit(width: int, height: int, room: float) -> tuple[float, float]:
    """The size of an image that is `room` pixels wide at most: a whole multiple where one fits."""
    factor = room // width or room / width
    return round(factor * width), round(factor * height)


def in_one_order(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Predictions that name the same classes, all in the order of the first; others as they are."""
    order = [name for name, _ in predictions[0]] if predictions else []
    if any({name for name, _ in prediction} != set(order) for prediction in predictions):
        return list(predictions)
    return [sorted(prediction, key=lambda pair: order.index(pair[0])) for prediction in predictions]


def before_after(
    original: Tensor,
    attacked: Tensor,
    before: Prediction | None = None,
    after: Prediction | None = None,
    *,
    zoom: tuple[int, int] | None = None,
    chance: float | None = None,
) -> Figure:
    """The original, the amplified change around grey, and the attacked image; with both predictions also their bars.

    zoom: left and top of a window of 100 x 100 pixels of both images, drawn below them four times as large.
    chance: see bars_on.
    """
    h, w = original.shape[-2:]
    predictions = in_one_order([before, after]) if before and after else []
    beside = 0 if zoom else len(predictions) * (BARS + 2 * GAP)  # with a zoom there is room below the change
    cut = min(WINDOW, h, w)
    large = ZOOM * cut if zoom else 0
    width, height = fit(w, h, WIDE * DPI - 2 * (GAP + large) if zoom else (WIDE * DPI - beside) / 3 - GAP)
    wide, low = max(width, large), height + 2 * HEADING
    lefts = 0, wide + GAP, wide + width + 2 * GAP
    figure = canvas(lefts[2] + wide + beside, low + large if zoom else low - (not beside) * HEADING)
    change = attacked.cpu() - original.cpu()
    k = amplification(change)
    image_on(panel(figure, lefts[1], HEADING, width, height), 0.5 + k * change, f"change x {k}")
    for left, title, image in ((lefts[0], "original", original), (lefts[2], "attacked", attacked)):
        ax = panel(figure, left + (wide - width) / 2, HEADING, width, height)
        image_on(ax, image, title)
        if zoom:
            x, y = min(zoom[0], w - cut), min(zoom[1], h - cut)
            ax.add_patch(Rectangle((x - 1, y - 1), cut + 1, cut + 1, fill=False))
            ax = panel(figure, left, low, large, large)
            image_on(ax, image[..., y : y + cut, x : x + cut], f"{title}, {cut} x {cut} pixels x {ZOOM}")
    for i, prediction in enumerate(predictions):
        place = (lefts[1], low + i * large / 2, width, large / 2 - 2 * HEADING)
        if not zoom:
            place = (lefts[2] + width + GAP + i * (BARS + 2 * GAP), HEADING, BARS, height - HEADING)
        bars_on(panel(figure, *place), prediction, ("prediction before", "prediction after")[i], chance)
    return figure


def pictures(images: Tensor | Sequence[Tensor], titles: Sequence[str], columns: int = 6) -> Figure:
    """Many images (3, H, W) in rows, each with a title; `columns` of them fill the page."""
    width, height = fit(images[0].shape[-1], images[0].shape[-2], WIDE * DPI / columns - GAP)
    columns, top = min(columns, len(images)), HEADING * (1 + max(title.count("\n") for title in titles))
    figure = canvas(columns * (width + GAP), -(-len(images) // columns) * (height + top))
    for i, (image, title) in enumerate(zip(images, titles, strict=False)):
        row, column = divmod(i, columns)
        ax = panel(figure, column * (width + GAP) + GAP / 2, row * (height + top) + top, width, height)
        image_on(ax, image, title)
    return figure


def images_with_predictions(
    images: Sequence[Tensor | None],
    predictions: Sequence[Prediction],
    titles: Sequence[str],
    columns: int = 2,
    chance: float | None = None,
) -> Figure:
    """Images (3, H, W), each beside its bars, `columns` such pairs in a row; None draws an empty frame.

    Where all predictions name the same classes, they are in the same order. chance: see bars_on.
    """
    h, w = next((image.shape[-2:] for image in images if image is not None), (1, 1))
    width, height = fit(w, h, min(WIDE * DPI / columns - 2 * GAP - 110, 300))
    bars = min(WIDE * DPI / columns - width - 2 * GAP, 240)
    tall = max(height, 34 * max(map(len, predictions)))
    across, down = width + bars + 2 * GAP, tall + HEADING + 2 * GAP
    figure = canvas(min(columns, len(images)) * across, -(-len(images) // columns) * down)
    for i, (image, prediction, title) in enumerate(zip(images, in_one_order(predictions), titles, strict=True)):
        left, top = i % columns * across + GAP / 2, i // columns * down + HEADING
        ax = panel(figure, left, top, width, height)
        image_on(ax, torch.full((3, 2, 2), 0.93) if image is None else image, title)
        if image is None:
            ax.text(0.5, 0.5, "no image", ha="center", va="center")
        ax = panel(figure, left + width + GAP / 2, top, bars, min(tall, 45 * len(prediction)))
        bars_on(ax, prediction, chance=chance)
    return figure


def feature_maps(maps: Mapping[str, Tensor | Sequence[Tensor]], titles: Sequence[str] = (), high: float = 0) -> Figure:
    """Rows of maps (C, h, w), one row per entry, all on one colour scale up to the largest value, at least `high`."""
    columns = max(len(row) for row in maps.values())
    low = min(one.min().item() for row in maps.values() for one in row)
    high = max(high, 1e-9, *(one.max().item() for row in maps.values() for one in row))
    side = (WIDE * DPI - 110) // columns - GAP
    across, down = columns * (side + GAP) + 2 * GAP, len(maps) * (side + GAP) + HEADING
    figure = canvas(across + 80, down)
    for i, (name, row) in enumerate(maps.items()):
        for j, one in enumerate(row):
            ax = panel(figure, 1.5 * GAP + j * (side + GAP), HEADING + i * (side + GAP), side, side)
            drawn = ax.imshow(one.detach().float().cpu().numpy(), vmin=low, vmax=high, aspect="auto")
            ax.set(xticks=[], yticks=[], ylabel=name if j == 0 else "", title=titles[j] if i == 0 and titles else "")
    figure.colorbar(drawn, panel(figure, across - GAP / 2, HEADING, GAP, down - HEADING - GAP))
    return figure


def channel_mosaic(layers: Mapping[str, Tensor], across: int = 32, columns: int = 2) -> Figure:
    """All channels of a layer as tiles, one panel per entry (C, h, w); zero is black, on one cube-root scale."""
    rows = -(-len(layers) // columns)
    norm = PowerNorm(1 / 3, 0, max(1e-9, *(maps.max().item() for maps in layers.values())))
    figure, axes = plt.subplots(rows, columns, figsize=(WIDE, rows * WIDE / columns * 0.56), squeeze=False)
    for ax, (name, maps) in zip(axes.flat, layers.items(), strict=False):
        tiles = make_grid(maps.detach().float().cpu()[:, None], across, padding=1, pad_value=torch.nan)[0]
        drawn = ax.imshow(tiles.numpy(), cmap="magma", norm=norm, interpolation="none")
        ax.set(title=name, xticks=[], yticks=[], facecolor="#27272a")
    figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.01, label="activation (cube-root scale)")
    return figure
