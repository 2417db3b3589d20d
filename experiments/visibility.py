"""How visible is exact zero: the least visible change beside a budget of 8/255.

    python -m experiments visibility [--pictures N]

data/bench/visibility.csv: each image, judged on its PNG file. visibility_recipes.csv: two images under other recipes,
at most 200 gradient steps each. visibility_filters.csv: which filters restore the clean answer. visibility_steps.csv:
the images that fare worst, with more steps. data/blind/: the bundled images with the least visible change, and their
certificates. The measures need pip install ".[visibility]", the recipes ".[peers]". Takes about three minutes per image
on one core.
"""

import argparse
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor

from experiments.bench import pictures
from experiments.common import TABLES, answers, attacked, judged, six_classes, vgg16
from experiments.peers import RECIPES, Counted, Recipe, apply
from experiments.tables import Row, fill
from helpers.attack import zero_out
from helpers.certificate import certify
from helpers.defence.filters import FILTERS
from helpers.images import DATA, save_png
from helpers.visibility import difference
from tools.results import visible

METHODS = {"8/255": (8, 150), "least visible": (None, 200)}  # budget in 1/255, steps at most
# For images that are not zeroed in 200 steps, or whose SSIMULACRA2 stays below 75.
LONGER = {"least visible, 400 steps": (None, 400)}


def ours(**settings: object) -> Recipe:
    """zero_out with these settings."""
    return lambda counted, image, steps: zero_out(counted.base, image, steps=steps, **settings).completed().images


OURS = {
    "zero_out, 8/255": ours(),
    "zero_out, l2 of 8": ours(norm="l2", eps=8.0),
    "zero_out, least visible": ours(eps=None),
}


def names_of(images: Mapping[str, Tensor]) -> list[str]:
    """The names of the bundled images, then of every fourth photo of the bench, then of the others."""
    return list(dict.fromkeys([*images][:8] + [*images][8::4] + [*images]))


def blinded(method: str, name: str, image: Tensor) -> tuple[Tensor, int]:
    """The image of a method's PNG file (1, 3, H, W), and the steps taken. name: of the image."""
    eps, steps = (METHODS | LONGER)[method]
    return attacked(vgg16(), name, image, eps=eps, steps=steps)[:2]


def measure(image: Tensor, cell: Row) -> Row:
    """One attack; VGG-16 and the measures of visibility judge its PNG file."""
    saved, steps = blinded(cell["method"], cell["picture"], image)
    return judged(vgg16(), saved) | {"steps": steps} | asdict(difference(image, saved))


def restored(images: Mapping[str, Tensor], clean: Sequence[str], cell: Row) -> Row:
    """How many images get back their clean answer from a head for six classes after a filter."""
    saved = torch.cat([blinded(cell["method"], name, image)[0] for name, image in images.items()])
    back = map(operator.eq, answers(six_classes(), FILTERS[cell["filter"]](saved)), clean)
    return {"pictures": len(images), "clean answer": sum(back)}


def beside(image: Tensor, cell: Row) -> Row:
    """One recipe with at most 200 gradient steps, judged like measure."""
    saved, _ = apply((OURS | RECIPES)[cell["recipe"]], Counted(vgg16()), image, 200)
    return judged(vgg16(), saved) | asdict(difference(image, saved))


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments visibility", description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=50, help="how many: the bundled ones, then test photos")
    given = parser.parse_args(options)
    images = pictures()
    images = {name: images[name] for name in names_of(images)[: given.pictures]}
    cells = [{"method": method, "picture": name} for name in images for method in METHODS]
    fill(TABLES / "visibility.csv", cells, lambda cell: [measure(images[cell["picture"]], cell)])
    print("\n".join(visible()))
    table = pd.read_csv(TABLES / "visibility.csv")
    least = table[(table.method == "least visible") & table.picture.isin(images)]
    worst = least[(least.left > 0) | (least.ssimulacra2 < 75)].picture
    cells = [{"method": method, "picture": name} for name in worst for method in LONGER]
    fill(TABLES / "visibility_steps.csv", cells, lambda cell: [measure(images[cell["picture"]], cell)])
    cells = [
        {"recipe": recipe, "picture": name}
        for name in ("cat", "albatross")
        for recipe in (*OURS, "PhotoGuard", "Dispersion Reduction", "ART FeatureAdversaries")
    ]
    fill(TABLES / "visibility_recipes.csv", cells, lambda cell: [beside(images[cell["picture"]], cell)])
    clean = answers(six_classes(), torch.cat([*images.values()]))
    cells = [{"filter": name, "method": method} for name in FILTERS for method in METHODS]
    fill(TABLES / "visibility_filters.csv", cells, lambda cell: [restored(images, clean, cell)])
    for path in sorted((DATA / "images").glob("*.png")):  # files to check, for readers
        if path.stem in images:
            saved, _ = blinded("least visible", path.stem, images[path.stem])
            file = save_png(saved, DATA / "blind" / path.name)
            certify(vgg16(), file, path).save(file.with_suffix(".json"))
