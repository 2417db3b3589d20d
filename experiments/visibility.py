"""How visible is exact zero: the least visible change beside a budget of 8/255.

    python -m experiments visibility [--pictures N]

data/bench/visibility.csv: each image judged on its PNG file; visibility_filters.csv: which filters restore the answer;
data/blind/: the bundled images with the least visible change, and their certificates. The measures need
pip install ".[visibility]". About three minutes a picture on one core.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
from torch import Tensor

from experiments.bench import pictures
from experiments.common import TABLES, answers, attacked, six_classes, vgg16
from experiments.tables import Row, fill
from helpers.certificate import certify
from helpers.defence.filters import FILTERS
from helpers.images import DATA, save_png
from helpers.visibility import difference

METHODS = {"8/255": (8, 150), "least visible": (None, 200)}  # budget in 1/255, steps at most


def names_of(images: Mapping[str, Tensor]) -> list[str]:
    """The bundled images, then every fourth of the photos that the bench has."""
    return [*images][:8] + [*images][8::4]


def measure(image: Tensor, cell: Row) -> Row:
    """One attack, its PNG file judged by VGG-16 and by the measures of visibility."""
    eps, steps = METHODS[cell["method"]]
    saved, steps, _ = attacked(vgg16(), cell["picture"], image, eps=eps, steps=steps)
    (left,), (margin,) = (values.tolist() for values in vgg16().verdict(saved))
    return {"left": left, "margin": margin, "steps": steps, **asdict(difference(image, saved))}


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per method: pictures at exact zero, and the median and the worst of each measure."""
    groups = table.groupby("method", sort=False)
    zero = groups.left.agg(lambda left: f"{(left == 0).sum()} of {len(left)}")
    worst = groups[["ssim", "ssimulacra2"]].min().join(groups[["flip"]].max())
    middle = groups[["ssim", "ssimulacra2", "flip", "l2", "steps"]].median()
    return zero.to_frame("exactly zero").join(middle.add_suffix(", median")).join(worst.add_suffix(", worst"))


def restored(images: Mapping[str, Tensor], cell: Row) -> Row:
    """How many images get their clean answer back from a head for six classes after a filter."""
    (eps, steps), back = METHODS[cell["method"]], 0
    for picture, image in images.items():
        saved, *_ = attacked(vgg16(), picture, image, eps=eps, steps=steps)
        back += answers(six_classes(), FILTERS[cell["filter"]](saved)) == answers(six_classes(), image)
    return {"pictures": len(images), "clean answer": back}


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments visibility", description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=19, help="how many: the bundled ones, then test photos")
    given = parser.parse_args(options)
    images = pictures()
    images = {name: images[name] for name in names_of(images)[: given.pictures]}
    cells = [{"method": method, "picture": name} for name in images for method in METHODS]
    fill(TABLES / "visibility.csv", cells, lambda cell: [measure(images[cell["picture"]], cell)])
    print(summary(pd.read_csv(TABLES / "visibility.csv")).T.to_string())
    cells = [{"filter": name, "method": method} for name in FILTERS for method in METHODS]
    fill(TABLES / "visibility_filters.csv", cells, lambda cell: [restored(images, cell)])
    for path in sorted((DATA / "images").glob("*.png")):  # files to check, for readers
        saved, *_ = attacked(vgg16(), path.stem, images[path.stem], eps=None, steps=200)
        file = save_png(saved, DATA / "blind" / path.name)
        certify(vgg16(), file, path).save(file.with_suffix(".json"))
