"""The zero-out attack: its loop.

Minimising features is not new (Wang et al. 2018, PhotoGuard 2023). What reaches exactly zero in the saved 8-bit file in
few steps builds on three older ideas: a loss on the pre-activations with a margin (the confidence of Carlini & Wagner
2017), quantisation inside the loop (DDN, Rony et al. 2019), and weights that grow with the number of steps in which a
unit was active, which is the dual ascent of augmented-Lagrangian attacks (ALMA, Rony et al. 2021) in a plain form.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from numbers import Real

import torch
from torch import Tensor, nn

from helpers.base import Base, check_base
from helpers.images import check_grid, is_whole, to_grid
from helpers.optimizer import FALL, NORMS, LeastVisible, PixelAdam, half_cosine
from helpers.result import Best, Result
from helpers.runtime import full_float32
from helpers.visibility import local_contrast

Loss = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]
FLOOR = 1 / 16  # share of the step size that stays: see `schedule`
POWER = 1.5  # of the growth of weights: at 1 the most stubborn units fall too late, at 2 others rise again
STOP_FRACTION = 0.2  # share of the margin at which an image is done: more than other arithmetic moves


def hinge(z: Tensor, margin: float) -> Tensor:
    """Hinge per unit on relu(z + margin), with a rounded corner: quadratic up to 2 * margin, linear above.

    Unlike the output it has a gradient for inactive units within the margin; the corner is rounded because at a sharp
    one the last units go back and forth.
    """
    distance = torch.relu(z + margin)
    return nn.functional.smooth_l1_loss(distance, torch.zeros_like(distance), beta=2 * margin, reduction="none")


@full_float32()
@torch.inference_mode(False)
@torch.enable_grad()
def zero_out(
    base: Base,
    images: Tensor,
    *,
    eps: float | None = 8 / 255,
    norm: str = "linf",
    pixel_weight: Tensor | None = None,
    steps: int | None = None,
    step_size: float = 16 / 255,
    momentum: float = 0.8,
    margin: float = 1.0,
    weight_growth: float = 1.0,
    loss: Loss = hinge,
    random_start: bool = False,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
    batch: int = 16,
    on_step: OnStep | None = None,
) -> Result:
    """Change an image until every feature of the base is exactly zero: within a budget, or as little as can be seen.

    base (Base): the network; the attack runs on its device.
    images (Tensor): (N, 3, H, W) in [0, 1], on the 8-bit grid; not modified.
    eps (float): budget per pixel in [0, 1], rounded down to whole 1/255; with norm "l2", length of the whole change
        of an image in the same units; None: no budget, the least visible change that was found. (Default: 8/255)
    norm (str): "linf" or "l2", of a budget. (Default: "linf")
    pixel_weight (Tensor): how far pixels may change beside one another, 0 or more, (H, W) or of another shape that fits
        images; a budget is multiplied by it, and 0 keeps a pixel as it is. (Default: 1 everywhere; without a budget
        local_contrast(images))
    steps (int): gradient steps at most; without a budget all are taken. (Default: 150, without a budget 200)
    step_size (float): of the first step, then falling, see `schedule`. (Default: 16/255)
    momentum (float): Adam's first moment. (Default: 0.8)
    margin (float): how far below the threshold (0 for a ReLU) pre-activations are pushed. (Default: 1.0)
    weight_growth (float): a unit that was active in n steps has the loss weight (1 + weight_growth * n) ** 1.5; 0 gives
        all units the same weight. (Default: 1.0)
    loss (callable): (pre-activations minus threshold, margin) -> loss per unit. (Default: hinge)
    random_start (bool): start at a uniformly random place in the budget. (Default: False)
    seed (int): of the random start. (Default: 0)
    precision (torch.dtype): of the search; float16 or bfloat16 may be faster on a GPU. Verdicts are always float32.
        (Default: torch.float32)
    batch (int): images attacked at a time. (Default: 16)
    on_step (callable): on_step(step, images, nonzero) sees the quantised images of the batch and their features left.

    An image is done when its features are zero and a fifth of the margin is reached. Of every image the best
    quantised form is returned: fewest features left, then largest margin. Without a budget nothing is done early: the
    change becomes shorter while the image is zero, longer while it is not, and the shortest is returned.
    Raises ValueError or TypeError for bad input before any work; ValueError for a loss whose gradient is not finite
    or all zero; torch.OutOfMemoryError with the remedy.
    """
    steps = steps if steps is not None else 200 if eps is None else 150
    images = check_attack(
        base, images, 1 if eps is None else eps, norm, steps,
        step_size=step_size, momentum=momentum, margin=margin, weight_growth=weight_growth,
    )  # fmt: skip
    check_search(base, loss, precision, batch)
    if pixel_weight is None:
        pixel_weight = local_contrast(images) if eps is None else torch.ones_like(images)
    pixel_weight = check_weight(pixel_weight, images)
    generator, threshold = torch.Generator().manual_seed(seed), base.threshold or 0.0
    best = Best(base, images, STOP_FRACTION * margin, precision)
    with best.interruptible(), memory_error(images, batch):
        for places in torch.arange(len(images), device=images.device).split(batch):
            together, active_steps = places, 0
            start, room = images[places], pixel_weight[places]
            if eps is None:
                change = LeastVisible(start, momentum, room, steps)
            else:
                change = PixelAdam(start, eps, norm, momentum, room)
            if random_start:
                change.random_start(generator)
            for step in range(steps + 1):
                quantized = change.quantized().requires_grad_()
                z = best.pre_activations(quantized)  # VGG-16: (N, 512, 14, 14)
                done = best.update(places, quantized.detach(), z.detach(), change.length())  # (N,) of bool
                going = change.go_on(done, step)
                if on_step is not None:
                    on_step(step, *best.now(together))
                if step == steps or not going.any():
                    break
                # Without growing weights, a few stubborn units are outvoted by the many within the margin.
                weight = (1 + weight_growth * active_steps) ** POWER
                # The gradient at the quantised image moves the image itself (straight-through): the file counts.
                grad = gradient((weight * loss(z - threshold, margin)).sum(), quantized, step)
                if step == 0 and loss is not hinge and not grad.any():
                    raise ValueError("the gradient of the loss is zero; it must grow with the pre-activations")
                active_steps = active_steps + (z.detach() > threshold)
                if not going.all():
                    change.keep(going)
                    places, grad, active_steps = places[going], grad[going], active_steps[going]
                change.step(grad, step_size * schedule(step))
    return best.result()


@contextmanager
def memory_error(images: Tensor, batch: int) -> Iterator[None]:
    """Raise torch.OutOfMemoryError with the remedy where memory ends; only CUDA has a class of its own for it."""
    try:
        yield
    except RuntimeError as error:
        if not any(text in str(error) for text in ("out of memory", "not enough memory")):
            raise
        size = f"batches of {min(batch, len(images))} images of {images.shape[-1]} x {images.shape[-2]}"
        remedy = f"do not fit into the memory of {images.device}; give a smaller batch="
        raise torch.OutOfMemoryError(f"{size} {remedy}") from error


def schedule(step: int) -> float:
    """Share of the step size: it falls from 1 on half a cosine, then stays at a sixteenth (1/255 by default).

    It does not depend on the number of steps allowed, so a longer run repeats a shorter one and goes on.
    """
    return max(half_cosine(step, FALL), FLOOR)


def check_attack(base: Base, images: Tensor, eps: float, norm: str, steps: int, **numbers: float) -> Tensor:
    """Raise ValueError or TypeError for bad settings of an attack; return the images on the base's device.

    numbers: step_size, margin, weight_growth (0 or more) and momentum (0 up to, but below, 1), as far as it has them.
    """
    check_grid(images)
    check_base(base)
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; give one of {', '.join(NORMS)}")
    for name, value in {"eps": eps, **numbers}.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value!r}; give one number of at least 0")
    if numbers.get("momentum", 0) >= 1:
        raise ValueError(f"momentum is {numbers['momentum']}; give a number below 1")
    if numbers.get("step_size", 0) > 1000:  # in time beyond float32
        raise ValueError(f"step_size is {numbers['step_size']}; a step of 1 already crosses the range of a pixel")
    if not is_whole(steps) or steps < 0:
        raise ValueError(f"steps is {steps!r}; give a whole number, 0 or more")
    check_budget(eps, norm, images[0].numel())
    return to_grid(images.detach().to(base.mean.device))  # as this device divides by 255


def check_budget(eps: float, norm: str, values: int) -> None:
    """Raise ValueError for a budget outside [0, 1] or too small to move a pixel; values: numbers of an image."""
    if norm == "linf" and eps > 1:
        raise ValueError(f"eps is {eps}; it is a share of [0, 1], for example {min(eps, 255):g}/255")
    if norm == "linf" and 0 < eps < 0.999 / 255:
        raise ValueError(f"eps is {eps:g}, less than one of 255 grey levels; an 8-bit file cannot hold it")
    if norm == "l2" and 0 < eps < values**0.5 / 255 / 8:
        raise ValueError(
            f"eps is {eps:g}; with norm='l2' it is the length of the whole change, and this one is too short to move "
            f"pixels by a grey level; give for example {values**0.5 * 5 / 255:.2g}"
        )


def check_weight(pixel_weight: Tensor, images: Tensor) -> Tensor:
    """Raise ValueError unless weights of pixels fit the images; return them in the images' shape."""
    try:
        weight = torch.as_tensor(pixel_weight, dtype=torch.float32, device=images.device).expand_as(images)
    except (RuntimeError, TypeError, ValueError) as error:
        shape = getattr(pixel_weight, "shape", pixel_weight)
        raise ValueError(f"pixel_weight is {shape}; give a tensor that fits {tuple(images.shape)}") from error
    if not (weight.isfinite() & (weight >= 0)).all() or not weight.flatten(1).any(1).all():
        raise ValueError("pixel_weight is negative, not finite or 0 everywhere; give weights of 0 or more")
    return weight


def check_search(base: Base, loss: Loss, precision: torch.dtype, batch: int) -> None:
    """Raise ValueError for what only zero_out has: see there."""
    if base.threshold is None and loss is hinge:
        raise ValueError(
            f"{base.name} does not end in an activation with a flat part, so its output cannot be exactly zero; "
            "to come near, give loss=lambda z, margin: z**2"
        )
    if precision not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"precision is {precision}; give torch.float32, torch.float16 or torch.bfloat16")
    if not is_whole(batch) or batch < 1:
        raise ValueError(f"batch is {batch!r}; give a whole number of images, 1 or more")


def gradient(loss: Tensor, images: Tensor, step: int) -> Tensor:
    """The gradient of a loss on images; step: for the message. Raise ValueError unless it exists and is finite."""
    if not loss.requires_grad:
        raise ValueError("the loss does not depend on the pre-activations, so it has no gradient")
    (grad,) = torch.autograd.grad(loss, images)
    if not grad.isfinite().all():
        raise ValueError(f"the gradient of the loss is not finite at step {step}; look for roots and logarithms of 0")
    return grad
