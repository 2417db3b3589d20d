"""Ours beside every recipe that comes near: `make peers`. Slow; nothing here is a test.

    python tests/peers.py [--photos N] [--steps N]      # goes on where it was stopped; writes data/bench/

Same base, same photos of the test split, same budget, same precision, one picture at a time. Each recipe keeps
its published loss, start and kind of step, with step sizes scaled to the budget where they were given for
another one; ours runs with its defaults. Two come as the libraries that hold them: pip install -e ".[bench]".
Outputs are counted on what a recipe itself passes through the network, seconds are those until that count is
first zero, and the verdict is on the reloaded PNG file.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench import pictures
from torch import Tensor, nn

from helpers.attack import zero_out
from helpers.base import Base
from helpers.certificate import count_nonzero, nonzero_and_margin
from helpers.images import DATA, load_image, save_png, write_file
from helpers.networks import vgg16_base
from helpers.runtime import native_bfloat16

EPS = 8 / 255
FOLDER = DATA / "bench"


class Watched(nn.Module):
    """The features of a base; notes outputs left and the time on each pass that asks for a gradient."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base, self.left, self.seconds = base, [], []
        self.start = time.perf_counter()

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=native_bfloat16(x.device)):
            z = self.base.pre_activations(x)
        features = self.base.rest(z.float()).flatten(1)
        if x.requires_grad:
            self.left.append(int(count_nonzero(features.detach())))
            self.seconds.append(time.perf_counter() - self.start)
        return features


def signed(
    loss: Callable[[Tensor], Tensor], first: float, last: float, random_start: bool = False
) -> Callable[[Watched, Tensor, int], Tensor]:
    """Steps along the sign of the gradient; their size goes linearly from first to last, in shares of the budget."""

    def run(watched: Watched, image: Tensor, steps: int) -> Tensor:
        x = image + (torch.rand_like(image) * 2 - 1) * EPS if random_start else image.clone()
        x = x.clamp(0, 1)
        for step in range(steps):
            x.requires_grad_()
            (slope,) = torch.autograd.grad(loss(watched(x)), x)
            size = EPS * (first + (last - first) * step / steps)
            x = (x.detach() - size * slope.sign()).clamp(image - EPS, image + EPS).clamp(0, 1)
        return x

    return run


def feature_disruption(features: Tensor) -> Tensor:
    """FDA's loss on one layer: what lies above a position's mean over channels goes down, what lies below goes up."""
    maps = features.view(1, 512, 7, 7)
    above = maps > maps.mean(1, keepdim=True)
    return torch.log((maps * above).norm() + 1e-6) - torch.log((maps * ~above).norm() + 1e-6)


def adadelta(watched: Watched, image: Tensor, steps: int) -> Tensor:
    """Wang et al. 2018: from noise, Adadelta on the length of the features; a tanh keeps the box, here the budget."""
    low, high = (image - EPS).clamp(min=0), (image + EPS).clamp(max=1)
    start = torch.rand_like(image) * 1.9 - 0.95
    inside = torch.atanh(start).requires_grad_()
    optimizer = torch.optim.Adadelta([inside], lr=1.0)
    for _ in range(steps):
        x = low + (high - low) * (torch.tanh(inside) + 1) / 2
        optimizer.zero_grad()
        watched(x).norm().backward()
        optimizer.step()
    return (low + (high - low) * (torch.tanh(inside.detach()) + 1) / 2).detach()


def art(watched: Watched, image: Tensor, steps: int) -> Tensor:
    """ART's FeatureAdversaries. Its target must be a picture: one that was blinded before serves as zero."""
    from art.attacks.evasion import FeatureAdversariesPyTorch
    from art.estimators.classification import PyTorchClassifier

    guide = load_image(sorted((DATA / "defences" / "zero").iterdir())[0])
    model = nn.Sequential(watched, nn.Identity())
    shape, outputs = tuple(image.shape[1:]), math.prod(watched.base.feature_shape)
    estimator = PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, outputs, clip_values=(0, 1), device_type="cpu")
    attack = FeatureAdversariesPyTorch(
        estimator, delta=EPS, layer=0, max_iter=steps, step_size=1 / 255, batch_size=1, verbose=False
    )
    watched.start = time.perf_counter()
    return torch.from_numpy(attack.generate(image.numpy(), guide.numpy().astype(np.float32)))


