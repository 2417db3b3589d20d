"""zero_out and six published recipes: data/bench/peers.csv and peers_steps.csv. Takes hours on two cores.

    python -m experiments peers [--recipes NAME ...] [--photos N] [--steps N]

The recipes of libraries need pip install ".[peers]". peers_bfloat16*.csv hold the rows of version 1, which searched in
bfloat16.

All have the same base, photos of the test split and budget, one image at a time. Each recipe keeps its published loss,
start and kind of step; step sizes that were published for another budget are scaled. PhotoGuard has two rows: from the
image in as many steps as the others, and as published, from noise in 1,000 steps. Features are counted on the images
that a recipe passes through the network, seconds count until none is left, and the verdict is on the reloaded PNG file.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from experiments.common import OUT, TABLES, judged, photos, photos_at, vgg16
from experiments.tables import Row, fill
from helpers.attack import zero_out
from helpers.base import Base, count_nonzero
from helpers.images import DATA, load_image, save_png
from tools.results import zeroed_by

EPS = 8 / 255
OWN_STEPS = {"PhotoGuard as published": 1000}  # the others take --steps


class Counted(nn.Module):
    """The features of a base (N, 25,088). It notes active features and time on each pass that needs a gradient."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base, self.left, self.seconds = base, [], []
        self.start = time.perf_counter()

    def forward(self, x: Tensor) -> Tensor:
        features = self.base.features(x.to(memory_format=torch.channels_last)).flatten(1)
        if x.requires_grad:
            self.note(int(count_nonzero(features.detach())))
        return features

    def note(self, left: int) -> None:
        self.left.append(left)
        self.seconds.append(time.perf_counter() - self.start)


Recipe = Callable[[Counted, Tensor, int], Tensor]


def signed(loss: Callable[[Tensor], Tensor], first: float, last: float, random_start: bool = False) -> Recipe:
    """Steps along the sign of the gradient. Their size falls linearly from first to last, in shares of the budget."""

    def run(counted: Counted, image: Tensor, steps: int) -> Tensor:
        x = image + (torch.rand_like(image) * 2 - 1) * EPS if random_start else image.clone()
        x = x.clamp(0, 1)
        for step in range(steps):
            x.requires_grad_()
            (grad,) = torch.autograd.grad(loss(counted(x)), x)
            size = EPS * (first + (last - first) * step / steps)
            x = (x.detach() - size * grad.sign()).clamp(image - EPS, image + EPS).clamp(0, 1)
        return x

    return run


def feature_disruption(features: Tensor) -> Tensor:
    """FDA's loss on one layer: features above their position's mean over channels go down, those below go up."""
    maps = features.view(1, 512, 7, 7)
    above = maps > maps.mean(1, keepdim=True)
    return torch.log((maps * above).norm() + 1e-6) - torch.log((maps * ~above).norm() + 1e-6)


def adadelta(counted: Counted, image: Tensor, steps: int) -> Tensor:
    """Wang et al. 2018: Adadelta on the norm of the features, from noise; a tanh keeps the budget."""
    low, high = (image - EPS).clamp(min=0), (image + EPS).clamp(max=1)
    inside = torch.atanh(torch.rand_like(image) * 1.9 - 0.95).requires_grad_()
    optimizer = torch.optim.Adadelta([inside], lr=1.0)
    for _ in range(steps):
        x = low + (high - low) * (torch.tanh(inside) + 1) / 2
        optimizer.zero_grad()
        counted(x).norm().backward()
        optimizer.step()
    return (low + (high - low) * (torch.tanh(inside.detach()) + 1) / 2).detach()


def art(counted: Counted, image: Tensor, steps: int) -> Tensor:
    """ART's FeatureAdversaries. Its target must be an image, so it gets one that was zeroed before."""
    from art.attacks.evasion import FeatureAdversariesPyTorch
    from art.estimators.classification import PyTorchClassifier

    guide = load_image(sorted((DATA / "defences" / "zero").iterdir())[0])
    kind = "gpu" if image.is_cuda else "cpu"
    estimator = PyTorchClassifier(
        nn.Sequential(counted, nn.Identity()), nn.CrossEntropyLoss(), tuple(image.shape[1:]),
        math.prod(counted.base.feature_shape), clip_values=(0, 1), device_type=kind,
    )  # fmt: skip
    attack = FeatureAdversariesPyTorch(
        estimator, delta=EPS, layer=0, max_iter=steps, step_size=1 / 255, batch_size=1, verbose=False
    )
    counted.start = time.perf_counter()
    return torch.from_numpy(attack.generate(image.cpu().numpy(), guide.numpy())).to(image.device)


