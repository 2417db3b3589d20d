"""The stored sweeps of notebook 04, data/sweeps/: `lite0`, `vgg16` or both. Ten minutes each on two cores.

All are slices of one table per network, so that a cell that two of them share is computed once.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from experiments.common import device, lite0, vgg16
from helpers.base import Base, Classifier
from helpers.images import DATA, load_image
from helpers.sweeps import LOSSES, bisect, grid, sweep

FOLDER = DATA / "sweeps"
NAMES = ("albatross", "cat", "coffee")
SHORT = 40  # steps
LITE0 = {"margin": 0.3, "steps": 60}  # its pre-activations are smaller than VGG-16's


def images(names: Sequence[str] = NAMES, size: int = 224) -> dict[str, Tensor]:
    return {name: load_image(DATA / "images" / f"{name}.png", size=size).to(device()) for name in names}


def levels(*eps: int) -> list[float]:
    return [k / 255 for k in eps]


def lite0_sweeps(network: dict[str, Classifier], path: Path) -> None:
    """EfficientNet-Lite0: everything, since a step is cheap."""

    def run(pictures: dict[str, Tensor], **axes: object) -> None:
        sweep(network, pictures, grid(**{**LITE0, **axes}), path=path)

    three, two = images(), images(NAMES[:2])
    run(three, eps=levels(16, 8, 4, 2, 1))
    losses(network, two, path, margin=LITE0["margin"])
    run(two, weight_growth=[0.1, 10.0])
    run(two, momentum=[0.0, 0.5])
    run(two, margin=[0.0, 1.0])
    run(two, random_start=True)
    run(two, steps=[15, 30], step_size=levels(4, 16, 32))
    run(two, step_size=levels(4, 32))
    for size in (112, 160):
        run(images(NAMES[:2], size))
    for name, image in images((*NAMES, "ladybird")).items():  # the smallest budget; every attempt is a row
        bisect(partial(left_at, network, {name: image}, path))


def losses(network: dict[str, Base | Classifier], pictures: dict[str, Tensor], path: Path, **settings: float) -> None:
    """The losses with equal weights, and the hinge with growing ones, for a short time."""
    alone = grid(loss=list(LOSSES), weight_growth=0.0, steps=SHORT, **settings)
    sweep(network, pictures, grid(steps=SHORT, **settings) + alone, path=path)


def left_at(network: dict[str, Classifier], image: dict[str, Tensor], path: Path, eps: int) -> int:
    """Features left of one image with a budget in 1/255."""
    return int(sweep(network, image, grid(eps=eps / 255, **LITE0), path=path).left[0])


def vgg16_sweeps(network: dict[str, Base], path: Path) -> None:
    """VGG-16: the central ones, about 700 steps of half a second."""
    sweep(network, images(), grid(eps=levels(16, 8, 4), steps=60), path=path)
    losses(network, images(NAMES[:1]), path)
    sweep({"vgg16 pool4": vgg16("pool4")}, images(NAMES[:1]), grid(steps=SHORT), path=path)
    sweep(network, images(NAMES[:1], 160), grid(steps=SHORT), path=path)


def main(options: Sequence[str] = ()) -> None:
    if "lite0" in (options or ["lite0"]):
        lite0_sweeps({"efficientnet_lite0": lite0()}, FOLDER / "lite0.csv")
    if "vgg16" in (options or ["vgg16"]):
        vgg16_sweeps({"vgg16": vgg16()}, FOLDER / "vgg16.csv")
