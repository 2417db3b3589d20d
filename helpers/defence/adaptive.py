"""Adaptive attacks: an attacker who knows the defence.

Feature matching drives each image to the readout of one ordinary image, the guide image: a targeted attack on internal
representations (Sabour et al. 2016). To pass filters, the attack goes through them, one per step (Athalye et al. 2018).
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
    """A transform that has no gradient (JPEG, rounding), with that of the identity: BPDA (Athalye et al. 2018)."""
    return lambda x: x + (transform(x.detach()) - x).detach()


# Every second step has no filter. 4 bits, the median and the random size are left out, to see whether the attack holds
# after filters that it never met.
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
    """Change each pixel by at most eps so that a loss falls after every transform.

    base: gives the device and the size of the images.
    loss: transformed images -> (N,).
    images: (N, 3, H, W) on the 8-bit grid, not modified.
    transforms: taken in turn, one per step. (Default: none)
    eps: largest change of a value, in units of [0, 1]. (Default: 8/255)
    steps: gradient steps. (Default: 200)
    step_size: of the first step; it falls to zero on half a cosine. (Default: 16/255)
    Returns images on the 8-bit grid. Raises ValueError or TypeError for bad input before any work.
    """
    adam = PixelAdam(check_attack(base, images, eps, "linf", steps, step_size=step_size), eps)
    for step in range(steps):
        x = adam.quantized().requires_grad_()
        value = loss(transforms[step % len(transforms)](x))
        adam.step(gradient(value.sum(), x, step), step_size * half_cosine(step, steps))
    return adam.quantized()


def relative_distance(part: Tensor, target: Tensor) -> Tensor:
    """The squared distance of each row (N, ...) to a target (1, ...), relative to the target's length: (N,)."""
    return (part - target).flatten(1).square().sum(1) / target.square().sum()


def feature_matching_loss(
    base: Base, guide: Tensor, ends: Sequence[int] = ENDS, *, match_active: bool = False
) -> ImageLoss:
    """The squared distance between an image's Readout and the guide's, relative to the guide's, summed over its parts.

    guide: the guide image, (1, 3, H, W).
    ends: see channel_means.
    match_active: also match the share of active features, smoothed by a sigmoid, since a count has no gradient.
        (Default: False)
    Raises ValueError for several guide images.
    """
    check_images(guide)
    if len(guide) != 1:
        raise ValueError(f"guide is {len(guide)} images; give one, of shape (1, 3, H, W)")

    def parts(x: Tensor) -> list[Tensor]:
        readout, z = channel_means(base, x, ends)
        found = [part.reshape(len(x), -1) for part in vars(readout).values() if part.numel()]
        if match_active:  # a ReLU leaves sigmoids unchanged, and pooling follows
            found.append(base.rest(z.sigmoid()).flatten(1).mean(1, keepdim=True))
        return found

    with torch.no_grad():
        targets = parts(guide.to(base.mean.device))

    def loss(x: Tensor) -> Tensor:
        return sum(map(relative_distance, parts(x), targets))

    return loss


def zero_out_loss(base: Base, margin: float = 1.0) -> ImageLoss:
    """relu(z - threshold + margin), summed over the units of each image; the hinge of zero_out has a rounded corner.

    margin: see zero_out. (Default: 1)
    """
    threshold = base.flat_below()
    return lambda x: torch.relu(base.pre_activations(x) - threshold + margin).flatten(1).sum(1)
