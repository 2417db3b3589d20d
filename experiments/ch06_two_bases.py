"""Two bases, one file: what an image that was made for one network, or for both, leaves in each.

    python -m experiments ch06_two_bases    # goes on where it was stopped

data/defences/two_bases.csv: the bundled images and two test photos; an empty eps is the least visible change.
data/defences/third_base.csv: what EfficientNet-Lite1, which was not attacked, makes of the files for both
at 12/255, and of random noise of that size. About an hour and a half on one core.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.bench import pictures
from experiments.common import OUT, attacked, judged, lite0, speckle, vgg16
from experiments.packages import lite
from experiments.tables import Row, fill
from helpers.base import Base, Classifier, count_nonzero
from helpers.ensemble import ensemble
from helpers.images import DATA, to_grid
from helpers.visibility import difference

BUDGETS = {12: 150, 8: 150, None: 200}  # in 1/255 -> steps at most


def bases() -> dict[str, Base]:
    """What is attacked. For EfficientNet-Lite0, whose values are smaller, a margin of 1 becomes one of 0.1."""
    vgg, other = vgg16(), lite0().base
    return {"both": ensemble(vgg, other, scales=(1, 10)), "vgg16": vgg, "lite0": ensemble(other, scales=(10,))}


def measure(given: dict[str, Base], image: Tensor, cell: Row) -> Row:
    """One attack, its PNG file judged by both networks."""
    eps, name = cell["eps"], cell["attacked"]
    folder = OUT if name == "vgg16" else OUT / name
    saved, steps, _ = attacked(given[name], cell["picture"], image, eps=eps, steps=BUDGETS[eps], folder=folder)
    row = {"steps": steps}
    for reader, base in {"vgg16": vgg16(), "lite0": lite0().base}.items():
        row |= {f"{name} in {reader}": value for name, value in judged(base, saved).items()}
    return row | {"ssim": difference(image, saved).ssim}


@torch.no_grad()
def third(classifier: Classifier, both: Base, image: Tensor, cell: Row) -> Row:
    """Active features and best class of a network that was not attacked: the original, the file for both, and noise."""
    saved = attacked(both, cell["picture"], image, eps=12, steps=BUDGETS[12], folder=OUT / "both")[0]
    noisy = to_grid((image + speckle(image.shape, 12)).clamp(0, 1))
    kinds = {"before": image, "after": saved, "noise": noisy}
    row = {f"active {kind}": int(count_nonzero(classifier.base.features(x))) for kind, x in kinds.items()}
    return row | {f"class {kind}": classifier.predict(x, 1)[0][0][0] for kind, x in kinds.items()}


def main(options: Sequence[str] = ()) -> None:
    images, given = pictures(), bases()
    names = [*list(images)[:8], *list(images)[8::21][:2]]
    cells = [{"attacked": who, "eps": eps, "picture": name} for eps in (12, 8) for who in given for name in names]
    cells += [{"attacked": "both", "eps": None, "picture": name} for name in names]
    folder = DATA / "defences"
    fill(folder / "two_bases.csv", cells, lambda cell: [measure(given, images[cell["picture"]], cell)])
    other = lite(1).to(vgg16().mean.device)
    cells = [{"picture": name} for name in names]
    fill(folder / "third_base.csv", cells, lambda cell: [third(other, given["both"], images[cell["picture"]], cell)])
