"""Several bases as one, for an image that zeroes them all (an attack on an ensemble, Liu et al. 2017)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from helpers.base import Base


class Joined(nn.Module):
    """Images -> the pre-activations of several bases in one row, each less its threshold and times its scale."""

    def __init__(self, bases: Sequence[Base], scales: Sequence[float]) -> None:
        super().__init__()
        self.bases, self.scales = nn.ModuleList(bases), scales

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.bases, self.scales, strict=True)
        return torch.cat([k * (base.pre_activations(x) - base.threshold).flatten(1) for base, k in parts], 1)


class JoinedRest(nn.Module):
    """What Joined gives -> the features of all bases in one row."""

    @torch.no_grad()
    def __init__(self, joined: Joined, x: Tensor) -> None:
        super().__init__()
        self.bases, self.scales = joined.bases, joined.scales
        self.shapes = [base.pre_activations(x).shape[1:] for base in self.bases]

    def forward(self, z: Tensor) -> Tensor:
        parts = zip(self.bases, self.scales, self.shapes, z.split([s.numel() for s in self.shapes], 1), strict=True)
        features = [base.rest(part.unflatten(1, s) / k + base.threshold) for base, k, s, part in parts]
        return torch.cat([one.flatten(1) for one in features], 1)


def ensemble(*bases: Base, scales: Sequence[float] | None = None) -> Base:
    """Several bases as one that has the features of all: an image that zeroes it zeroes each of them.

    bases: for images of the same size, on one device.
    scales: how much the pre-activations of each count; where one has 10, a margin of 1 is one of 0.1. (Default: 1 each)
    Raises ValueError for scales of another number or not above 0, for several sizes, and for a base whose output is
    never zero.
    """
    scales = [1.0] * len(bases) if scales is None else [float(k) for k in scales]
    if len(scales) != len(bases) or not all(0 < k < math.inf for k in scales):
        raise ValueError(f"scales are {scales} for {len(bases)} bases; give one number above 0 for each")
    if len({base.size for base in bases}) != 1:
        raise ValueError(f"the bases read images of {[base.size for base in bases]} pixels; give bases of one size")
    for base in bases:
        base.flat_below()
    joined = Joined(bases, scales)
    rest = JoinedRest(joined, bases[0].mean.new_zeros(1, 3, bases[0].size, bases[0].size))
    result = Base(joined, rest, size=bases[0].size, name=" and ".join(base.name for base in bases))
    result.threshold = 0.0
    return result
