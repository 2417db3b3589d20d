"""One pattern for many pictures: added to each of them, it quiets the last layer; in others it does little.

Universal perturbations are due to Moosavi-Dezfooli et al. (2017), those that need no labels but only
the activations of a network to Mopuri et al. (2017); here the hinge of the zero-out attack is lowered.
"""

import torch
from torch import Tensor

from helpers.attack import OnStep, check_attack, hinge
from helpers.base import Base
from helpers.certificate import count_nonzero
from helpers.images import check_images, from_levels, is_whole, to_grid
from helpers.runtime import use_bfloat16
from helpers.walk import Walk, half_cosine

GREY = 128 / 255  # the walk starts here, so that a pattern is saved as a picture: itself + 128


def universal(
    base: Base,
    images: Tensor,
    *,
    eps: float = 16 / 255,
    steps: int = 100,
    batch: int = 4,
    step_size: float = 16 / 255,
    momentum: float = 0.9,
    margin: float = 1.0,
    seed: int = 0,
    autocast: bool | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """One pattern (1, 3, H, W) that lowers the pre-activations of all pictures; give it to `add`.

    images: (N, 3, H, W) in [0, 1] on the 8-bit grid, the pictures to learn from; never modified. eps: size of
    the pattern at most, in units of [0, 1]; its values are whole numbers of 1/255, from -128 to 127. steps:
    gradient steps, each on `batch` pictures in an order drawn with the seed. step_size falls to zero on one
    cosine. momentum, margin, autocast: as in zero_out. on_step(step, pattern, nonzero) sees each step's
    pattern and the outputs left in the pictures it is tried on; KeyboardInterrupt ends with the pattern so far.
    Raises ValueError or TypeError for bad input before any work.
    """
    images = check_attack(base, images, eps, steps, step_size, momentum, margin, 0)
    if not is_whole(batch) or batch < 1:
        raise ValueError(f"batch is {batch!r}; give a whole number of pictures per step, 1 or more")
    threshold = base.flat_below()
    device = images.device
    autocast = use_bfloat16(device, autocast)
    walk = Walk(torch.full_like(images[:1], GREY), eps)
    generator, order = torch.Generator().manual_seed(seed), []
    try:
        for step in range(steps):
            while len(order) < min(batch, len(images)):  # each picture comes once before any comes again
                order += torch.randperm(len(images), generator=generator).tolist()
            seen, order = images[order[:batch]], order[batch:]
            pattern = _pattern(walk).requires_grad_()
            with torch.enable_grad():
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    z = base.pre_activations((seen + pattern).clamp(0, 1)).float()
                slope = torch.autograd.grad(hinge(z - threshold, margin).sum(), pattern)[0]
            if on_step is not None:
                on_step(step, pattern.detach(), count_nonzero(base.rest(z.detach())))
            walk.move(slope, step_size * half_cosine(step, steps), momentum)
    except KeyboardInterrupt:
        pass
    return _pattern(walk)


def _pattern(walk: Walk) -> Tensor:
    """The walk's change on whole levels: the difference of two rounded pictures is not, to the last bit."""
    return from_levels(((walk.rounded() - GREY) * 255).round())


def add(images: Tensor, pattern: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) with the pattern (1, 3, H, W) on top: clamped to [0, 1], on the 8-bit grid.

    Raises ValueError or TypeError for pictures that are none and for a pattern of another size.
    """
    check_images(images)
    if not isinstance(pattern, Tensor) or pattern.shape != (1, *images.shape[1:]):
        shape = tuple(pattern.shape) if isinstance(pattern, Tensor) else type(pattern).__name__
        raise ValueError(f"the pattern is {shape}; for these pictures give a tensor {(1, *images.shape[1:])}")
    return to_grid((images + pattern.to(images)).clamp(0, 1))