def pgd(counted: Counted, image: Tensor, steps: int) -> Tensor:
    """torchattacks' PGD, which increases a cross-entropy: the first of two logits is the norm of the features."""
    import torchattacks

    with torch.no_grad():
        scale = counted(image).norm().item()  # so that the cross-entropy does not saturate

    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.counted = counted

        def forward(self, x: Tensor) -> Tensor:
            norm = self.counted(x).norm(dim=1) / scale
            return torch.stack([norm, torch.zeros_like(norm)], 1)

    attack = torchattacks.PGD(Norm(), eps=EPS, alpha=2 / 255, steps=steps, random_start=True)
    counted.start = time.perf_counter()
    return attack(image, torch.zeros(1, dtype=torch.long))


def ours(counted: Counted, image: Tensor, steps: int) -> Tensor:
    """zero_out with its defaults. It counts on quantised images and stops when an image is done."""

    def note(_: int, __: Tensor, left: Tensor) -> None:
        counted.note(int(left[0]))

    return zero_out(counted.base, image, eps=EPS, steps=steps, on_step=note).completed().images


RECIPES: dict[str, Recipe] = {
    "zero_out": ours,
    "PhotoGuard": signed(lambda f: f.norm(), 1 / 3, 1 / 300),
    "PhotoGuard as published": signed(lambda f: f.norm(), 1 / 3, 1 / 300, random_start=True),
    "Dispersion Reduction": signed(lambda f: f.std(), 1 / 16, 1 / 16),
    "FDA": signed(feature_disruption, 1 / 8, 1 / 8, random_start=True),
    "Wang et al. 2018": adadelta,
    "ART FeatureAdversaries": art,
    "torchattacks PGD": pgd,
}


def apply(recipe: Recipe, counted: Counted, image: Tensor, steps: int) -> tuple[Tensor, float]:
    """The image (1, 3, H, W) of the PNG file that a recipe makes, and the seconds that the recipe takes."""
    torch.manual_seed(0)
    x = recipe(counted, image, steps)
    seconds = time.perf_counter() - counted.start
    counted.base.eval()  # a library may have left it in training mode
    return load_image(save_png(x, OUT / "peer.png"), image.shape[-1]).to(image.device), seconds


def measure(base: Base, image: Tensor, cell: Row, steps: int) -> tuple[Row, list[Row]]:
    """One recipe on one photo: its row, and the features left after every fifth step and the last one."""
    counted = Counted(base)
    saved, seconds = apply(RECIPES[cell["recipe"]], counted, image, steps)
    first = counted.left.index(0) if 0 in counted.left else None
    row = {"steps": len(counted.left) - (cell["recipe"] == "zero_out")} | judged(base, saved)
    row |= {
        "linf": int(((saved - image).abs() * 255).round().max()), "first zero at step": first,
        "seconds to first zero": None if first is None else counted.seconds[first], "seconds": seconds,
    }  # fmt: skip
    last = len(counted.left) - 1
    places = [i for i in range(last + 1) if i % 5 == 0 or i == last]
    return row, [{"step": i, "left": counted.left[i], "seconds": round(counted.seconds[i], 2)} for i in places]


def ten_photos() -> dict[str, Tensor]:
    """Ten photos of the test split, evenly spaced; each is (1, 3, 224, 224)."""
    return photos_at(round(i * len(photos("test")[0]) / 10) for i in range(10))


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments peers", description=__doc__.split("\n")[0])
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES, metavar="NAME")
    parser.add_argument("--photos", type=int, default=10, choices=range(1, 11), help="of ten photos of the test split")
    parser.add_argument("--steps", type=int, default=300, help="gradient steps of each recipe")
    given = parser.parse_args(options)
    chosen = ten_photos()
    names = list(chosen)[:: 10 // given.photos][: given.photos]
    cells = [{"recipe": recipe, "photo": name} for name in names for recipe in given.recipes]

    def make(cell: Row) -> list[Row]:
        steps = OWN_STEPS.get(cell["recipe"], given.steps)
        row, trace = measure(vgg16(), chosen[cell["photo"]], cell, steps)
        fill(TABLES / "peers_steps.csv", [cell], lambda _: trace)
        return [row]

    fill(TABLES / "peers.csv", cells, make)
    print(zeroed_by(pd.read_csv(TABLES / "peers.csv"), ["recipe"]).to_string(index=False))
