"""Trained networks beside VGG-16: how often the attack makes all features exactly zero.

    python -m experiments trained [--networks NAME ...] [--every N] [--budgets 8 least]

data/bench/trained.csv: network, budget and bundled image. The weights come from packages, see experiments/packages.py;
those of torchvision need its own download, and their rows are missing where that cannot be had.
"""

import argparse
from collections.abc import Callable, Sequence

import pandas as pd
import torch
import torchvision

from experiments.common import TABLES, device, lite0, picture
from experiments.packages import dogs, lite, squeezenet
from experiments.tables import Row, fill
from helpers.attack import zero_out
from helpers.base import Base, Classifier, count_nonzero
from helpers.images import DATA
from helpers.networks import from_module, vgg16
from helpers.visibility import difference

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
BUDGETS = {"8": (8 / 255, 150), "least": (None, 200)}  # budget, steps at most


def from_torchvision(name: str, layer: str) -> Classifier:
    return from_module(torchvision.models.get_model(name, weights="DEFAULT").eval(), layer, **IMAGENET)


NETWORKS: dict[str, Callable[[], Classifier]] = {
    "EfficientNet-Lite0": lite0,
    "EfficientNet-Lite1": lambda: lite(1),
    "EfficientNet-Lite2": lambda: lite(2),
    "SqueezeNet 1.1": squeezenet,
    "MobileNetV2, 19 dogs": dogs,
    "VGG-16, torchvision": lambda: vgg16("torchvision"),
    "ResNet-18, torchvision": lambda: from_torchvision("resnet18", "layer4.1.relu"),
    "MobileNetV3, torchvision": lambda: from_torchvision("mobilenet_v3_small", "features.12.2"),
}


def measure(base: Base, cell: Row) -> Row:
    """One attack with a margin of a tenth of the spread of pre-activations (about 1 for VGG-16)."""
    image = picture(cell["picture"], base.size)
    with torch.no_grad():
        z = base.pre_activations(image)
    eps, steps = BUDGETS[cell["budget"]]
    result = zero_out(base, image, eps=eps, steps=steps, margin=0.1 * z.std().item()).completed()
    row = {"features": result.outputs, "active when clean": int(count_nonzero(base.rest(z))), "left": result.nonzero[0]}
    ssim = difference(image, result.images).ssim
    return row | {"margin": result.margin[0], "steps": result.steps[0], "ssim": ssim}


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per network and budget: images zeroed, steps and SSIM of the zeroed; networks without rows were not run."""
    table = []
    for (name, budget), group in rows.groupby(["network", "budget"], sort=False):
        zero = group[group.left == 0]
        most = BUDGETS[budget][1]
        table.append(
            {
                "network": name,
                "features": group.features.iloc[0],
                "budget": "8/255" if budget == "8" else "least visible",
                "exactly zero": f"{len(zero)} of {len(group)}",
                "SSIM, median": zero.ssim.median(),
                "steps, median": zero.steps.median() if budget == "8" else most,
            }
        )
    missing = [{"network": name, "exactly zero": "not run here"} for name in NETWORKS if name not in {*rows.network}]
    return pd.DataFrame(table + missing)


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments trained", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS, metavar="NAME")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--every", type=int, default=2, help="only every n-th of the eight images")
    given = parser.parse_args(options)
    pictures = [path.stem for path in sorted((DATA / "images").glob("*.png"))][:: given.every]
    for name in given.networks:
        try:
            base = NETWORKS[name]().base.to(device())
        except OSError as error:  # no Internet
            print(f"{name}: not run here ({error})")
            continue
        cells = [{"network": name, "budget": b, "picture": picture} for b in given.budgets for picture in pictures]
        fill(TABLES / "trained.csv", cells, lambda cell, base=base: [measure(base, cell)])
    print(summary(pd.read_csv(TABLES / "trained.csv", dtype={"budget": str})).to_string(index=False))
