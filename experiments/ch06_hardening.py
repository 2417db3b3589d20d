"""The hardened base of notebook 06 and attacks on it: some hours on two cores.

    python -m experiments ch06_hardening    # goes on where it was stopped, photo by photo

Adversarial fine-tuning of a scale and a shift per channel (8,448 numbers; Frankle et al. 2021). It uses no labels: an
attacked photo shall give what the clean one gave in the original base (Schlarmann et al. 2024). Each photo keeps its
perturbation from visit to visit, so that one backward pass serves attack and training (Shafahi et al. 2019).
Writes data/weights/vgg16_hardened.safetensors, and the tables hardened.csv and hardened_eps.csv of data/defences/.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import partial

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from experiments.ch05_defence import FOLDER
from experiments.ch06_bypass import DONOR, Rows, picture
from experiments.readouts import test_split
from experiments.tables import completed, fill
from helpers.attack import zero_out
from helpers.base import Base
from helpers.defence.adaptive import feature_matching_loss, minimise_loss
from helpers.defence.hardening import apply_channel_affine
from helpers.defence.readouts import READERS, extract_readouts, layers_of
from helpers.heads import fit_head
from helpers.images import load_folder, load_photos, write_file
from helpers.networks import vgg16_base
from helpers.runtime import pick_device
from helpers.weights import BUNDLED, VGG16_HARDENED

STEPS = 60  # of feature matching on the hardened base
HEADS = ("features", "unit length", "pre-activations", "several depths")  # of READERS
LEAK = 0.2  # slope below the last ReLU in the distance, so that inactive units have a gradient
FRESH = 0.2  # share of visits that start from a new random perturbation


class ScaleShift(nn.Module):
    """y * scale + shift * unit per channel; unit, the size of y, makes one learning rate fit all layers."""

    def __init__(self, channels: int, unit: float) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.unit = unit

    def forward(self, y: Tensor) -> Tensor:
        return torch.addcmul((self.shift * self.unit).view(-1, 1, 1), y, self.scale.view(-1, 1, 1))


@torch.no_grad()
def with_affine(base: Base, images: Tensor) -> nn.Sequential:
    """The body with a ScaleShift after each convolution."""
    layers: list[nn.Module] = []
    y = (images - base.mean) / base.std
    for layer in layers_of(base):
        layers.append(layer)
        y = layer(y)
        if isinstance(layer, nn.Conv2d):
            layers.append(ScaleShift(layer.out_channels, y.abs().mean().item()))
    return nn.Sequential(*layers).to(images.device)


def distance(z: Tensor, z0: Tensor) -> Tensor:
    """Squared distance (N,) of pre-activations, relative to the norm of z0."""
    y, y0 = (nn.functional.leaky_relu(each, LEAK).flatten(1) for each in (z, z0))
    return (y - y0).square().sum(1) / y0.square().sum(1)


def random_start(like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    return ((torch.rand(like.shape, generator=generator) * 2 - 1) * eps).to(like)


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
) -> dict[str, Tensor]:
    """Train scales and shifts for apply_channel_affine on images (N, 3, H, W) and their crops of `side` pixels.

    In each batch one half of the perturbations increases the distance, the other decreases the zero-out loss.
    step_size: of the perturbations. lr: of Adam, falling on half a cosine.
    """
    images, generator = images.to(base.mean.device), torch.Generator().manual_seed(seed)
    net = with_affine(base, images[:4])
    numbers = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(numbers, lr=lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * math.ceil(len(images) / batch))
    deltas = random_start(images, eps, generator)
    for epoch in range(epochs):
        distances = []
        for places in torch.randperm(len(images), generator=generator).split(batch):
            for i in places[torch.rand(len(places), generator=generator) < FRESH]:
                deltas[i] = random_start(images[i], eps, generator)
            top, left = (int(torch.randint(0, n - side + 1, (), generator=generator)) for n in images.shape[-2:])
            crop = (places, slice(None), slice(top, top + side), slice(left, left + side))
            clean = images[crop]
            x = (clean + deltas[crop]).clamp_(0, 1)
            away, grads, mean = gradients(base, net, numbers, clean, x)
            deltas[crop] = (x + step_size * away.sign() - clean).clamp_(-eps, eps)
            for number, grad in zip(numbers, grads, strict=True):
                number.grad = grad
            optimizer.step()
            schedule.step()
            distances.append(mean)
        print(f"epoch {epoch}: mean distance {torch.stack(distances).mean():.4f}", flush=True)
    return state_of(net)


def gradients(
    base: Base, net: nn.Sequential, numbers: list[Tensor], clean: Tensor, x: Tensor
) -> tuple[Tensor, list[Tensor], Tensor]:
    """The direction in which attacked images x move, the gradients of the trained numbers, and the mean distance."""
    x = x.detach().requires_grad_()
    with torch.no_grad():
        target = base.pre_activations(clean)
    z = net((x - base.mean) / base.std)
    loss, half = distance(z, target).mean(), len(x) // 2
    away, *grads = torch.autograd.grad(loss, [x, *numbers], retain_graph=True)
    hinge = torch.relu(z[:half] - base.flat_below() + 1).sum()
    away[:half] = -torch.autograd.grad(hinge, x)[0][:half]
    return away, grads, loss.detach()


@torch.no_grad()
def state_of(net: nn.Sequential) -> dict[str, Tensor]:
    affine = [layer for layer in net if isinstance(layer, ScaleShift)]
    scales = {f"scale.{i}": layer.scale.cpu().clone() for i, layer in enumerate(affine)}
    return scales | {f"shift.{i}": (layer.shift * layer.unit).cpu() for i, layer in enumerate(affine)}


def hardened(base: Base, images: Tensor) -> Base:
    """The hardened base, trained where its file is missing."""
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

    def rows(self, cell: dict[str, object]) -> Rows:
        """Non-zero features, feature norm relative to the clean photo's, and the answers of four heads."""
        name, i = cell["base"], cell["photo"]
        base, after = self.bases[name], self.attacked(name, cell["attack"], i)
        clean, now = (extract_readouts(base, images) for images in (self.photos[i : i + 1], after))
        row = {"truth": self.truth[i], "nonzero": base.verdict(after)[0].item()}
        row["norm_ratio"] = (now.feature_norm / clean.feature_norm).item()
        return [row | {head: self.heads[name][head].predict(READERS[head](now).numpy())[0] for head in HEADS}]


def budgets(base: Base, images: Tensor, cell: dict[str, int]) -> Rows:
    """Non-zero features of the hardened base after zero-out with a budget: one row per photo."""
    eps = cell["eps"]
    result = completed(zero_out(base, images, eps=eps / 255, steps=150 if eps else 0))
    return [{"photo": i, "nonzero": n} for i, n in enumerate(result.nonzero)]


def main(options: Sequence[str] = ()) -> None:
    base = vgg16_base().to(pick_device())
    train, labels = load_photos("train")
    bases = {"original": base, "hardened": hardened(base, train)}
    measure = Measure(bases, train, labels)
    pairs = [("original", "none"), ("original", "zero-out of the original"), ("original", "feature matching")]
    pairs += [("hardened", attack) for attack in ("none", "zero-out of the original", "zero-out", "feature matching")]
    cells = [{"base": b, "attack": a, "photo": i} for b, a in pairs for i in range(len(measure.photos))]
    fill(FOLDER / "hardened.csv", cells, measure.rows)
    few = measure.photos[::7]
    fill(FOLDER / "hardened_eps.csv", [{"eps": e} for e in (0, 8, 32, 255)], partial(budgets, bases["hardened"], few))
