"""Make data/hero.png: the albatross before and after the least visible change, what VGG-16 makes of both, and answers.

Takes about a minute. The letters are large: on a phone the picture is a quarter of its width.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torchvision.utils import make_grid

from helpers.images import DATA, load_image, load_photos, write_file
from helpers.networks import train_head, vgg16_base
from helpers.plots import ATTACKED, CLEAN, DPI, THRESHOLD, encode, image_on, use_style

SIDE, GAP, HEAD, FOOT = 448, 16, 56, 16  # pixels: images at 2 x, between panels, for a title, below
WALL = SIDE // 2  # pixels: 16 rows of 32 channels, each 7 x 7 features at 2 x
WIDE, TALL = 3 * SIDE + 2 * GAP, 2 * HEAD + SIDE + WALL + FOOT
TOP, LEFT, PART = 32, 100, 112  # the square that is shown at 4 x
FACTOR = 4  # of the change
LETTERS = 34 * 72 / DPI  # points: 34 pixels
GREY = 0.24


def panel(figure: Figure, column: int, row: int, title: str, colour: str, inset: int = 0) -> Axes:
    """Axes at a place in whole pixels, with a title. inset: pixels free at the left."""
    height, top = (WALL, 2 * HEAD + SIDE) if row else (SIDE, HEAD)
    left = column * (SIDE + GAP)
    figure.text((left + SIDE / 2) / WIDE, 1 - (top - 10) / TALL, title, color=colour, ha="center", va="bottom")
    place = (left + inset) / WIDE, 1 - (top + height) / TALL, (SIDE - inset) / WIDE, height / TALL
    return figure.add_axes(place, xticks=[], yticks=[])


def wall(ax: Axes, maps: Tensor, high: float) -> None:
    """Draw all channels (512, 7, 7) as tiles: zero is black, brightness is the cube root of a feature."""
    tiles = make_grid(maps[:, None], 32, padding=0)[0]  # (112, 224)
    pixels = tiles.repeat_interleave(2, 0).repeat_interleave(2, 1)  # (224, 448)
    coloured = plt.get_cmap("magma")((pixels / high) ** (1 / 3))[..., :3]
    coloured[13::14], coloured[:, 13::14] = GREY, GREY  # a line between channels
    ax.imshow(coloured, interpolation="none")
    ax.spines[:].set_visible(False)


def bars(ax: Axes, answers: Tensor, labels: list[str]) -> None:
    """Draw the probabilities (2, K) before and after as pairs of bars."""
    for place, (before, after) in enumerate(answers.T.tolist()):
        ax.barh(place - 0.2, before, 0.36, color=CLEAN)
        ax.barh(place + 0.2, after, 0.36, color=ATTACKED)
    ax.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), yticks=range(len(labels)), yticklabels=labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["bottom"].set_visible(False)


def draw(both: Tensor, features: Tensor, answers: Tensor, labels: list[str]) -> Figure:
    """The picture. both: original and changed (2, 3, 224, 224). features: (2, 512, 7, 7). answers: (2, K)."""
    plt.rcParams.update({"font.size": LETTERS, "figure.constrained_layout.use": False})
    figure = plt.figure(figsize=(WIDE / DPI, TALL / DPI))
    for i, (name, colour) in enumerate((("original", CLEAN), ("changed", ATTACKED))):
        ax = panel(figure, 2 * i, 0, name, colour)
        image_on(ax, both[i])
        ax.add_patch(Rectangle((LEFT, TOP), PART, PART, fill=False, color="white", linewidth=2))
        active = f"{int(features[i].count_nonzero()):,} features active"
        wall(panel(figure, 2 * i, 1, active, colour), features[i], features.max().item())
    part = (both[1] - both[0])[:, TOP : TOP + PART, LEFT : LEFT + PART]
    image_on(panel(figure, 1, 0, f"change x {FACTOR}, zoomed", THRESHOLD), 0.5 + FACTOR * part)
    bars(panel(figure, 1, 1, "prediction", THRESHOLD, inset=150), answers, labels)
    return figure


def main() -> None:
    use_style()
    base = vgg16_base()
    both = torch.cat([load_image(DATA / folder / "albatross.png") for folder in ("images", "blind")])
    classifier = train_head(base, *load_photos("train"))
    with torch.inference_mode():
        features, answers = base.features(both), classifier.probabilities(both)
    if features[1].any():
        raise SystemExit("data/blind/albatross.png keeps features, so this picture would not be true")
    write_file(DATA / "hero.png", encode(draw(both, features, answers, classifier.labels)))


if __name__ == "__main__":
    main()
