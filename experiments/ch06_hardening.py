"""The hardened base of notebook 06, a control, and attacks on both. Takes some hours on two cores.

    python -m experiments ch06_hardening    # continues where it was stopped, photo by photo; pip install ".[peers]"

Adversarial fine-tuning of a scale and a shift per channel (8,448 numbers; Frankle et al. 2021). It uses no labels: the
features of an attacked photo are to equal those of the clean photo in the original base (Schlarmann et al. 2024). Each
photo keeps its perturbation between visits, so one backward pass serves attack and training (Shafahi et al. 2019). The
control is trained in the same way on random noise, so it tells what tuning as such does. Writes
vgg16_hardened.safetensors and vgg16_control.safetensors in data/weights/, and in data/defences/ the tables hardened.csv
and hardened_eps.csv: all bases under the same attacks, budget by budget.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from experiments.ch05_defence import FOLDER
from experiments.ch06_bypass import DONOR
from experiments.ch06_pipeline import cross_entropy
from experiments.common import picture, vgg16
from experiments.readouts import test_split
from experiments.tables import Row, fill
from helpers.attack import zero_out
from helpers.base import Base
from helpers.defence.adaptive import feature_matching_loss, minimise_loss
from helpers.defence.hardening import apply_channel_affine
from helpers.defence.readouts import READERS, extract_readouts, layers_of
from helpers.heads import fit_head, with_head
from helpers.images import load_folder, load_photos, write_file
from helpers.weights import BUNDLED

CE_STEPS, MATCHING_STEPS = 20, 40  # of the attacks in hardened_eps.csv
BASES = ("original", "control", "hardened")
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
    attack: bool = True,
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
    attack: False for a control that is trained in the same way on noise: each value moves by plus or minus eps, drawn
        anew at each visit. (Default: True)
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
            if not attack:
                deltas[places] = eps * random_start(images[places], 1.0, generator).sign()
            x = (images[crop] + deltas[crop]).clamp_(0, 1)
            away, mean = backward(base, state, images[crop], x, attack=attack)
            if attack:
                deltas[crop] = (x + step_size * away.sign() - images[crop]).clamp_(-eps, eps)
            optimizer.step()
            schedule.step()
            distances.append(mean)
        print(f"epoch {epoch}: mean distance {sum(distances) / len(distances):.4f}", flush=True)
    return {name: tensor.detach().cpu() for name, tensor in state.items()}


def backward(base: Base, state: State, clean: Tensor, x: Tensor, *, attack: bool = True) -> tuple[Tensor, float]:
    """Set the gradients of the state. Returns the direction in which the images x move, and the mean distance.

    attack: the first half of the images moves towards zero; otherwise all move away from the clean ones.
    """
    x = x.detach().requires_grad_()
    *_, z = convolved(base, x, state)
    loss, half = distance(z, base.pre_activations(clean)).mean(), len(x) // 2
    direction, *grads = torch.autograd.grad(loss, [x, *state.values()], retain_graph=attack)
    for tensor, grad in zip(state.values(), grads, strict=True):
        tensor.grad = grad
    if attack:
        hinge = torch.relu(z[:half] - base.flat_below() + 1).sum()
        direction[:half] = -torch.autograd.grad(hinge, x)[0][:half]
    return direction, loss.item()


def tuned(name: str, base: Base, images: Tensor, attack: bool) -> Base:
    """The base of a bundled file; it is trained if its file is missing. attack: see harden."""
    path = BUNDLED / f"{name}.safetensors"
    if not path.exists():
        write_file(path, save(harden(base, images, attack=attack)))
        print(f"{path.name}: sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    return apply_channel_affine(base, load(path.read_bytes()), name)


class Measure:
    """Attacks on the bases, photo by photo."""

    def __init__(self, bases: dict[str, Base], train: Tensor, labels: Sequence[str]) -> None:
        self.bases, self.heads = bases, {}
        for name, base in bases.items():
            readout = extract_readouts(base, train)
            self.heads[name] = {head: fit_head(READERS[head](readout), labels) for head in HEADS}
        self.photos, self.truth = test_split()[1][::3], load_photos("test")[1][1::2][::3]
        self.zeroed = load_folder(FOLDER / "zero")[::3]

    def attacked(self, name: str, attack: str, i: int) -> Tensor:
        base, image = self.bases[name], self.photos[i : i + 1]
        if attack == "none":
            return image
        if attack == "zero-out of the original":
            return self.zeroed[i : i + 1]
        return zero_out(base, image).completed().images

    def row(self, cell: Row) -> list[Row]:
        """Active features, feature norm relative to the clean photo's, and the predictions of four heads."""
        name, i = cell["base"], cell["photo"]
        base, after = self.bases[name], self.attacked(name, cell["attack"], i)
        clean, now = (extract_readouts(base, images) for images in (self.photos[i : i + 1], after))
        row = {"truth": self.truth[i], "nonzero": base.verdict(after)[0].item()}
        row["norm_ratio"] = (now.feature_norm / clean.feature_norm).item()
        return [row | {head: self.heads[name][head].predict(READERS[head](now).numpy())[0] for head in HEADS}]

    def at_budget(self, cell: Row) -> list[Row]:
        """The answer of the head of features, and active features, after an attack with a budget."""
        base, head, i = self.bases[cell["base"]], self.heads[cell["base"]]["features"], cell["photo"]
        image, eps = self.photos[i : i + 1], cell["eps"] / 255
        match cell["attack"]:
            case "cross-entropy":
                image = cross_entropy(with_head(base, head), image, self.truth[i], eps=eps, steps=CE_STEPS)
            case "feature matching":
                loss = feature_matching_loss(base, picture(DONOR))
                image = minimise_loss(base, loss, image, eps=eps, steps=MATCHING_STEPS)
            case "zero-out":
                start = cell["start"]
                image = zero_out(base, image, eps=eps, random_start=start > 0, seed=start).completed().images
        answer = head.predict(extract_readouts(base, image).features.numpy())[0]
        return [{"truth": self.truth[i], "answer": answer, "nonzero": base.verdict(image)[0].item()}]


def budgets() -> list[Row]:
    """The cells of hardened_eps.csv; start: 0 is the clean image, 1 the seed of a random start."""
    same = [*(("cross-entropy", eps) for eps in (1, 2, 4, 8)), *(("feature matching", eps) for eps in (2, 8))]
    cells = [(b, a, eps, 0, i) for i in range(14) for a, eps in same for b in BASES]
    cells += [("hardened", "zero-out", eps, 0, i) for i in (0, 7) for eps in (32, 255)]
    cells += [("hardened", "zero-out", 8, 1, i) for i in (0, 4, 7, 12)]
    return [dict(zip(("base", "attack", "eps", "start", "photo"), cell, strict=True)) for cell in cells]


def main(options: Sequence[str] = ()) -> None:
    train, labels = load_photos("train")
    bases = {"original": vgg16()}
    bases["hardened"] = tuned("vgg16_hardened", vgg16(), train, attack=True)
    bases["control"] = tuned("vgg16_control", vgg16(), train, attack=False)
    measure = Measure(bases, train, labels)
    pairs = [(base, attack) for base in BASES for attack in ("none", "zero-out of the original", "zero-out")]
    pairs.remove(("original", "zero-out"))  # the same attack
    cells = [{"base": b, "attack": a, "photo": i} for b, a in pairs for i in range(len(measure.photos))]
    fill(FOLDER / "hardened.csv", cells, measure.row)
    fill(FOLDER / "hardened_eps.csv", budgets(), measure.at_budget)
