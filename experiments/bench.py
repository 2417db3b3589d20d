"""Strength and speed of the attack: the README's table, data/bench/strength.csv. Hours on two cores.

    python -m experiments bench [--eps 16 8 4] [--every N] [--speed]

The settings of the attack were chosen on photos of the train split. These are the bundled images and photos of the test
split. Each attack is judged on its PNG file, which stays in out/bench/.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from experiments.common import OUT, TABLES, attacked, device, judged, photos, six_classes, vgg16
from experiments.tables import Row, fill
from helpers.attack import hinge, zero_out
from helpers.base import Base, Classifier
from helpers.images import DATA, load_image
from helpers.networks import embed
from helpers.runtime import environment

# Budget in 1/255 -> steps at most.
STEPS = {16: [150], 12: [150], 8: [150, 400], 6: [150], 4: [150], 2: [150]}


def pictures() -> dict[str, Tensor]:
    """The bundled images, then every second photo of the test split, as in notebook 05; each is (1, 3, 224, 224)."""
    images, labels = photos("test")
    single = {path.stem: load_image(path).to(device()) for path in sorted((DATA / "images").glob("*.png"))}
    return single | {f"{labels[i]}-{i}": images[i : i + 1] for i in range(1, len(images), 2)}


def measure(base: Base, classifier: Classifier, image: Tensor, cell: Row, folder: Path = OUT) -> Row:
    """One attack, judged on its PNG file."""
    saved, steps, seconds = attacked(
        base, cell["picture"], image, eps=cell["eps"], steps=cell["at most"], folder=folder
    )
    ratio = embed(base, saved).norm() / embed(base, image).norm()
    distance = (classifier.probabilities(saved)[0] - classifier.blank()).abs().sum() / 2
    row = {"steps": steps, "norm ratio": ratio.item(), "total variation": distance.item(), "seconds": seconds}
    return judged(base, saved) | row


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per budget: how many images are zeroed, and what is left in the others."""
    rows = []
    for (eps, most), group in sorted(table.groupby(["eps", "at most"]), key=lambda item: (-item[0][0], item[0][1])):
        zero, rest = group[group.left == 0], group[group.left > 0].left
        left = "-" if rest.empty else f"{rest.min():,}" if len(rest) == 1 else f"{rest.min():,} to {rest.max():,}"
        rows.append(
            {
                "budget": f"{eps}/255",
                "steps, at most": most,
                "exactly zero": f"{len(zero)} of {len(group)}",
                "within 150 steps": f"{(zero.steps <= 150).sum()} of {len(group)}",
                "steps, median of the zeroed": f"{zero.steps.median():g}" if len(zero) else "-",
                "outputs left in the others": left,
                "longest features left": f"{group['norm ratio'].max():.2g}",
                "largest change of answer left": f"{group['total variation'].max():.1g}",
            }
        )
    return pd.DataFrame(rows)


def bare_step(base: Base, image: Tensor) -> None:
    """A forward pass and the gradient of the image, without the rest of the attack."""
    x = image.to(memory_format=torch.channels_last).requires_grad_()
    torch.autograd.grad(hinge(base.pre_activations(x), 1.0).sum(), x)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def overhead(base: Base, image: Tensor, rounds: int = 7, steps: int = 10) -> float:
    """The median time of the attack's steps relative to bare steps; the two are taken in turn."""
    ratios = []
    for _ in range(rounds):
        attack = seconds(lambda: zero_out(base, image, eps=1 / 255, steps=steps))
        extra = seconds(lambda: zero_out(base, image, eps=1 / 255, steps=0))  # two forward passes outside the steps
        bare = seconds(lambda: [bare_step(base, image) for _ in range(steps)])
        ratios.append((attack - extra) / bare)
    return statistics.median(ratios)


def batching(base: Base, images: Tensor, rounds: int = 3) -> float:
    """The median time of an attack on a batch relative to attacks one by one; the two are taken in turn."""
    settings = {"eps": 1 / 255, "steps": 5}  # too little to zero an image
    ratios = []
    for _ in range(rounds):
        together = seconds(lambda: zero_out(base, images, **settings))
        alone = seconds(lambda: [zero_out(base, image, **settings) for image in images.split(1)])
        ratios.append(together / alone)
    return statistics.median(ratios)


def memory(base: Base, images: Tensor) -> float:
    """The peak of resident memory after an attack relative to that after bare steps (on the CPU, not on Windows)."""
    import resource

    for _ in range(2):
        bare_step(base, images)
    bare = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    zero_out(base, images, eps=1 / 255, steps=3)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / bare


def main(options: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments bench", description=__doc__.split("\n")[0])
    parser.add_argument("--eps", type=int, nargs="+", default=[8], choices=STEPS, help="budgets in 1/255")
    parser.add_argument("--every", type=int, default=1, help="only every n-th image")
    parser.add_argument("--first", type=int, help="only so many of them")
    parser.add_argument("--speed", action="store_true", help="ratios of time and memory in place of the table")
    given = parser.parse_args(options)
    print(environment())
    if given.speed:
        images = photos("train")[0][:16]
        print(f"one step relative to a bare forward and backward pass: {overhead(vgg16(), images[:1]):.2f}")
        print(f"peak memory of an attack on 16 images relative to bare steps: {memory(vgg16(), images):.2f}")
        print(f"a batch of 16 relative to 16 attacks one by one: {batching(vgg16(), images):.2f}")
        return
    images = pictures()
    names = list(images)[:: given.every][: given.first]
    cells = [
        {"eps": eps, "at most": steps, "picture": name} for eps in given.eps for steps in STEPS[eps] for name in names
    ]
    fill(
        TABLES / "strength.csv",
        cells,
        lambda cell: [measure(vgg16(), six_classes(), images[cell["picture"]], cell)],
    )
    print(summary(pd.read_csv(TABLES / "strength.csv")).to_string(index=False))
