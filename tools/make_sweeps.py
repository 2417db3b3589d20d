"""Compute the stored sweeps of notebook 04, data/sweeps/: some minutes on two cores.

    python tools/make_sweeps.py          # goes on where it was stopped

All are slices of one table per network, so that a cell that two of them share is computed once.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from helpers.base import Base
from helpers.images import DATA, load_image
from helpers.networks import efficientnet_lite0, vgg16_base
from helpers.runtime import seed_everything
from helpers.sweeps import LOSSES, Source, bisect, grid, sweep

FOLDER = DATA / "sweeps"
NAMES = ("albatross", "cat", "coffee")
MORE = ("ladybird", "rocket", "astronaut")
LITE0 = {"margin": 0.3, "steps": 60}  # its pre-activations are smaller than VGG-16's
VGG16 = {"margin": 1.0, "steps": 60}


def photos(names: tuple[str, ...] = NAMES, size: int = 224) -> dict[str, Tensor]:
    """Pictures of data/images by name."""
    return {name: load_image(DATA / "images" / f"{name}.png", size=size) for name in names}


def vgg16_pool3() -> Base:
    return vgg16_base("pool3")


def vgg16_pool4() -> Base:
    return vgg16_base("pool4")


def lite0_sweeps(path: Path) -> None:
    """EfficientNet-Lite0: everything, since a step is cheap."""
    network = {"efficientnet_lite0": efficientnet_lite0}

    def run(pictures: dict[str, Tensor], **axes: object) -> None:
        sweep(network, pictures, grid(**{**LITE0, **axes}), path=path)

    run(photos(), eps=[k / 255 for k in (1, 2, 4, 6, 8, 12, 16)])
    run(photos(NAMES[:2]), steps=[15, 30, 60], step_size=[k / 255 for k in (4, 8, 16, 32)])
    run(photos(), loss=list(LOSSES), focus=0.0)
    run(photos(), focus=[0.1, 10.0])
    run(photos(), momentum=[0.0, 0.5, 0.95])
    run(photos(), margin=[0.0, 0.03, 0.1, 1.0])
    run(photos(), random_start=True, seed=[0, 1, 2])
    for size in (112, 160):
        run(photos(size=size))
    run(photos(NAMES[:2]), steps=120, step_size=[k / 255 for k in (4, 8, 16, 32)])
    smallest(network, photos(NAMES + MORE), path, LITE0)


def vgg16_sweeps(path: Path) -> None:
    """VGG-16: the central ones."""
    network = {"vgg16": vgg16_base}
    sweep(network, photos(), grid(eps=[k / 255 for k in (16, 8, 4, 2)], **VGG16), path=path)
    sweep(network, photos(), grid(loss=list(LOSSES), focus=0.0, **VGG16), path=path)
    for name, base in {"vgg16 pool3": vgg16_pool3, "vgg16 pool4": vgg16_pool4}.items():
        sweep({name: base}, photos(), grid(**VGG16), path=path)
    for size in (112, 160):
        sweep(network, photos(size=size), grid(**VGG16), path=path)
    smallest(network, photos(NAMES + MORE), path, VGG16)


def smallest(network: dict[str, Source], pictures: dict[str, Tensor], path: Path, settings: dict) -> None:
    """The smallest budget found per picture, by bisection; every attempt is a row."""
    for name, image in pictures.items():
        bisect(attempts(network, {name: image}, path, settings))


def attempts(network: dict, picture: dict[str, Tensor], path: Path, settings: dict) -> Callable[[int], int]:
    """Budget in 1/255 -> outputs left of one picture."""
    return lambda k: int(sweep(network, picture, grid(eps=k / 255, **settings), path=path).left[0])


def main() -> int:
    torch.set_num_threads(int(os.environ.get("ZERO_OUT_THREADS", "2")))
    seed_everything(0)
    chosen = sys.argv[1:] or ["lite0", "vgg16"]
    if "vgg16" in chosen:
        vgg16_sweeps(FOLDER / "vgg16.csv")
    if "lite0" in chosen:
        lite0_sweeps(FOLDER / "lite0.csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
