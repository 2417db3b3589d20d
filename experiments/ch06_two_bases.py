"""Two bases, one file: what an image that was made for one network, or for both, leaves in each.

    python -m experiments ch06_two_bases    # goes on where it was stopped

data/defences/two_bases.csv: the bundled images and two test photos; an empty eps is the least visible change, for the
first four. About an hour on one core.
"""

from collections.abc import Sequence

from torch import Tensor

from experiments.bench import pictures
from experiments.common import OUT, attacked, lite0, vgg16
from experiments.tables import Row, fill
from helpers.base import Base
from helpers.ensemble import ensemble
from helpers.images import DATA
from helpers.visibility import difference

BUDGETS = {12: 150, 8: 150, None: 200}  # in 1/255 -> steps at most


def bases() -> dict[str, Base]:
    """What is attacked. For EfficientNet-Lite0, whose values are smaller, a margin of 1 becomes one of 0.1."""
    vgg, lite = vgg16(), lite0().base
    return {"both": ensemble(vgg, lite, scales=(1, 10)), "vgg16": vgg, "lite0": ensemble(lite, scales=(10,))}


def measure(given: dict[str, Base], image: Tensor, cell: Row) -> Row:
    """One attack, its PNG file judged by both networks."""
    eps, name = cell["eps"], cell["attacked"]
    folder = OUT if name == "vgg16" else OUT / name
    saved, steps, _ = attacked(given[name], cell["picture"], image, eps=eps, steps=BUDGETS[eps], folder=folder)
    row = {"steps": steps}
    for reader, base in {"vgg16": vgg16(), "lite0": lite0().base}.items():
        (left,), (margin,) = (values.tolist() for values in base.verdict(saved))
        row |= {f"left in {reader}": left, f"margin in {reader}": margin}
    return row | {"ssim": difference(image, saved).ssim}


def main(options: Sequence[str] = ()) -> None:
    images, given = pictures(), bases()
    names = [*list(images)[:8], *list(images)[8::21][:2]]
    cells = [{"attacked": who, "eps": eps, "picture": name} for eps in (12, 8) for who in given for name in names]
    cells += [{"attacked": "both", "eps": None, "picture": name} for name in names[:4]]
    fill(DATA / "defences" / "two_bases.csv", cells, lambda cell: [measure(given, images[cell["picture"]], cell)])
