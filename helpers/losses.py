"""Losses to compare with the hinge.

Each takes z, the pre-activations minus the threshold (N, ...), and the margin, and returns one value per unit or image.
"""

import torch
from torch import Tensor

from helpers.attack import hinge


def squared_hinge(z: Tensor, margin: float) -> Tensor:
    """The hinge, squared: large pre-activations count more."""
    return torch.relu(z + margin).square()


def total(z: Tensor, margin: float) -> Tensor:
    """The features before pooling; their sum is minimised."""
    return torch.relu(z)


def squared(z: Tensor, margin: float) -> Tensor:
    """The features before pooling, squared."""
    return torch.relu(z).square()


def norm(z: Tensor, margin: float) -> Tensor:
    """Their norm (PhotoGuard's encoder attack with zero as its target, Salman et al. 2023)."""
    return torch.linalg.vector_norm(torch.relu(z), dim=tuple(range(1, z.ndim)), keepdim=True)


def log_norm(z: Tensor, margin: float) -> Tensor:
    """The logarithm of their norm, the part of FDA that makes units inactive (Ganeshan et al. 2019)."""
    return torch.log(norm(z, margin) + 1e-12)


def dispersion(z: Tensor, margin: float) -> Tensor:
    """Their standard deviation (Dispersion Reduction, Lu et al. 2020)."""
    return torch.relu(z).std(dim=tuple(range(1, z.ndim)), keepdim=True)


LOSSES = {loss.__name__: loss for loss in (hinge, squared_hinge, total, squared, norm, log_norm, dispersion)}