def pgd(watched: Watched, image: Tensor, steps: int) -> Tensor:
    """torchattacks' PGD, which climbs a cross-entropy: two logits, of which the first is the length of the features."""
    import torchattacks

    class Length(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.watched, self.scale = watched, scale

        def forward(self, x: Tensor) -> Tensor:
            length = self.watched(x).norm(dim=1) / self.scale
            return torch.stack([length, torch.zeros_like(length)], 1)

    with torch.no_grad():
        scale = watched(image).norm().item()  # so that the cross-entropy does not saturate
    attack = torchattacks.PGD(Length(scale), eps=EPS, alpha=2 / 255, steps=steps, random_start=True)
    watched.start = time.perf_counter()
    return attack(image, torch.zeros(1, dtype=torch.long))


def ours(watched: Watched, image: Tensor, steps: int) -> Tensor:
    """zero_out with its defaults: it counts on rounded pictures and stops when zero is verified."""

    def note(_: int, __: Tensor, left: Tensor) -> None:
        watched.left.append(int(left[0]))
        watched.seconds.append(time.perf_counter() - watched.start)

    return zero_out(watched.base, image, eps=EPS, steps=min(steps, 150), on_step=note).images


RECIPES: dict[str, Callable[[Watched, Tensor, int], Tensor]] = {
    "zero_out": ours,
    "PhotoGuard": signed(lambda f: f.norm(), 1 / 3, 1 / 300),
    "Dispersion Reduction": signed(lambda f: f.std(), 1 / 16, 1 / 16),
    "FDA": signed(feature_disruption, 1 / 8, 1 / 8, random_start=True),
    "Wang et al. 2018": adadelta,
    "ART FeatureAdversaries": art,
    "torchattacks PGD": pgd,
}


def measure(base: Base, recipe: str, name: str, image: Tensor, steps: int) -> tuple[dict, pd.DataFrame]:
    """One recipe on one photo: its row, and the outputs left after each step."""
    torch.manual_seed(0)
    watched = Watched(base)
    x = RECIPES[recipe](watched, image, steps)
    seconds = time.perf_counter() - watched.start
    base.eval()  # a library may have left it in training mode
    with tempfile.TemporaryDirectory() as folder:
        saved = load_image(save_png(x, Path(folder) / "x.png"))
    (left,), (margin,) = (t.tolist() for t in nonzero_and_margin(base, saved))
    first = next((i for i, n in enumerate(watched.left) if n == 0), None)
    row = {
        "recipe": recipe, "photo": name, "steps": len(watched.left) - (recipe == "zero_out"), "left": left,
        "margin": round(margin, 4), "linf": int(((saved - image).abs() * 255).round().max()),
        "first zero at step": first, "seconds to first zero": watched.seconds[first] if first is not None else None,
        "seconds": seconds,
    }  # fmt: skip
    taken = range(len(watched.left))
    trace = pd.DataFrame(
        {"recipe": recipe, "photo": name, "step": taken, "left": watched.left, "seconds": watched.seconds}
    )
    trace = trace[(trace.step % 5 == 0) | (trace.step == len(trace) - 1)]  # enough for a figure
    return row, trace.round({"seconds": 2})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=10, help="photos of the test split")
    parser.add_argument("--steps", type=int, default=300, help="gradient steps of each recipe (ours: at most 150)")
    given = parser.parse_args()
    base = vgg16_base()
    titles, images = pictures(given.photos)
    photos = dict(list(zip(titles, images.split(1), strict=True))[-given.photos :])
    table, traces = FOLDER / "peers.csv", FOLDER / "peers_steps.csv"
    rows = pd.read_csv(table) if table.exists() else pd.DataFrame(columns=["recipe", "photo"])
    steps = pd.read_csv(traces) if traces.exists() else pd.DataFrame()
    for name, image in photos.items():
        for recipe in RECIPES:
            if ((rows.recipe == recipe) & (rows.photo == name)).any():
                continue
            row, trace = measure(base, recipe, name, image, given.steps)
            rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True)
            steps = pd.concat([steps, trace])
            write_file(traces, steps.to_csv(index=False).encode())
            write_file(table, rows.to_csv(index=False).encode())
            print(row, flush=True)
    print(summary(rows).to_string(index=False))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Per recipe: zeros after the PNG, what is left in the others, and seconds against ours on the same photos."""
    own = rows[rows.recipe == "zero_out"].set_index("photo")["seconds to first zero"]
    lines = []
    for recipe, group in rows.groupby("recipe", sort=False):
        times = (group.set_index("photo")["seconds to first zero"] / own).dropna()
        lines.append(
            {
                "recipe": recipe,
                "exactly zero": f"{(group.left == 0).sum()} of {len(group)}",
                "left: median": group.left.median(),
                "left: most": group.left.max(),
                "time to zero / ours": f"{times.median():.1f} (of {len(times)})" if len(times) else "never",
            }
        )
    return pd.DataFrame(lines)


if __name__ == "__main__":
    main()
