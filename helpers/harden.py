"""A base made harder to move: adversarial fine-tuning of a scale and a shift per channel.

Unsupervised, so that it serves any head: the changed photo shall give what the unchanged one gave in the base
as it was (Schlarmann et al. 2024). The changes live on from visit to visit, so that one backward pass serves
attack and training (Shafahi et al. 2019). Only 8,448 numbers are trained (Frankle et al. 2021).
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from helpers.attack import hinge
from helpers.base import Base
from helpers.images import check_images, is_whole
from helpers.networks import vgg16_base
from helpers.runtime import use_bfloat16
from helpers.walk import half_cosine
from helpers.weights import VGG16_HARDENED, load_bundled

OnEpoch = Callable[[int, float], None]
SLOPE = 0.2  # below the last ReLU, in the distance: a unit that sleeps but should not must feel a slope
FRESH = 0.2  # share of visits that begin anew, at a random place in the budget


class ScaleShift(nn.Module):
    """What follows a convolution while it is tuned: y * scale + shift * unit, with numbers per channel."""

    def __init__(self, channels: int, unit: float) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.unit = unit  # the size of what the layer gives, so that one learning rate fits all layers

    def forward(self, y: Tensor) -> Tensor:
        # In the precision of y: autocast leaves products and sums alone, and float32 is twice as slow here.
        scale, shift = self.scale.to(y.dtype), (self.shift * self.unit).to(y.dtype)
        return torch.addcmul(shift.view(-1, 1, 1), y, scale.view(-1, 1, 1))


def _layers(base: Base) -> nn.Sequential:
    if not isinstance(base.body, nn.Sequential):
        raise ValueError(f"{base.name} has no layers in sequence; give vgg16_base()")
    if any(isinstance(layer, nn.Conv2d) and layer.bias is None for layer in base.body):
        raise ValueError(f"a convolution of {base.name} has no bias to take up a shift; give it one of zeros")
    return base.body


def tuned(base: Base, state: dict[str, Tensor], name: str) -> Base:
    """A copy of a base, its convolutions scaled and shifted: as many layers, as fast, weights frozen.

    state: "scale.0", "shift.0", ... for its first convolution and so on, as harden returns them.
    Raises ValueError where they do not fit.
    """
    body = copy.deepcopy(_layers(base))
    convolutions = [layer for layer in body if isinstance(layer, nn.Conv2d)]
    want = {f"{kind}.{i}": (c.out_channels,) for i, c in enumerate(convolutions) for kind in ("scale", "shift")}
    if {key: tuple(tensor.shape) for key, tensor in state.items()} != want:
        raise ValueError(f"these scales and shifts do not fit the {len(convolutions)} convolutions of {base.name}")
    with torch.no_grad():
        for i, layer in enumerate(convolutions):
            scale, shift = (state[f"{kind}.{i}"].to(base.mean.device) for kind in ("scale", "shift"))
            layer.weight.mul_(scale.view(-1, 1, 1, 1))
            layer.bias.mul_(scale).add_(shift)
    mean, std = base.mean.flatten().tolist(), base.std.flatten().tolist()
    made = Base(body.cpu(), copy.deepcopy(base.rest).cpu(), mean=mean, std=std, size=base.size, name=name)
    return made.to(base.mean.device)


def vgg16_hardened() -> Base:
    """VGG-16's base with the bundled scales and shifts, made by tools/make_hardened.py."""
    return tuned(vgg16_base(), load_bundled(VGG16_HARDENED), "vgg16 (Oxford, hardened)")


def _opened(base: Base, image: Tensor) -> nn.Sequential:
    """The body with a ScaleShift after each convolution; its other weights stay frozen."""
    layers: list[nn.Module] = []
    y = (image - base.mean) / base.std
    for layer in _layers(base):
        layers.append(layer)
        with torch.no_grad():
            y = layer(y)
        if isinstance(layer, nn.Conv2d):
            layers.append(ScaleShift(layer.out_channels, y.abs().mean().item()))
    return nn.Sequential(*layers).to(image.device)


def _distance(z: Tensor, z0: Tensor) -> Tensor:
    """Squared distance of activations (N, ...) in units of the second ones' length: (N,)."""
    y, y0 = (nn.functional.leaky_relu(each, SLOPE).flatten(1) for each in (z, z0))
    return (y - y0).square().sum(1) / y0.square().sum(1)


