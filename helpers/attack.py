"""The zero-out attack: its loop and its result.

Minimising features is not new (Wang et al. 2018, PhotoGuard 2023); reaching exactly zero,
in the saved 8-bit file, needs a slope where the output is flat (`hinge`), the forward pass on
rounded pixels, and weights that grow on the units that stay awake (both in `_Search`).
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers.base import Base, check_base
from helpers.certificate import Certificate, certify, count_nonzero, main, nonzero_and_margin, room
from helpers.images import check_images, check_number, is_whole, on_grid
from helpers.runtime import use_bfloat16
from helpers.walk import NORMS, Walk, half_cosine

__all__ = ["Certificate", "Result", "certify", "hinge", "zero_out"]

Loss = Callable[[Tensor, float], Tensor]
OnStep = Callable[[int, Tensor, Tensor], None]
CYCLE = 60  # steps of the first cycle of step sizes
SPARE = 0.05  # share of the margin that the search must reach before a picture may count as done
SURE = 0.01  # share of it that float32 must confirm: ten times what other arithmetic moves (notebook 07)


def hinge(z: Tensor, margin: float) -> Tensor:
    """What each pre-activation z, less the base's threshold, lacks to lie `margin` below zero.

    It has a slope where the output has none.
    """
    return torch.relu(z + margin)


@dataclass
class Result:
    """Pictures after the attack, and how far it came.

    images: (N, 3, H, W) on the 8-bit grid. nonzero: outputs left per picture of `outputs`,
    counted in float32 on those images. margin: how far the largest pre-activation lies below
    the base's threshold (negative: above), or where it has none, minus the largest output in
    size. steps: gradient steps until then. history: for each picture the outputs left after
    0, 1, 2, ... steps. original: the pictures given.
    """

    images: Tensor
    original: Tensor
    nonzero: list[int]
    margin: list[float]
    steps: list[int]
    outputs: int
    history: list[list[int]] = field(repr=False)

    def __str__(self) -> str:
        zeroed = sum(n == 0 for n in self.nonzero)
        left = ", ".join(f"{n:,}" for n in self.nonzero)
        return f"{zeroed} of {len(self.nonzero)} pictures zeroed; outputs left of {self.outputs:,}: {left}"


def zero_out(
    base: Base,
    images: Tensor,
    *,
    eps: float = 8 / 255,
    norm: str = "linf",
    steps: int = 150,
    step_size: float = 16 / 255,
    momentum: float = 0.9,
    margin: float = 1.0,
    focus: float = 1.0,
    loss: Loss = hinge,
    random_start: bool = False,
    seed: int = 0,
    autocast: bool | None = None,
    on_step: OnStep | None = None,
) -> Result:
    """Change each pixel by at most eps until every output of the base is exactly zero.

    images: (N, 3, H, W) in [0, 1] on the 8-bit grid; never modified. eps: budget per pixel in
    units of [0, 1], rounded down to whole 1/255; norm "l2": length of a picture's whole change
    in the same units. steps: gradient steps at most. step_size: of a cycle's first step, then
    falling (see `cosine`). momentum: Adam's first moment. margin: how far below the base's
    threshold (0 for a ReLU) pre-activations are pushed. focus: growth per step of the weight of
    units that are still awake (0: none). loss: (pre-activations less the threshold, margin) ->
    loss of each unit. random_start: begin anywhere in the budget. autocast: search in bfloat16
    (None: where the machine computes it natively); the verdict is always float32.
    on_step(step, images, nonzero) sees the rounded pictures and their counts; what it raises ends
    the attack, and KeyboardInterrupt ends it with the best pictures so far.

    A picture leaves the batch as soon as its rounded form is verified to be zero. Otherwise
    its best rounded form is returned: fewest outputs, then largest margin. Raises ValueError
    or TypeError for bad input before any work.
    """
    images = check_attack(base, images, eps, steps, step_size, momentum, margin, focus, norm)
    steps = int(steps)  # what NumPy's numbers compare to is no bool
    search = _Search(base, images, eps, norm, margin, loss, autocast)
    if random_start:
        search.walk.scatter(seed)
    try:
        for step in range(steps + 1):
            z, slope = search.look(need_slope=step < steps)
            if on_step is not None:
                on_step(step, *search.now())
            if search.finished(step, last=step == steps):
                break
            rate = step_size * cosine(step, steps)
            search.move(z, slope, rate, momentum, focus)
    except KeyboardInterrupt:
        pass  # what was reached so far is worth having
    except torch.OutOfMemoryError as error:
        size = f"{len(images)} pictures of {images.shape[-1]} x {images.shape[-2]}"
        raise torch.OutOfMemoryError(
            f"{size} do not fit into the memory of {images.device}; give fewer at a time"
        ) from error
    return search.result()


def cosine(step: int, steps: int) -> float:
    """Share of the step size: from 1 to 0 on a cosine in CYCLE steps, then from 1/4 in twice as many, and so on.

    Warm restarts (Loshchilov & Hutter 2017): easy pictures are done in the first cycle, and hard ones get
    more. The last cycle is cut so that it ends with the run.
    """
    start, length = 0, CYCLE
    while step >= start + length:
        start, length = start + length, 2 * length
    peak = 1 if start == 0 else 1 / 4
    return peak * half_cosine(step - start, min(length, steps - start))


def check_attack(
    base: Base,
    images: Tensor,
    eps: float,
    steps: int,
    step_size: float,
    momentum: float,
    margin: float,
    focus: float,
    norm: str = "linf",
) -> Tensor:
    """Raise one clear error for bad input; return the images on the base's device, without their history."""
    check_images(images)
    if not on_grid(images):
        raise ValueError("images are not on the 8-bit grid; round them with to_grid, as a PNG file would")
    check_base(base)
    if norm not in NORMS:
        raise ValueError(f"norm is {norm!r}; give one of {', '.join(NORMS)}")
    numbers = {"eps": eps, "step_size": step_size, "momentum": momentum, "margin": margin, "focus": focus}
    for name, value in numbers.items():
        check_number(name, value)
    if norm == "linf" and not 0 <= eps <= 1:
        raise ValueError(f"eps is {eps}; it is a share of [0, 1], for example {min(abs(eps), 255):g}/255")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps is {eps}; in the norm l2 give a length of at least 0, for example 5")
    if 0 < eps < 0.999 / 255:
        raise ValueError(f"eps is {eps:g}, less than one of 255 grey levels; an 8-bit file cannot hold it")
    if not is_whole(steps) or steps < 0:
        raise ValueError(f"steps is {steps!r}; give a whole number, 0 or more")
    for name, value in {"step_size": step_size, "margin": margin, "focus": focus}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; give a number of at least 0")
    if step_size > 1000:  # far beyond any picture, and in time beyond float32
        raise ValueError(f"step_size is {step_size}; a step of 1 already crosses the whole range of a pixel")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum is {momentum}; give a number from 0 up to, but below, 1")
    return images.detach().to(base.mean.device)


