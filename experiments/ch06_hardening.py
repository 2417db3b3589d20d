"""The hardened base of notebook 06, and attacks on it. Takes some hours on two cores.

    python -m experiments ch06_hardening    # continues where it was stopped, photo by photo

Adversarial fine-tuning of a scale and a shift per channel (8,448 numbers; Frankle et al. 2021). It uses no labels: the
features of an attacked photo are to equal those of the clean photo in the original base (Schlarmann et al. 2024). Each
photo keeps its perturbation between visits, so one backward pass serves attack and training (Shafahi et al. 2019).
Writes data/weights/vgg16_hardened.safetensors, and the tables hardened.csv and hardened_eps.csv of data/defences/.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from experiments.ch05_defence import FOLDER
from experiments.ch06_bypass import DONOR, picture
from experiments.common import vgg16
from experiments.readouts import test_split
from experiments.tables import Row, completed, fill
from helpers.attack import zero_out
from helpers.base import Base
from helpers.defence.adaptive import feature_matching_loss, minimise_loss
from helpers.defence.hardening import apply_channel_affine
from helpers.defence.readouts import READERS, extract_readouts, layers_of
from helpers.heads import fit_head
from helpers.images import load_folder, load_photos, write_file
from helpers.weights import BUNDLED, VGG16_HARDENED

STEPS = 60  # of feature matching on the hardened base
HEADS = ("features", "unit length", "pre-activations", "several depths")  # of READERS
LEAK = 0.2  # slope below the last ReLU in the distance, so that inactive units have a gradient
FRESH = 0.2  # share of visits that start from a new random perturbation
State = dict[str, Tensor]  # scale.0, shift.0 (channels,) and so on, as apply_channel_affine takes them


def convolved(base: Base, images: Tensor, state: State) -> Iterator[Tensor]:
    """The scaled and shifted output of each convolution, then the pre-activations, with gradients for the state."""
    z, number = (images - base.mean) / base.std, 0
    for layer in layers_of(base):
        z = layer(z)
        if isinstance(layer, nn.Conv2d):
            z = z * state[f"scale.{number}"].view(-1, 1, 1) + state[f"shift.{number}"].view(-1, 1, 1)
            number += 1
            yield z
    yield z


def unchanged(base: Base) -> State:
    """Scales of one and shifts of zero, to be trained."""
    weights = [layer.weight for layer in layers_of(base) if isinstance(layer, nn.Conv2d)]
    state = {f"scale.{i}": torch.ones_like(weight[:, 0, 0, 0]) for i, weight in enumerate(weights)}
    state |= {f"shift.{i}": torch.zeros_like(weight[:, 0, 0, 0]) for i, weight in enumerate(weights)}
    return {name: tensor.requires_grad_() for name, tensor in state.items()}


def distance(z: Tensor, z0: Tensor) -> Tensor:
    """Squared distance (N,) of pre-activations, relative to the norm of z0."""
    y, y0 = (nn.functional.leaky_relu(each, LEAK).flatten(1) for each in (z, z0))
    return (y - y0).square().sum(1) / y0.square().sum(1)


def random_start(like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    return ((torch.rand(like.shape, generator=generator) * 2 - 1) * eps).to(like)


def optimizer_of(base: Base, images: Tensor, state: State, lr: float) -> torch.optim.Adam:
    """Adam with a learning rate per tensor: shifts are in units of the mean output of their convolution."""
    with torch.no_grad():
        units = [y.abs().mean().item() for y in convolved(base, images, state)]
    groups = [
        {"params": [tensor], "lr": lr * (units[int(name.split(".")[1])] if name.startswith("shift") else 1)}
        for name, tensor in state.items()
    ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def harden(
    base: Base,
    images: Tensor,
    *,
    eps: float = 8 / 255,
    epochs: int = 30,
    batch: int = 6,
    side: int = 160,
    step_size: float = 2 / 255,
    lr: float = 0.01,
    seed: int = 0,
) -> State:
    """Train scales and shifts for apply_channel_affine.

    In each batch, half of the perturbations decrease the zero-out loss, and the others increase the distance.
    images: (N, 3, H, W) in [0, 1].
    eps: budget of the perturbations, in units of [0, 1]. (Default: 8/255)
    epochs, batch: passes over the images (Default: 30), and images per step (Default: 6).
    side: of the random crops, in pixels. (Default: 160)
    step_size: of the perturbations. (Default: 2/255)
    lr: learning rate of Adam; it falls on half a cosine. (Default: 0.01)
    seed: of crops, order and perturbations. (Default: 0)
    """
    images, generator = images.to(base.mean.device), torch.Generator().manual_seed(seed)
    state = unchanged(base)
    optimizer = optimizer_of(base, images[:4], state, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(images) / batch))
    deltas = random_start(images, eps, generator)
    for epoch in range(epochs):
        distances = []
        for places in torch.randperm(len(images), generator=generator).split(batch):
            for i in places[torch.rand(len(places), generator=generator) < FRESH]:
                deltas[i] = random_start(images[i], eps, generator)
            top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in images.shape[-2:])
            crop = (places, slice(None), slice(top, top + side), slice(left, left + side))
            x = (images[crop] + deltas[crop]).clamp_(0, 1)
            away, mean = backward(base, state, images[crop], x)
            deltas[crop] = (x + step_size * away.sign() - images[crop]).clamp_(-eps, eps)
            optimizer.step()
            schedule.step()
            distances.append(mean)
        print(f"epoch {epoch}: mean distance {sum(distances) / len(distances):.4f}", flush=True)
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def backward(base: Base, state: State, clean: Tensor, x: Tensor) -> tuple[Tensor, float]:
    """Set the gradients of the state. Returns the direction in which the images x move, and the mean distance."""
    x = x.detach().requires_grad_()
    *_, z = convolved(base, x, state)
    loss, half = distance(z, base.pre_activations(clean)).mean(), len(x) // 2
    hinge = torch.relu(z[:half] - base.flat_below() + 1).sum()
    (towards_zero,) = torch.autograd.grad(hinge, x, retain_graph=True)
    away, *grads = torch.autograd.grad(loss, [x, *state.values()])
    for tensor, grad in zip(state.values(), grads, strict=True):
        tensor.grad = grad
    return torch.cat([-towards_zero[:half], away[half:]]), loss.item()


def hardened(base: Base, images: Tensor) -> Base:
    """The hardened base; it is trained if its file is missing."""
    path = BUNDLED / VGG16_HARDENED.name
    if not path.exists():
        write_file(path, save(harden(base, images)))
        print(f"{path.name}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}, for helpers/weights.py")
    return apply_channel_affine(base, load(path.read_bytes()), "vgg16 (hardened)")


class Measure:
    """Attacks on the original and the hardened base, photo by photo."""

    def __init__(self, bases: dict[str, Base], train: Tensor, labels: Sequence[str]) -> None:
        self.bases, self.heads = bases, {}
        for name, base in bases.items():
            readout = extract_readouts(base, train)
            self.heads[name] = {head: fit_head(READERS[head](readout), labels) for head in HEADS}
        self.photos, self.truth = test_split()[1][::3], load_photos("test")[1][1::2][::3]
        self.stored = {name: load_folder(FOLDER / name)[::3] for name in ("zero", "matched")}

    def attacked(self, name: str, attack: str, i: int) -> Tensor:
        base, image = self.bases[name], self.photos[i : i + 1]
        if attack == "none":
            return image
        if attack == "zero-out of the original":
            return self.stored["zero"][i : i + 1]
        if attack == "zero-out":
            return completed(zero_out(base, image)).images
        if name == "original":  # 120 steps through filters
            return self.stored["matched"][i : i + 1]
        return minimise_loss(base, feature_matching_loss(base, picture(DONOR)), image, steps=STEPS)

    def row(self, cell: Row) -> list[Row]:
        """Active features, feature norm relative to the clean photo's, and the predictions of four heads."""
        name, i = cell["base"], cell["photo"]
        base, after = self.bases[name], self.attacked(name, cell["attack"], i)
        clean, now = (extract_readouts(base, images) for images in (self.photos[i : i + 1], after))
        row = {"truth": self.truth[i], "nonzero": base.verdict(after)[0].item()}
        row["norm_ratio"] = (now.feature_norm / clean.feature_norm).item()
        return [row | {head: self.heads[name][head].predict(READERS[head](now).numpy())[0] for head in HEADS}]


def budgets(base: Base, images: Tensor, cell: Row) -> list[Row]:
    """Active features of the hardened base after zero-out with a budget: one row per photo."""
    result = completed(zero_out(base, images, eps=cell["eps"] / 255, steps=150 if cell["eps"] else 0))
    return [{"photo": i, "nonzero": n} for i, n in enumerate(result.nonzero)]


def main(options: Sequence[str] = ()) -> None:
    train, labels = load_photos("train")
    bases = {"original": vgg16(), "hardened": hardened(vgg16(), train)}
    measure = Measure(bases, train, labels)
    pairs = [("original", attack) for attack in ("none", "zero-out of the original", "feature matching")]
    pairs += [("hardened", attack) for attack in ("none", "zero-out of the original", "zero-out", "feature matching")]
    cells = [{"base": b, "attack": a, "photo": i} for b, a in pairs for i in range(len(measure.photos))]
    fill(FOLDER / "hardened.csv", cells, measure.row)
    few = measure.photos[::7]
    fill(FOLDER / "hardened_eps.csv", [{"eps": e} for e in (0, 8, 32, 255)], partial(budgets, bases["hardened"], few))
