"""What each part of zero_out buys: loss, optimiser and rounding taken apart, data/bench/ablation.csv.

    python -m experiments ch07_ablation [--photos N]    # about 20 minutes per photo on one core

Three losses, two optimisers, and 8-bit rounding inside or after the loop, in all twelve combinations, on photos of the
test split. All have the same budget and number of steps, and of each the best rounded image counts, whichever step it
is from. The first step of the sign is a third of the budget, as in PhotoGuard: on two photos of the train split a sixth
left more features, and on one of them so did the whole budget and twice the budget.
"""

import argparse
import itertools
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from experiments.common import TABLES, vgg16
from experiments.peers import ten_photos
from experiments.tables import Row, fill
from helpers.attack import POWER, hinge, schedule
from helpers.base import Base, count_nonzero
from helpers.images import to_grid
from helpers.optimizer import PixelAdam
from helpers.runtime import full_float32
from tools.results import zeroed_by

EPS, STEPS = 8 / 255, 100
FIRST = EPS / 3  # first step of the sign; it falls to nearly zero on a line
LOSSES = ("length", "hinge", "hinge with weights")
OPTIMISERS = ("sign", "Adam")
ROUNDING = ("after the loop", "in the loop")


def loss_of(kind: str, base: Base, z: Tensor, active_steps: Tensor | int) -> Tensor:
    """One of LOSSES on pre-activations (1, 512, 14, 14), a scalar."""
    if kind == "length":  # of the features: the loss of PhotoGuard
        return base.rest(z).norm()
    weight = (1 + active_steps) ** POWER if kind == "hinge with weights" else 1
    return (weight * hinge(z - base.flat_below(), 1.0)).sum()


@full_float32()
def search(base: Base, image: Tensor, cell: Row) -> list[int]:
    """Features left after each step in the image rounded to 8 bits, until none is left."""
    change, active_steps, counts = PixelAdam(image, EPS, momentum=0.8), 0, []
    rounded = cell["rounding"] == "in the loop"
    for step in range(STEPS + 1):
        x = (change.quantized() if rounded else change.x.clone()).requires_grad_()
        z = base.pre_activations(x)
        left = count_nonzero(base.rest(z.detach())) if rounded else base.verdict(to_grid(change.x))[0]
        counts.append(int(left))
        if counts[-1] == 0 or step == STEPS:
            break
        (grad,) = torch.autograd.grad(loss_of(cell["loss"], base, z, active_steps), x)
        active_steps = active_steps + (z.detach() > base.flat_below())
        if cell["optimiser"] == "Adam":
            change.step(grad, 16 / 255 * schedule(step))
        else:
            change.x.sub_(FIRST * (1 - step / STEPS) * grad.sign())
            change.project()
    return counts


def measure(image: Tensor, cell: Row) -> list[Row]:
    counts = search(vgg16(), image, cell)
    return [{"left": min(counts), "left at the end": counts[-1], "steps": len(counts) - 1}]


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments ch07_ablation", description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=int, default=10, choices=range(1, 11), help="how many of ten test photos")
    given, chosen = parser.parse_args(options), ten_photos()
    names = [*list(chosen)[::2], *list(chosen)[1::2]][: given.photos]  # few photos are of many classes, too
    kinds = itertools.product(names, LOSSES, OPTIMISERS, ROUNDING)
    cells = [dict(zip(("photo", "loss", "optimiser", "rounding"), kind, strict=True)) for kind in kinds]
    fill(TABLES / "ablation.csv", cells, lambda cell: measure(chosen[cell["photo"]], cell))
    table = pd.read_csv(TABLES / "ablation.csv")
    print(zeroed_by(table, ["loss", "optimiser", "rounding"]).to_string(index=False))
