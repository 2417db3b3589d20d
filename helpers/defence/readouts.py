"""Readouts: what heads and detectors read from one forward pass, and the stored ones of notebooks 05 and 06."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from helpers.base import Base
from helpers.defence.filters import FILTERS
from helpers.images import DATA, check_images
from helpers.networks import POOL_ENDS
from helpers.runtime import full_float32

ENDS = (POOL_ENDS["pool3"], POOL_ENDS["pool4"])  # layers of VGG-16, counted from 1
FOLDER = DATA / "readouts"


@dataclass(frozen=True)
class Readout:
    """Channel means of some layers for N images, on the CPU.

    intermediate: after some layers of the body, each at unit length, side by side, (N, M).
    pre_activation: before the last ReLU, (N, C).
    features: of the last layer, (N, C).
    feature_norm: l2 norm of all features, before any mean, (N,).
    """

    intermediate: Tensor
    pre_activation: Tensor
    features: Tensor
    feature_norm: Tensor


def layers_of(base: Base) -> nn.Sequential:
    """The layers of a base's body. Raises ValueError if it is not a sequence."""
    if not isinstance(base.body, nn.Sequential):
        raise ValueError(f"{base.name} has no layers in sequence; give vgg16_base()")
    return base.body


def channel_means(base: Base, images: Tensor, ends: Sequence[int] = ENDS) -> tuple[Readout, Tensor]:
    """The Readout of images, with gradients, and their pre-activations (N, C, h, w).

    images: (N, 3, H, W) on the base's device.
    ends: numbers of layers of the body, from 1. (Default: pool3 and pool4 of VGG-16)
    Raises ValueError for a base without them.
    """
    layers = layers_of(base)
    if not all(1 <= end <= len(layers) for end in ends):
        raise ValueError(f"{base.name} has {len(layers)} layers, not {tuple(ends)}; give other ends")
    z, intermediate = (images - base.mean) / base.std, [images.new_zeros(len(images), 0)]
    for number, layer in enumerate(layers, 1):
        z = layer(z)  # (N, channels, H, W)
        if number in ends:
            intermediate.append(nn.functional.normalize(z.mean((2, 3))))
    features = base.rest(z)
    means = torch.cat(intermediate, 1), z.mean((2, 3)), features.mean((2, 3))
    return Readout(*means, features.flatten(1).norm(dim=1)), z


@torch.no_grad()
@full_float32()
def extract_readouts(base: Base, images: Tensor, *, ends: Sequence[int] = ENDS, batch: int = 2) -> Readout:
    """The Readout of images (N, 3, H, W) in [0, 1], on any device.

    ends: see channel_means.
    batch: images per forward pass. (Default: 2)
    """
    check_images(images)
    pieces = [vars(channel_means(base, piece.to(base.mean.device), ends)[0]) for piece in images.split(batch)]
    return Readout(**{name: torch.cat([piece[name] for piece in pieces]).cpu() for name in pieces[0]})


def stored_readouts(name: str) -> dict[str, Readout]:
    """Stored readouts of a set of images, in float32: one for "no filter" and one for each stored filter.

    name: a file of data/readouts/; `python -m experiments readouts` makes them.
    """
    tensors = {key: tensor.float() for key, tensor in load_file(FOLDER / f"{name}.safetensors").items()}
    names = [name for name in ("no filter", *FILTERS) if f"{name}/features" in tensors]
    return {name: Readout(*(tensors[f"{name}/{field.name}"] for field in fields(Readout))) for name in names}


def unit_length(vectors: Tensor) -> Tensor:
    """Each row divided by its norm, even if that is tiny; rows of zeros stay zeros."""
    return nn.functional.normalize(vectors, eps=1e-30)


READERS: dict[str, Callable[[Readout], Tensor]] = {
    "features": lambda readout: readout.features,
    "unit length": lambda readout: unit_length(readout.features),
    "pre-activations": lambda readout: unit_length(readout.pre_activation),
    "pool3 and pool4": lambda readout: readout.intermediate,
    "several depths": lambda readout: torch.cat([readout.intermediate, unit_length(readout.features)], 1),
}
