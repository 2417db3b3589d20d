"""A hardened base: a scale and a shift for each channel of VGG-16, tuned against attacks.

experiments/ch06_hardening.py trains them (8,448 numbers; Frankle et al. 2021).
"""

import copy

import torch
from torch import Tensor, nn

from helpers.base import Base
from helpers.defence.readouts import layers_of
from helpers.networks import vgg16_base
from helpers.weights import VGG16_HARDENED, load_bundled


def apply_channel_affine(base: Base, state: dict[str, Tensor], name: str) -> Base:
    """A copy of a base whose convolutions are scaled and shifted: as many layers, as fast, frozen.

    state: "scale.0", "shift.0" (channels,) for the first convolution, and so on.
    Raises ValueError unless the state fits the base.
    """
    body = copy.deepcopy(layers_of(base))
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
    """VGG-16's base with the bundled scales and shifts."""
    return apply_channel_affine(vgg16_base(), load_bundled(VGG16_HARDENED), "vgg16 (Oxford, hardened)")
