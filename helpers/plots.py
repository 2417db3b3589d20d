"""Figures of images and predictions, in a style that charts.py shares. The functions return a matplotlib Figure."""

import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from cycler import cycler
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image
from torch import Tensor

DPI = 100
WIDE, NARROW = 11.0, 6.0  # inches, the only two widths
# One colour per concept in all notebooks. Colour-blind readers can tell them apart, and all are dark enough for text.
CLEAN, ATTACKED, RANDOM, THRESHOLD = "#0072b2", "#c04f00", "#767676", "#222222"
OTHERS = ("#00795c", "#7a3e9d", "#8a6500", "#b03a7a", "#3f3f46", "#4d7c0f")
CONCEPTS = {"clean": CLEAN, "original": CLEAN, "random": RANDOM, "noise": RANDOM}
CONCEPTS |= dict.fromkeys(("attacked", "zeroed", "zero-out", "zero_out"), ATTACKED)
CONCEPTS["matched"] = OTHERS[1]
GAP, HEADING, BARS = 16, 26, 156  # pixels: between panels, for a title, of the bars beside images
LETTER = 6.3  # pixels of a letter above a bar, on average
LARGEST_PNG = 600_000  # bytes
Prediction = Sequence[tuple[str, float]]  # (class, probability), the best first


def use_style() -> None:
    """Set one look for all figures, with a white background that stays readable in dark themes."""
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


def show(figure: Figure, caption: str) -> None:
    """Display a figure with a caption, which is also its alternative text, and close it."""
    content, metadata = described(encode(figure), caption)
    display(content, raw=True, metadata=metadata)
    write_caption(caption)


def write_caption(text: str) -> None:
    """Display a line of text below a figure."""
    display(Markdown(f"*{text}*"))


