"""The stored sweeps of notebook 04, data/sweeps/: `lite0`, `vgg16` and `tradeoff`, or some of them.

The first two take ten minutes each on two cores; all are slices of one table per network, so that a cell that two of
them share is computed once. The third takes ten minutes on one core, and needs pip install ".[visibility]".
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from torch import Tensor

from experiments.common import attacked, judged, lite0, picture, vgg16
from experiments.tables import Row, fill
from helpers.images import DATA, save_png
from helpers.sweeps import LOSSES, Settings, bisect, grid, sweep
from helpers.visibility import difference

NAMES = ("albatross", "cat", "coffee")
SHORT = 40  # steps
BUDGETS, STEPS = (2, 4, 6, 8, 12, 16), (50, 100, 200)  # of tradeoff.csv: in 1/255; without a budget
TRADED, SHOWN = ("cat",), [("cat", 4, 60), ("cat", 6, 60)]  # its images; what is kept as files
LITE0 = {"margin": 0.3, "steps": 60}  # its pre-activations are smaller than VGG-16's


def images(names: Sequence[str] = NAMES, size: int = 224) -> dict[str, Tensor]:
    return {name: picture(name, size) for name in names}


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


def measure(cell: Row) -> list[Row]:
    """One attack on VGG-16, its PNG file judged by the base and by the measures of visibility."""
    name, eps, steps = cell["picture"], cell["eps"], cell["at most"]
    (image,) = images([name]).values()
    saved, taken, _ = attacked(vgg16(), name, image, eps=eps, steps=steps)
    if (name, eps, steps) in SHOWN:
        save_png(saved, DATA / "sweeps" / f"{name}-{eps}-{steps}.png")
    return [judged(vgg16(), saved) | {"steps": taken} | asdict(difference(image, saved))]


def tradeoff() -> None:
    """Features left and visibility on VGG-16, by budget and, without one, by steps."""
    runs = [(eps, 60) for eps in BUDGETS] + [(None, steps) for steps in STEPS]
    cells = [{"eps": eps, "at most": steps, "picture": name} for name in TRADED for eps, steps in runs]
    fill(DATA / "sweeps" / "tradeoff.csv", cells, measure)


def main(options: Sequence[str] = ()) -> None:
    for name, run in {"lite0": lite0_sweeps, "vgg16": vgg16_sweeps, "tradeoff": tradeoff}.items():
        if name in (options or [name]):
            run()
