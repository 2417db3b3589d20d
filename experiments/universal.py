"""One pattern for many images: added to any of them, it lowers the pre-activations of the last layer.

Universal perturbations: Moosavi-Dezfooli et al. 2017; without labels, from activations alone: Mopuri et al. 2017.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from helpers.attack import check_attack, gradient, hinge
from helpers.base import Base
from helpers.images import check_images, from_levels, to_grid
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
    margin: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Return one pattern (1, 3, H, W) that lowers the pre-activations of all images; give it to `add`.

    base, images, margin: as in zero_out.
    eps (float): largest value of the pattern in units of [0, 1]; its values are whole 1/255. (Default: 16/255)
    steps (int): gradient steps. (Default: 100)
    batch (int): images per step, in an order drawn with the seed. (Default: 4)
    step_size (float): of the first step; it falls to zero on half a cosine. (Default: 16/255)
    seed (int): of the order of the images. (Default: 0)
    Raises ValueError or TypeError for bad input before any work.
    """
    images = check_attack(base, images, eps, "linf", steps, step_size=step_size, margin=margin)
    threshold, batches = base.flat_below(), shuffled(images, batch, seed)
    adam = PixelAdam(torch.full_like(images[:1], GREY), eps)
    for step in range(steps):
        pattern = whole_levels(adam).requires_grad_()
        z = base.pre_activations((next(batches) + pattern).clamp(0, 1))
        grad = gradient(hinge(z - threshold, margin).sum(), pattern, step)
        adam.step(grad, step_size * half_cosine(step, steps))
    return whole_levels(adam)


def shuffled(images: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches; each image comes once before any comes again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from images[torch.randperm(len(images), generator=generator)].split(batch)


def whole_levels(adam: PixelAdam) -> Tensor:
    """The change so far in whole 1/255; the difference of two quantised images is off in the last bit."""
    return from_levels(((adam.quantized() - GREY) * 255).round())


def add(images: Tensor, pattern: Tensor) -> Tensor:
    """Images (N, 3, H, W) with the pattern (1, 3, H, W) added: clamped to [0, 1], on the 8-bit grid."""
    check_images(images)
    return to_grid((images + pattern.to(images)).clamp(0, 1))
