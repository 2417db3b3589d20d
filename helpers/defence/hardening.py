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


@torch.no_grad()
def apply_channel_affine(base: Base, state: dict[str, Tensor], name: str) -> Base:
    """A copy of a base whose convolutions are scaled and shifted; it has as many layers and is as fast.

    state: "scale.0" and "shift.0", each (channels,), for the first convolution, and so on.
    name: of the copy.
    """
    made = copy.deepcopy(base)
    made.name = name
    convolutions = [layer for layer in layers_of(made) if isinstance(layer, nn.Conv2d)]
    for i, layer in enumerate(convolutions):
        scale, shift = (state[f"{kind}.{i}"].to(base.mean.device) for kind in ("scale", "shift"))
        layer.weight.mul_(scale.view(-1, 1, 1, 1))
        layer.bias.mul_(scale).add_(shift)
    return made


def vgg16_hardened() -> Base:
    """VGG-16's base with the bundled scales and shifts."""
    return apply_channel_affine(vgg16_base(), load_bundled(VGG16_HARDENED), "vgg16 (Oxford, hardened)")
