"""The stored sweeps of notebook 04, data/sweeps/: `lite0`, `vgg16` or both. Minutes on two cores.

All are slices of one table per network, so that a cell that two of them share is computed once.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from experiments.common import device, lite0, vgg16
from helpers.base import Base, Classifier
from helpers.images import DATA, load_image
from helpers.sweeps import LOSSES, bisect, grid, sweep

FOLDER = DATA / "sweeps"
NAMES = ("albatross", "cat", "coffee")
MORE = ("ladybird", "rocket", "astronaut")
LITE0 = {"margin": 0.3, "steps": 60}  # its pre-activations are smaller than VGG-16's
VGG16 = {"margin": 1.0, "steps": 60}
LEVELS = [k / 255 for k in (4, 8, 16, 32)]


def images(names: Sequence[str] = NAMES, size: int = 224) -> dict[str, Tensor]:
    return {name: load_image(DATA / "images" / f"{name}.png", size=size).to(device()) for name in names}


def lite0_sweeps(network: dict[str, Classifier], path: Path) -> None:
    """EfficientNet-Lite0: everything, since a step is cheap."""

    def run(pictures: dict[str, Tensor], **axes: object) -> None:
        sweep(network, pictures, grid(**{**LITE0, **axes}), path=path)

    run(images(), eps=[k / 255 for k in (1, 2, 4, 6, 8, 12, 16)])
    run(images(NAMES[:2]), steps=[15, 30, 60, 120], step_size=LEVELS)
    run(images(), loss=list(LOSSES), weight_growth=0.0)
    run(images(), weight_growth=[0.1, 10.0])
    run(images(), momentum=[0.0, 0.5, 0.95])
    run(images(), margin=[0.0, 0.03, 0.1, 1.0])
    run(images(), random_start=True, seed=[0, 1, 2])
    for size in (112, 160):
        run(images(size=size))
    smallest_budgets(network, path, LITE0)


def vgg16_sweeps(network: dict[str, Base], path: Path) -> None:
    """VGG-16: the central ones."""
    sweep(network, images(), grid(eps=[k / 255 for k in (16, 8, 4, 2)], **VGG16), path=path)
    sweep(network, images(), grid(loss=list(LOSSES), weight_growth=0.0, **VGG16), path=path)
    for until in ("pool3", "pool4"):
        sweep({f"vgg16 {until}": vgg16(until)}, images(), grid(**VGG16), path=path)
    for size in (112, 160):
        sweep(network, images(size=size), grid(**VGG16), path=path)
    smallest_budgets(network, path, VGG16)


def smallest_budgets(network: dict, path: Path, settings: dict) -> None:
    """Bisection on six images; every attempt is a row."""
    for name, image in images(NAMES + MORE).items():

        def left_at(eps: int, one: dict[str, Tensor] = {name: image}) -> int:  # noqa: B006
            return int(sweep(network, one, grid(eps=eps / 255, **settings), path=path).left[0])

        bisect(left_at)


def main(options: Sequence[str] = ()) -> None:
    if "lite0" in (options or ["lite0"]):
        lite0_sweeps({"efficientnet_lite0": lite0()}, FOLDER / "lite0.csv")
    if "vgg16" in (options or ["vgg16"]):
        vgg16_sweeps({"vgg16": vgg16()}, FOLDER / "vgg16.csv")
