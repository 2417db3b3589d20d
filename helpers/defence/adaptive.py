"""Adaptive attacks: an attacker who knows the defence.

Feature matching drives every image to the readout of one ordinary image, the donor: a targeted attack on internal
representations (Sabour et al. 2016). Filters are met by attacking through them, one per step (Athalye et al. 2018).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers.attack import check_attack, gradient
from helpers.base import Base
from helpers.defence.filters import Transform, blur, jpeg, smaller
from helpers.defence.readouts import ENDS, channel_means
from helpers.images import check_images
from helpers.optimizer import PixelAdam, half_cosine

ImageLoss = Callable[[Tensor], Tensor]  # images (N, 3, H, W) -> (N,)


def identity(images: Tensor) -> Tensor:
    """The images, without a filter."""
    return images


def straight_through(transform: Transform) -> Transform:
    """A transform without a gradient (JPEG, rounding), with that of the identity: BPDA (Athalye et al. 2018)."""
    return lambda x: x + (transform(x.detach()) - x).detach()


# Every second step without a filter. 4 bits, the median and the random size are left out, to see whether the attack
# holds behind filters that it never met.
TRANSFORMS: tuple[Transform, ...] = (identity, blur, identity, smaller, identity, straight_through(jpeg))


@torch.enable_grad()
def minimise_loss(
    base: Base,
    loss: ImageLoss,
    images: Tensor,
    *,
    transforms: Sequence[Transform] = (identity,),
    eps: float = 8 / 255,
    steps: int = 200,
    step_size: float = 16 / 255,
) -> Tensor:
    """Change each pixel by at most eps so that a loss falls behind every transform.

    base: its device is used. loss: transformed images -> (N,).
    images: (N, 3, H, W) on the 8-bit grid, not modified.
    transforms: taken in turn, one per step. (Default: none)
    step_size: of the first step; it falls to zero on half a cosine. (Default: 16/255)
    Returns images on the 8-bit grid. Raises ValueError or TypeError for bad input before any work.
    """
    adam = PixelAdam(check_attack(base, images, eps, "linf", steps, step_size=step_size), eps)
    for step in range(steps):
        x = adam.quantized().requires_grad_()
        value = loss(transforms[step % len(transforms)](x))
        adam.step(gradient(value.sum(), x, step), step_size * half_cosine(step, steps))
    return adam.quantized()


def feature_matching_loss(
    base: Base, donor: Tensor, ends: Sequence[int] = ENDS, *, match_active: bool = False
) -> ImageLoss:
    """Squared distance of an image's Readout to the donor's, relative to the donor's, summed over its parts.

    donor: one image (1, 3, H, W). ends: see channel_means.
    match_active: add the share of active features, smoothed by a sigmoid, since a count has no gradient.
    Raises ValueError for several donors.
    """
    check_images(donor)
    if len(donor) != 1:
        raise ValueError(f"the donor is {len(donor)} images; give one, of shape (1, 3, H, W)")

    def parts(x: Tensor) -> list[Tensor]:
        readout, z = channel_means(base, x, ends)
        found = [part.reshape(len(x), -1) for part in vars(readout).values() if part.numel()]
        if match_active:  # a ReLU leaves sigmoids as they are, and pooling follows
            found.append(base.rest(z.sigmoid()).flatten(1).mean(1, keepdim=True))
        return found

    with torch.no_grad():
        targets = parts(donor.to(base.mean.device))

    def loss(x: Tensor) -> Tensor:
        pairs = zip(parts(x), targets, strict=True)
        return sum((part - target).square().sum(1) / target.square().sum() for part, target in pairs)

    return loss


def zero_out_loss(base: Base, margin: float = 1.0) -> ImageLoss:
    """The hinge of the zero-out attack, summed over units, for any transform of the images."""
    threshold = base.flat_below()
    return lambda x: torch.relu(base.pre_activations(x) - threshold + margin).flatten(1).sum(1)
