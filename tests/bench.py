"""Measure strength and speed of the attack: `make bench`. Slow; nothing here is a test.

    python tests/bench.py [--pictures N] [--first N] [--every N] [--eps 16 8 4] [--more]

Settings were chosen on photos of the train split; everything here runs on the single
pictures and on photos of the test split. Timings are ratios taken in one run.
The rows go to out/bench/strength.csv; with --more into the table in data/bench/, which keeps those it has.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from helpers.attack import hinge, zero_out
from helpers.base import Base
from helpers.certificate import nonzero_and_margin
from helpers.images import DATA, load_image, load_photos, save_png, write_file
from helpers.networks import Classifier, embed, train_head, vgg16_base
from helpers.runtime import environment, native_bfloat16

STEPS = {16: 150, 12: 150, 8: 400, 6: 400, 4: 400, 3: 600, 2: 600, 1: 600}  # at most, per budget in 1/255
OUT = Path(__file__).resolve().parents[1] / "out" / "bench"
TABLE = DATA / "bench" / "strength.csv"


def pictures(count: int) -> tuple[list[str], Tensor]:
    """The single pictures, then `count` photos of the test split, evenly taken: names and (N, 3, 224, 224)."""
    names = sorted((DATA / "images").glob("*.png"))
    photos, labels = load_photos("test")
    chosen = [round(i * len(photos) / count) for i in range(min(count, len(photos)))]
    singles = [load_image(path) for path in names]
    titles = [path.stem for path in names] + [f"{labels[i]}-{i}" for i in chosen]
    return titles, torch.cat([*singles, photos[chosen]])


def measure(base: Base, classifier: Classifier, name: str, image: Tensor, eps: int) -> dict[str, object]:
    """One attack, judged on the PNG file that it leaves behind."""
    start = time.perf_counter()
    result = zero_out(base, image, eps=eps / 255, steps=STEPS[eps])
    seconds = time.perf_counter() - start
    saved = load_image(save_png(result.images, OUT / f"{name}-{eps}.png"))
    (left,), (margin,) = (tensor.tolist() for tensor in nonzero_and_margin(base, saved))
    ratio = embed(base, saved).norm() / embed(base, image).norm()
    distance = (classifier.probabilities(saved)[0] - classifier.blank()).abs().sum() / 2
    return {
        "eps": eps, "picture": name, "left": left, "margin": margin, "steps": result.steps[0],
        "norm ratio": ratio.item(), "total variation": distance.item(), "seconds": seconds,
    }  # fmt: skip


def strength(base: Base, classifier: Classifier, given: argparse.Namespace) -> pd.DataFrame:
    """One row per picture and budget, written as soon as it is known."""
    titles, images = pictures(given.pictures)
    path = TABLE if given.more else OUT / TABLE.name  # the table that the README shows takes days: only added to
    rows = pd.read_csv(TABLE).to_dict("records") if given.more and TABLE.exists() else []
    known = {(row["eps"], row["picture"]) for row in rows}
    for eps in given.eps:
        for name, image in list(zip(titles, images.split(1), strict=True))[: given.first : given.every]:
            if (eps, name) in known:
                continue
            rows.append(measure(base, classifier, name, image, eps))
            write_file(path, pd.DataFrame(rows).to_csv(index=False).encode())
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Per budget: how many were zeroed, and how blind the others are; the README shows it."""
    rows = []
    for eps, group in table.sort_values("eps", ascending=False).groupby("eps", sort=False):
        zero, rest = group[group.left == 0], group[group.left > 0].left
        left = "-" if rest.empty else f"{rest.min():,}" if len(rest) == 1 else f"{rest.min():,} to {rest.max():,}"
        rows.append(
            {
                "budget": f"{eps}/255",
                "steps, at most": STEPS[eps],
                "exactly zero": f"{len(zero)} of {len(group)}",
                "steps where zero, median": f"{zero.steps.median():g}" if len(zero) else "-",
                "outputs left in the others": left,
                "longest features left": f"{group['norm ratio'].max():.2g}",
                "largest change of answer left": f"{group['total variation'].max():.1g}",
            }
        )
    return pd.DataFrame(rows)


def bare_step(base: Base, image: Tensor) -> None:
    """Forward and input gradient of the same network, and nothing else."""
    x = image.to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=native_bfloat16(x.device)):
        z = base.pre_activations(x)
    torch.autograd.grad(hinge(z.float(), 1.0).sum(), x)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def overhead(base: Base, rounds: int = 7, steps: int = 10) -> float:
    """Median ratio of the attack's steps to bare ones, the two taken in turn."""
    image = load_image(DATA / "images" / "astronaut.png")
    ratios = []
    for _ in range(rounds):
        attack = seconds(lambda: zero_out(base, image, eps=1 / 255, steps=steps))
        # Less what is no step: the last look and the verdict, two forward passes.
        extra = seconds(lambda: zero_out(base, image, eps=1 / 255, steps=0))
        bare = seconds(lambda: [bare_step(base, image) for _ in range(steps)])
        ratios.append((attack - extra) / bare)
    return statistics.median(ratios)


def batching(base: Base, rounds: int = 3, count: int = 16, steps: int = 5) -> float:
    """Median ratio of one attack on a batch to attacks one by one, the two taken in turn."""
    images = load_photos("train")[0][:count]
    settings = {"eps": 1 / 255, "steps": steps}  # too few of either for a picture to finish
    ratios = []
    for _ in range(rounds):
        together = seconds(lambda: zero_out(base, images, **settings))
        alone = seconds(lambda: [zero_out(base, image, **settings) for image in images.split(1)])
        ratios.append(together / alone)
    return statistics.median(ratios)


def memory(base: Base, count: int = 16) -> float:
    """The peak of resident memory of the process after an attack, in units of that after bare steps before it."""
    import resource  # not on Windows, where the tests read this file too

    images = load_photos("train")[0][:count]
    for _ in range(2):
        bare_step(base, images)
    bare = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    zero_out(base, images, eps=1 / 255, steps=3)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / bare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=52, help="photos of the test split, beside the single pictures")
    parser.add_argument("--eps", type=int, nargs="+", default=[16, 8, 4], choices=STEPS, help="budgets in 1/255")
    parser.add_argument("--first", type=int, help="only that many of all these pictures")
    parser.add_argument("--every", type=int, default=1, help="only every n-th of them, so that all kinds are there")
    parser.add_argument("--more", action="store_true", help="add to the table in data/bench; same attack, please")
    given = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    print(environment())
    base = vgg16_base()
    print(f"one step against a bare forward and backward: {overhead(base):.2f} x (median of 7 pairs of 10 steps)")
    print(f"peak memory of an attack on 16 pictures against bare steps: {memory(base):.2f} x")
    print(f"a batch of 16 against 16 attacks one by one: {batching(base):.2f} x (median of 3 pairs of 5 steps)")
    classifier = train_head(base, *load_photos("train"))
    print(summary(strength(base, classifier, given)).to_string(index=False))


if __name__ == "__main__":
    main()
