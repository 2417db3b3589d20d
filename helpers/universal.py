"""One pattern for many images: added to each of them, it lowers the pre-activations of the last layer.

Universal perturbations: Moosavi-Dezfooli et al. 2017; without labels, from activations alone: Mopuri et al. 2017.
"""

import torch
from torch import Tensor

from helpers.attack import OnStep, check_attack, gradient, hinge
from helpers.base import Base, count_nonzero
from helpers.images import check_images, from_levels, is_whole, to_grid
from helpers.optimizer import PixelAdam, half_cosine
from helpers.runtime import full_float32

GREY = 128 / 255  # Adam starts here, so that a pattern can be saved as an image: itself + 128


@full_float32()
@torch.inference_mode(False)
@torch.enable_grad()
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
    on_step: OnStep | None = None,
) -> Tensor:
    """Return one pattern (1, 3, H, W) that lowers the pre-activations of all images; give it to `add`.

    base (Base), images (Tensor), momentum, margin: as in zero_out.
    eps (float): largest value of the pattern, in units of [0, 1]; its values are whole 1/255. (Default: 16/255)
    steps (int): gradient steps. (Default: 100)
    batch (int): images per step, in an order drawn with the seed. (Default: 4)
    step_size (float): of the first step; it falls to zero on half a cosine. (Default: 16/255)
    on_step (callable): on_step(step, pattern, nonzero) sees the pattern and the features left in the batch.
    KeyboardInterrupt ends with the pattern so far. Raises ValueError or TypeError for bad input before any work.
    """
    images = check_attack(base, images, eps, "linf", steps, step_size=step_size, momentum=momentum, margin=margin)
    if not is_whole(batch) or batch < 1:
        raise ValueError(f"batch is {batch!r}; give a whole number of images per step, 1 or more")
    threshold = base.flat_below()
    adam = PixelAdam(torch.full_like(images[:1], GREY), eps, momentum=momentum)
    generator, order = torch.Generator().manual_seed(seed), []
    try:
        for step in range(steps):
            while len(order) < min(batch, len(images)):  # each image comes once before any comes again
                order += torch.randperm(len(images), generator=generator).tolist()
            seen, order = images[order[:batch]], order[batch:]
            pattern = _pattern(adam).requires_grad_()
            z = base.pre_activations((seen + pattern).clamp(0, 1))
            grad = gradient(hinge(z - threshold, margin).sum(), pattern, step)
            if on_step is not None:
                on_step(step, pattern.detach(), count_nonzero(base.rest(z.detach())))
            adam.step(grad, step_size * half_cosine(step, steps))
    except KeyboardInterrupt:
        pass
    return _pattern(adam)


def _pattern(adam: PixelAdam) -> Tensor:
    """The change so far on whole levels: the difference of two quantised images is not, to the last bit."""
    return from_levels(((adam.quantized() - GREY) * 255).round())


def add(images: Tensor, pattern: Tensor) -> Tensor:
    """Images (N, 3, H, W) with the pattern (1, 3, H, W) added: clamped to [0, 1], on the 8-bit grid.

    Raises ValueError or TypeError for bad images or a pattern of another size.
    """
    check_images(images)
    if not isinstance(pattern, Tensor) or pattern.shape != (1, *images.shape[1:]):
        shape = tuple(pattern.shape) if isinstance(pattern, Tensor) else type(pattern).__name__
        raise ValueError(f"the pattern is {shape}; for these images give a tensor {(1, *images.shape[1:])}")
    return to_grid((images + pattern.to(images)).clamp(0, 1))
