"""Strength of the attack: the README's table, data/bench/strength.csv. Hours on two cores.

    python -m experiments bench [--eps 16 8 4] [--every N]

The settings of the attack were chosen on photos of the train split. These are the bundled images and photos of the test
split. Each attack is judged on its PNG file, which stays in out/bench/.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from torch import Tensor

from experiments.common import OUT, TABLES, attacked, judged, photos, photos_at, picture, six_classes, vgg16
from experiments.tables import Row, fill
from helpers.base import Base, Classifier
from helpers.images import DATA
from helpers.networks import embed
from helpers.runtime import environment
from tools.results import zeroed_by

# Budget in 1/255 -> steps at most.
STEPS = {16: [150], 12: [150], 8: [150, 400], 6: [150], 4: [150], 2: [150]}


def pictures() -> dict[str, Tensor]:
    """The bundled images, then every second photo of the test split, as in notebook 05; each is (1, 3, 224, 224)."""
    bundled = sorted(path.stem for path in (DATA / "images").glob("*.png"))
    return {name: picture(name) for name in bundled} | photos_at(range(1, len(photos("test")[0]), 2))


def measure(base: Base, classifier: Classifier, image: Tensor, cell: Row, folder: Path = OUT) -> Row:
    """One attack, judged on its PNG file."""
    saved, steps, seconds = attacked(
        base, cell["picture"], image, eps=cell["eps"], steps=cell["at most"], folder=folder
    )
    ratio = embed(base, saved).norm() / embed(base, image).norm()
    distance = (classifier.probabilities(saved)[0] - classifier.blank()).abs().sum() / 2
    row = {"steps": steps, "norm ratio": ratio.item(), "total variation": distance.item(), "seconds": seconds}
    return judged(base, saved) | row


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments bench", description=__doc__.split("\n")[0])
    parser.add_argument("--eps", type=int, nargs="+", default=[8], choices=STEPS, help="budgets in 1/255")
    parser.add_argument("--every", type=int, default=1, help="only every n-th image")
    given = parser.parse_args(options)
    print(environment())
    images = pictures()
    names = list(images)[:: given.every]
    cells = [
        {"eps": eps, "at most": steps, "picture": name} for eps in given.eps for steps in STEPS[eps] for name in names
    ]
    fill(
        TABLES / "strength.csv",
        cells,
        lambda cell: [measure(vgg16(), six_classes(), images[cell["picture"]], cell)],
    )
    print(zeroed_by(pd.read_csv(TABLES / "strength.csv"), ["eps", "at most"]).to_string(index=False))