def encode(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file; the figure is closed."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=DPI)
    plt.close(figure)
    return content.getvalue()


def described(image: bytes, alt: str) -> tuple[dict[str, object], dict[str, object]]:
    """The content and metadata of an output: the image as PNG, or as JPEG if that is too large, and its text."""
    pixels, png, jpeg = Image.open(io.BytesIO(image)).convert("RGB"), io.BytesIO(), io.BytesIO()
    pixels.save(png, format="png", optimize=True)
    kind, small = "image/png", png
    if png.tell() > LARGEST_PNG:
        pixels.save(jpeg, format="jpeg", quality=92, subsampling=0)
        kind, small = "image/jpeg", jpeg
    return {kind: small.getvalue(), "text/plain": alt}, {kind: {"alt": alt}}


def colour_of(name: str, place: int = 0) -> str:
    """The colour of the concept that a name begins with, or one of OTHERS, chosen by place."""
    return next((c for word, c in CONCEPTS.items() if name.startswith(word)), OTHERS[place % len(OTHERS)])


def image_on(ax: Axes, image: Tensor, title: str = "") -> None:
    """Draw one image (3, H, W) or (1, 3, H, W) without ticks; at a whole magnification its pixels stay sharp."""
    pixels = image.detach().squeeze(0).permute(1, 2, 0).float().cpu().clamp(0, 1)
    whole = round(ax.get_window_extent().width) % pixels.shape[1] == 0  # matplotlib's own rule leaves three out
    ax.imshow(pixels.numpy(), interpolation="nearest" if whole else "antialiased")
    ax.set(title=title, xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def bars_on(ax: Axes, prediction: Prediction, title: str = "", chance: float | None = None) -> None:
    """Draw classes as horizontal bars with their probabilities; the best one is darker.

    chance: 1 / number of classes, drawn as a dotted line; below 0.05 the axis is logarithmic. (Default: no line)
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
    ax.set(title=title, xlim=(0, 1), ylim=(len(prediction) - 0.7, -0.85), yticks=[])
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    if chance is not None:
        ax.axvline(chance, color=RANDOM, linestyle=":", linewidth=1, zorder=0)
    if chance is not None and chance < 0.05:
        ax.set(xscale="log", xlim=(chance / 10, 1), xticks=[chance, 1], xticklabels=[f"{chance:.2g}\n(chance)", "1"])
        ax.xaxis.set_minor_locator(NullLocator())
    ax.spines["left"].set_visible(False)


def amplification(change: Tensor) -> int:
    """A round factor that spreads a change over about half of the grey scale."""
    largest = change.abs().max().item()
    return next((k for k in (50, 30, 20, 10, 5, 3, 2) if k * largest <= 0.52), 1)


def contrast(change: Tensor) -> Tensor:
    """A tensor (..., H, W) scaled into [0, 1], with zero at 0.5 and the largest absolute value at 0 or 1."""
    return 0.5 + change / (2 * change.abs().max().clamp(min=1e-12))


def panels(
    sizes: Sequence[tuple[int, int]], count: int = 1, columns: int = 1, *, above: int = HEADING, below: int = 0
) -> list[Axes]:
    """Axes of a new figure, placed at whole pixels so that images are not resampled.

    sizes: width and height of the panels of a group, in pixels; they are side by side.
    count, columns: the number of groups, in all and per row. (Default: 1)
    above, below: free space above and below each row, in pixels. (Default: 26 and 0)
    """
    columns = min(columns, count)
    wide, tall = sum(width + GAP for width, _ in sizes), above + below + max(height for _, height in sizes)
    across, down = columns * wide, -(-count // columns) * tall
    with plt.rc_context({"figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=(across / DPI, down / DPI))
    for i in range(count):
        left, top = i % columns * wide + GAP // 2, i // columns * tall + above
        for width, height in sizes:
            figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))
            left += width + GAP
    return figure.axes


def fit(image: Tensor, room: float) -> tuple[int, int]:
    """Width and height for an image (3, H, W) in at most `room` pixels of width: a whole multiple if one fits."""
    height, width = image.shape[-2:]
    factor = room // width or room / width
    return round(factor * width), round(factor * height)


def in_one_order(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Predictions in the class order of the first one, if all name the same classes; else unchanged."""
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
    chance: float | None = None,
) -> Figure:
    """The original, the amplified change around grey, and the attacked image; with both predictions also their bars.

    chance: see bars_on.
    """
    predictions = in_one_order([before, after]) if before and after else []
    width, height = fit(original, (WIDE * DPI - len(predictions) * (BARS + GAP)) / 3 - GAP)
    bars = [(BARS, height - HEADING)] * len(predictions)
    axes = panels([(width, height)] * 3 + bars, below=GAP if bars else 0)
    change = attacked.cpu() - original.cpu()
    factor = amplification(change)
    images = {"original": original, f"change x {factor}": 0.5 + factor * change, "attacked": attacked}
    for ax, (title, image) in zip(axes, images.items(), strict=False):
        image_on(ax, image, title)
    titles = "prediction before", "prediction after"
    for ax, prediction, title in zip(axes[3:], predictions, titles, strict=False):
        bars_on(ax, prediction, title, chance)
    return axes[0].figure


def pictures(images: Tensor | Sequence[Tensor], titles: Sequence[str], columns: int = 6) -> Figure:
    """Images (3, H, W) in rows of `columns`, each with a title. (Default: 6)"""
    size = fit(images[0], WIDE * DPI / columns - GAP)
    above = HEADING * (1 + max(title.count("\n") for title in titles))
    axes = panels([size], len(images), columns, above=above)
    for ax, image, title in zip(axes, images, titles, strict=False):
        image_on(ax, image, title)
    return axes[0].figure


def images_with_predictions(
    images: Sequence[Tensor | None], predictions: Sequence[Prediction], titles: Sequence[str], columns: int = 2
) -> Figure:
    """Images (3, H, W), each next to the bars of its prediction; None draws an empty frame.

    columns: pairs of image and bars in a row. (Default: 2)
    If all predictions name the same classes, the bars have the same order.
    """
    room = WIDE * DPI / columns - 2 * GAP
    width, height = fit(next(image for image in images if image is not None), min(room - 110, 300))
    classes = max(map(len, predictions))
    bars = round(min(room - width, 240)), min(max(height, 34 * classes), 45 * classes)
    axes = panels([(width, height), bars], len(images), columns, below=2 * GAP)
    pairs = zip(axes[::2], axes[1::2], images, in_one_order(predictions), titles, strict=True)
    for left, right, image, prediction, title in pairs:
        image_on(left, torch.full((3, 2, 2), 0.93) if image is None else image, title)
        if image is None:
            left.text(0.5, 0.5, "no image", ha="center", va="center")
        bars_on(right, prediction)
    return axes[0].figure
