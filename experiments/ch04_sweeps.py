"""The stored sweeps of notebook 04, data/sweeps/: `lite0`, `vgg16` or both. Ten minutes each on two cores.

All are slices of one table per network, so that a cell that two of them share is computed once.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from experiments.common import device, lite0, vgg16
from helpers.images import DATA, load_image
from helpers.sweeps import LOSSES, Settings, bisect, grid, sweep

NAMES = ("albatross", "cat", "coffee")
SHORT = 40  # steps
LITE0 = {"margin": 0.3, "steps": 60}  # its pre-activations are smaller than VGG-16's


def images(names: Sequence[str] = NAMES, size: int = 224) -> dict[str, Tensor]:
    return {name: load_image(DATA / "images" / f"{name}.png", size=size).to(device()) for name in names}


def levels(*eps: int) -> list[float]:
    return [k / 255 for k in eps]


def losses(**settings: float) -> list[Settings]:
    """The losses with equal weights, and the hinge with growing ones, for a short time."""
    alone = grid(loss=list(LOSSES), weight_growth=0.0, steps=SHORT, **settings)
    return grid(steps=SHORT, **settings) + alone


def lite0_sweeps() -> None:
    """EfficientNet-Lite0: everything, since a step is cheap."""
    network, path = {"efficientnet_lite0": lite0()}, DATA / "sweeps" / "lite0.csv"
    cells = losses(margin=LITE0["margin"])
    for axes in (
        {"weight_growth": [0.1, 10.0]},
        {"momentum": [0.0, 0.5]},
        {"margin": [0.0, 1.0]},
        {"random_start": True},
        {"steps": [15, 30], "step_size": levels(4, 16, 32)},
        {"step_size": levels(4, 32)},
    ):
        cells += grid(**{**LITE0, **axes})
    sweep(network, images(), grid(eps=levels(16, 8, 4, 2, 1), **LITE0), path=path)
    sweep(network, images(NAMES[:2]), cells, path=path)
    for size in (112, 160):
        sweep(network, images(NAMES[:2], size), grid(**LITE0), path=path)

    def left_at(name: str, eps: int) -> int:
        return int(sweep(network, images([name]), grid(eps=eps / 255, **LITE0), path=path).left[0])

    for name in (*NAMES, "ladybird"):  # the smallest budget; every attempt is a row
        bisect(partial(left_at, name))


def vgg16_sweeps() -> None:
    """VGG-16: the central ones, about 700 steps of half a second."""
    network, path = {"vgg16": vgg16()}, DATA / "sweeps" / "vgg16.csv"
    sweep(network, images(), grid(eps=levels(16, 8, 4), steps=60), path=path)
    sweep(network, images(NAMES[:1]), losses(), path=path)
    sweep({"vgg16 pool4": vgg16("pool4")}, images(NAMES[:1]), grid(steps=SHORT), path=path)
    sweep(network, images(NAMES[:1], 160), grid(steps=SHORT), path=path)


def main(options: Sequence[str] = ()) -> None:
    for name, run in {"lite0": lite0_sweeps, "vgg16": vgg16_sweeps}.items():
        if name in (options or [name]):
            run()