def harden(
    base: Base,
    images: Tensor,
    *,
    eps: float = 8 / 255,
    epochs: int = 30,
    batch: int = 6,
    side: int = 160,
    step_size: float = 2 / 255,
    rate: float = 0.01,
    seed: int = 0,
    autocast: bool | None = None,
    on_epoch: OnEpoch | None = None,
) -> dict[str, Tensor]:
    """Tune a base against attacks on images (N, 3, H, W); return scales and shifts for `tuned`.

    Every photo carries its change, at most eps, from visit to visit; of each batch one half moves away from what
    it was (the distance grows), the other towards silence (the loss of the zero-out attack falls). The
    network sees crops of `side` pixels, a fraction of the work. rate: of Adam, falling on one half cosine.
    on_epoch(epoch, distance) sees the mean distance of each. Neither base nor images are modified.
    Raises ValueError or TypeError for bad input before any work.
    """
    check_images(images)
    if not 0 < eps <= 1:
        raise ValueError(f"eps is {eps}; it is a share of [0, 1], for example 8/255")
    if not 1 <= side <= min(images.shape[-2:]):
        raise ValueError(f"side is {side}; give 1 to {min(images.shape[-2:])} pixels")
    for name, value in {"epochs": epochs, "batch": batch}.items():
        if not is_whole(value) or value < 1:
            raise ValueError(f"{name} is {value!r}; give a whole number, 1 or more")
    epochs, batch = int(epochs), int(batch)  # torch splits by Python's numbers only
    images, chance = images.to(base.mean.device), torch.Generator().manual_seed(seed)
    net, silence = _opened(base, images[:4]), base.flat_below()
    numbers = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(numbers, lr=rate, betas=(0.9, 0.99))
    steps = epochs * math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: half_cosine(step, steps))
    autocast = use_bfloat16(images.device, autocast)
    changes = _anywhere(images, eps, chance)
    for epoch in range(epochs):
        distances = []
        for places in torch.randperm(len(images), generator=chance).split(batch):
            for i in places[torch.rand(len(places), generator=chance) < FRESH]:
                changes[i] = _anywhere(images[i], eps, chance)
            crop = (places, slice(None), *(_window(length, side, chance) for length in images.shape[-2:]))
            clean = images[crop].contiguous(memory_format=torch.channels_last)
            x = (clean + changes[crop]).clamp_(0, 1)
            away, slopes, distance = _slopes(base, net, numbers, silence, clean, x, autocast)
            changes[crop] = (x + step_size * away.sign() - clean).clamp_(-eps, eps)
            for number, slope in zip(numbers, slopes, strict=True):
                number.grad = slope
            optimizer.step()
            schedule.step()
            distances.append(distance)
        if on_epoch is not None:
            on_epoch(epoch, torch.stack(distances).mean().item())
    return _state(net)


def _slopes(
    base: Base, net: nn.Sequential, numbers: list[Tensor], silence: float, clean: Tensor, x: Tensor, autocast: bool
) -> tuple[Tensor, list[Tensor], Tensor]:
    """Where changed pictures x move away, the slopes of the trained numbers, and the mean distance."""
    x = x.detach().requires_grad_()
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast):
        with torch.no_grad():
            target = base.pre_activations(clean).float()
        z = net((x - base.mean) / base.std).float()
    loss, half = _distance(z, target).mean(), len(x) // 2
    away, *slopes = torch.autograd.grad(loss, [x, *numbers], retain_graph=True)
    lack = hinge(z[:half] - silence, 1.0).sum()
    away[:half] = -torch.autograd.grad(lack, x)[0][:half]
    return away, slopes, loss.detach()


def _window(length: int, side: int, chance: torch.Generator) -> slice:
    start = int(torch.randint(0, length - side + 1, (), generator=chance))
    return slice(start, start + side)


def _anywhere(like: Tensor, eps: float, chance: torch.Generator) -> Tensor:
    return ((torch.rand(like.shape, generator=chance) * 2 - 1) * eps).to(like)


@torch.no_grad()
def _state(net: nn.Sequential) -> dict[str, Tensor]:
    affine = [layer for layer in net if isinstance(layer, ScaleShift)]
    scales = {f"scale.{i}": layer.scale.detach().cpu().clone() for i, layer in enumerate(affine)}
    return scales | {f"shift.{i}": (layer.shift * layer.unit).cpu() for i, layer in enumerate(affine)}
