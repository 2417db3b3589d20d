"""Bypass: attacks that know the defence.

A blinded picture is easy to detect, so the first bypass drives every picture to what one ordinary
picture, the donor, gives (Sabour et al. 2016): nothing is unusual and nothing is told. Filters are
met by attacking through them (Athalye et al. 2018): one view of the picture per step, and where a
filter has no slope, that of the unfiltered picture.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from helpers.attack import check_attack, hinge
from helpers.base import Base
from helpers.defences import MIDDLE, blur, jpeg, means, smaller
from helpers.images import check_images
from helpers.runtime import use_bfloat16
from helpers.walk import Walk, half_cosine

View = Callable[[Tensor], Tensor]
PictureLoss = Callable[[Tensor], Tensor]


def as_it_is(images: Tensor) -> Tensor:
    """The view without a filter."""
    return images


def straight_through(change: View) -> View:
    """A filter without a slope (JPEG, rounding), with the slope of doing nothing (Athalye et al. 2018)."""
    return lambda x: x + (change(x.detach()) - x).detach()


# Filters that the attack looks through, one per step; every second step without any. The random one of
# FILTERS and two others are left out, to see whether they are met all the same.
VIEWS: tuple[View, ...] = (as_it_is, blur, as_it_is, smaller, as_it_is, straight_through(jpeg))


def steer(
    base: Base,
    loss: PictureLoss,
    images: Tensor,
    *,
    views: Sequence[View] = (as_it_is,),
    eps: float = 8 / 255,
    steps: int = 200,
    step_size: float = 16 / 255,
    momentum: float = 0.9,
    autocast: bool | None = None,
) -> Tensor:
    """Change each pixel by at most eps so that a loss falls in every view; return pictures on the 8-bit grid.

    base: gives device and precision. loss: a view of the pictures (N, 3, H, W) -> (N,). images: (N, 3, H, W)
    on the 8-bit grid; never modified. views: taken in turn, one per step. step_size falls to zero on one cosine.
    Raises ValueError or TypeError for bad input before any work.
    """
    images = check_attack(base, images, eps, steps, step_size, momentum, 0, 0)
    if not views:
        raise ValueError("views is empty; give at least one, for example as_it_is")
    device = images.device
    autocast = use_bfloat16(device, autocast)
    walk = Walk(images, eps)
    for step in range(steps):
        rounded = walk.rounded().requires_grad_()
        with torch.enable_grad():
            seen = views[step % len(views)](rounded)  # in full precision: only the network is searched in bfloat16
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                value = loss(seen)
            slope = torch.autograd.grad(value.sum(), rounded)[0]
        walk.move(slope, step_size * half_cosine(step, steps), momentum)
    return walk.rounded()


def like(base: Base, donor: Tensor, ends: Sequence[int] = MIDDLE, *, awake: bool = False) -> PictureLoss:
    """How far pictures are from what the donor (1, 3, H, W) gives: the loss of the constant-out attack.

    The sum, over layers on the way (see defences.means) and over the last one under and above its ReLU, of
    the squared distance of the mean activations, in units of the donor's; and of the length of its features.
    awake: of the share of outputs that are not zero, too (smoothed, since a count has no slope).
    Raises ValueError unless the donor is one picture that leaves something in each of them.
    """
    if len(donor) != 1:
        raise ValueError(f"the donor is {len(donor)} pictures; give one, of shape (1, 3, H, W)")
    check_images(donor)

    def given(x: Tensor) -> dict[str, Tensor]:
        reading, z = means(base, x, ends)
        parts = dict(vars(reading))
        if awake:  # between 0 and 1 a ReLU changes nothing, so that pooling sees the sigmoid itself
            parts["awake"] = base.rest(z.sigmoid()).flatten(1).mean(1)
        return parts

    with torch.no_grad():
        targets = {name: target for name, target in given(donor.to(base.mean.device)).items() if target.numel()}
    if silent_parts := [name for name, target in targets.items() if not target.any()]:
        raise ValueError(f"the donor leaves only zeros in {silent_parts[0]}; give an ordinary picture")

    def loss(x: Tensor) -> Tensor:
        now = given(x)
        pairs = [(now[name], target) for name, target in targets.items()]
        return sum((y - target).square().reshape(len(x), -1).sum(1) / target.square().sum() for y, target in pairs)

    return loss


def silent(base: Base, margin: float = 1.0) -> PictureLoss:
    """The loss of the zero-out attack for any view: what all pre-activations lack to lie below their threshold."""
    threshold = base.flat_below()
    return lambda x: hinge(base.pre_activations(x).float() - threshold, margin).flatten(1).sum(1)