class _Search:
    """The pictures still in work, of which finished ones are dropped, and the best of each so far."""

    def __init__(
        self, base: Base, images: Tensor, eps: float, norm: str, margin: float, loss: Loss, autocast: bool | None
    ) -> None:
        if base.threshold is None and loss is hinge:
            raise ValueError(
                f"{base.name} does not end in an activation with a flat part, so its output cannot be exactly "
                "zero; to come near, give loss=lambda z, margin: z**2"
            )
        self.base, self.loss, self.margin, self.original = base, loss, margin, images
        self.threshold = base.threshold or 0.0
        self.device = images.device.type
        self.autocast = use_bfloat16(images.device, autocast)
        self.walk, self.weight = Walk(images, eps, norm), torch.ones((), device=images.device)
        self.alive = list(range(len(images)))
        self.outputs = math.prod(base.feature_shape)
        self.best = images.clone()
        self.best_count = torch.full((len(images),), torch.inf, device=images.device)
        self.best_margin = torch.full_like(self.best_count, -torch.inf)
        self.counts: list[tuple[list[int], Tensor]] = []

    def look(self, need_slope: bool) -> tuple[Tensor, Tensor | None]:
        """Forward on the rounded pixels; note the best. Return pre-activations and the loss's slope."""
        # The slope is taken at the rounded picture and applied to the unrounded one (straight-through
        # rounding): what counts is the file, and the count needs no forward pass of its own.
        rounded = self.walk.rounded().requires_grad_(need_slope)
        with torch.set_grad_enabled(need_slope), torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            z = self.base.pre_activations(rounded)
        with torch.set_grad_enabled(need_slope):  # also where the caller has switched gradients off
            z = z.float()
            self._note(rounded.detach(), z.detach())
            if not need_slope:
                return z, None
            losses = self.loss(z - self.threshold, self.margin) * self.weight
            return z.detach(), torch.autograd.grad(losses.sum(), rounded)[0]

    def _note(self, rounded: Tensor, z: Tensor) -> None:
        features = self.base.rest(z)
        self.outputs = features[0].numel()  # of pictures of this size
        count = count_nonzero(features).float()
        margin = room(self.base, z)
        old_count, old_margin = self.best_count[self.alive], self.best_margin[self.alive]
        better = (count < old_count) | (count == old_count) & (margin > old_margin)
        self.best[self.alive] = torch.where(better.view(-1, 1, 1, 1), rounded, self.best[self.alive])
        self.best_count[self.alive] = torch.where(better, count, old_count)
        self.best_margin[self.alive] = torch.where(better, margin, old_margin)
        self.counts.append((list(self.alive), count))
        self.rounded = rounded

    def now(self) -> tuple[Tensor, Tensor]:
        """All pictures as they are now (finished ones as they finished) and their counts."""
        images, counts = self.best.clone(), self.best_count.clone()
        images[self.alive], counts[self.alive] = self.rounded, self.counts[-1][1]
        return images, counts.long()

    def finished(self, step: int, last: bool) -> bool:
        """Verify in float32 what looks zero, drop it, and tell whether nothing is left to do."""
        every = 1 if self.device == "cpu" else 10  # reading a count makes a GPU wait
        if last or step % every:
            return last
        ready = (self.best_count == 0) & (self.best_margin >= SPARE * self.margin)
        ready = [i for i in self.alive if ready[i]]
        if ready:
            count, margin = nonzero_and_margin(self.base, self.best[ready])
            self.best_count[ready], self.best_margin[ready] = count.float(), margin
            sure = (count == 0) & (margin >= SURE * self.margin)
            done = {i for i, enough in zip(ready, sure.tolist(), strict=True) if enough}
            keep = [place for place, i in enumerate(self.alive) if i not in done]
            self.walk.keep(keep)
            self.weight = self.weight[keep] if self.weight.ndim else self.weight
            self.alive = [self.alive[place] for place in keep]
        return not self.alive

    def move(self, z: Tensor, slope: Tensor, rate: float, momentum: float, focus: float) -> None:
        """One step of the pictures that are left, then weigh stubborn units up."""
        keep = [i for i, alive in enumerate(self.counts[-1][0]) if alive in set(self.alive)]
        if len(keep) < len(z):
            z, slope = z[keep], slope[keep]
        self.walk.move(slope, rate, momentum)
        # A unit that is awake now counts more from now on: without it, a few stubborn ones are
        # outvoted by the many that sleep within the margin.
        self.weight = self.weight + focus * (z > self.threshold)

    def result(self) -> Result:
        """The best pictures, judged once more in float32."""
        count, margin = nonzero_and_margin(self.base, self.best)
        history: list[list[int]] = [[] for _ in self.best]
        for alive, counts in self.counts:
            for i, number in zip(alive, counts.tolist(), strict=True):
                history[i].append(int(number))
        steps = [max(len(numbers) - 1, 0) for numbers in history]
        return Result(self.best, self.original, count.tolist(), margin.tolist(), steps, self.outputs, history)


if __name__ == "__main__":
    sys.exit(main())
