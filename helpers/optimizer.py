"""Adam on pixels: within a budget, or with a change that is shortened step by step."""

import math

import torch
from torch import Tensor, nn

from helpers.images import from_levels, to_grid

NORMS = ("linf", "l2")
FALL = 50  # steps in which the step size falls to a small share
BETA2 = 0.99  # memory of squared gradients, for runs of some hundred steps (Adam's own 0.999 is for thousands)
# Axes of colour, and the share that a change may have along each: brightness, red against cyan, green against blue.
# SSIMULACRA2 penalises noise in brightness less than equal noise between green and blue, and most of a gradient lies
# along brightness.
AXES = torch.tensor([[1.0, 1, 1], [2, -1, -1], [0, 1, -1]])
SHARES = torch.tensor([1.0, 0.5, 0.25])
START = 0.02  # first length of a least visible change, per value
SHRINK, GROW, LAST = 0.03, 0.02, 0.15  # shares of its length per step, times a factor that falls from 1 to LAST


def half_cosine(step: int, steps: int) -> float:
    """The share of a step size: half a cosine that falls from 1 at step 0 and before to 0 at `steps` and after."""
    return (1 + math.cos(math.pi * min(max(step, 0), steps) / steps)) / 2


def lengths(changes: Tensor) -> Tensor:
    """The Euclidean length of each change (N, 3, H, W), as (N, 1, 1, 1)."""
    return torch.linalg.vector_norm(changes, dim=(1, 2, 3), keepdim=True)


class PixelAdam:
    """Images that torch.optim.Adam moves within a budget and [0, 1].

    images (Tensor): the start, (N, 3, H, W) on the 8-bit grid; not modified.
    eps (float): budget in units of [0, 1]: the largest change of a value, rounded down to whole 1/255 ("linf"), or the
        length of an image's whole change ("l2").
    norm (str): "linf" or "l2". (Default: "linf")
    momentum (float): decay of Adam's first moment. (Default: 0.9)
    weight (Tensor): share of the budget for each value, of a shape like images; 0 keeps a pixel. (Default: all 1)
    """

    def __init__(
        self, images: Tensor, eps: float, norm: str = "linf", momentum: float = 0.9, weight: Tensor | None = None
    ) -> None:
        self.original = images.clone(memory_format=torch.channels_last)
        self.weight = torch.ones_like(self.original) if weight is None else weight.expand_as(images)
        self.x = self.original.clone()  # not rounded
        self.radius = eps if norm == "l2" else None
        budget = (self.weight > 0).float() if norm == "l2" else from_levels((eps * self.weight * 255 + 1e-3).floor())
        self.low, self.high = (self.x - budget).clamp_(min=0), (self.x + budget).clamp_(max=1)
        self.adam = torch.optim.Adam([self.x], betas=(momentum, BETA2), eps=1e-12)

    def random_start(self, generator: torch.Generator) -> None:
        """Move to a uniformly random place in the budget. generator: on the CPU, so that all devices draw the same."""
        share = torch.rand(self.x.shape, generator=generator).to(self.x)
        self.x.copy_(self.low + (self.high - self.low) * share)
        self.project()

    def quantized(self) -> Tensor:
        """The images rounded to the 8-bit grid, still within the budget."""
        if self.radius is None:
            return to_grid(self.x)
        # Rounding each change towards zero cannot make it longer.
        return to_grid(self.original + from_levels(((self.x - self.original) * 255).trunc_()))

    def length(self) -> None:
        """None: within a budget, a shorter change is not better."""

    def go_on(self, done: Tensor, step: int) -> Tensor:
        """Which images need another step: those that are not done. done: (N,) of bool."""
        return ~done

    def step(self, grad: Tensor, step_size: float) -> None:
        """One step against the gradient (N, 3, H, W); the first step moves each value by about step_size."""
        self.x.grad = grad
        self.adam.param_groups[0]["lr"] = step_size
        self.adam.step()
        self.project()

    def project(self) -> None:
        """Move to the nearest images within the budget and [0, 1]."""
        self.x.clamp_(self.low, self.high)
        if self.radius is not None:
            delta = self.x - self.original
            length = lengths(delta / self.weight.clamp(min=1e-6))
            self.x.copy_(self.original + delta * (self.radius / (length + 1e-12)).clamp(max=1))

    def keep(self, which: Tensor) -> None:
        """Keep these images and drop the others. which: (N,) of bool."""
        state = self.adam.state.pop(self.x, {})
        for name in ("original", "weight", "x", "low", "high"):
            setattr(self, name, getattr(self, name)[which])
        self.adam.param_groups[0]["params"] = [self.x]
        self.adam.state[self.x] = {key: value[which] if value.ndim else value for key, value in state.items()}


class LeastVisible:
    """Images whose change becomes shorter while they are zero and longer while they are not (DDN, Rony et al. 2019).

    The change is weight * colours(u), and the length of u counts as its length.
    images (Tensor): the start, (N, 3, H, W) on the 8-bit grid; not modified.
    momentum (float): decay of Adam's first moment.
    weight (Tensor): how far each value may move relative to the others, of a shape like images; 0 keeps a pixel.
    steps (int): of the whole run.
    """

    def __init__(self, images: Tensor, momentum: float, weight: Tensor, steps: int) -> None:
        self.original, self.falling = images, max(steps - FALL, 1)
        self.weight = weight / weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        axes = nn.functional.normalize(AXES).to(images)
        self.mix = axes.T * SHARES.to(images) @ axes  # (3, 3), symmetric
        self.u = torch.zeros_like(images)
        self.radius = torch.full_like(lengths(images), START * math.sqrt(images[0].numel()))
        self.adam = torch.optim.Adam([self.u], betas=(momentum, BETA2), eps=1e-12)

    def random_start(self, generator: torch.Generator) -> None:
        """Move to a uniformly random change of about the first length. generator: on the CPU."""
        self.u.copy_((2 * torch.rand(self.u.shape, generator=generator).to(self.u) - 1) * START)

    def colours(self, u: Tensor) -> Tensor:
        """u (N, 3, H, W) with each axis of colour scaled by its share."""
        return torch.einsum("ij,njhw->nihw", self.mix, u)

    def quantized(self) -> Tensor:
        """The images rounded to the 8-bit grid."""
        return to_grid((self.original + self.weight * self.colours(self.u)).clamp(0, 1))

    def length(self) -> Tensor:
        """The length of each change, (N,)."""
        return lengths(self.u).flatten()

    def go_on(self, done: Tensor, step: int) -> Tensor:
        """Shorten the changes of images that are done and lengthen the others; all (N,) need another step."""
        self.share = max(half_cosine(step - FALL, self.falling), LAST)
        shorter = self.radius.minimum(lengths(self.u)) * (1 - SHRINK * self.share)
        longer = self.radius * (1 + GROW * self.share * (step >= FALL))
        self.radius = torch.where(done.view(-1, 1, 1, 1), shorter, longer)
        return torch.ones_like(done)

    def step(self, grad: Tensor, step_size: float) -> None:
        """One step against the gradient (N, 3, H, W)."""
        self.u.grad = self.colours(self.weight * grad)
        self.adam.param_groups[0]["lr"] = step_size * self.share
        self.adam.step()
        self.u *= (self.radius / (lengths(self.u) + 1e-12)).clamp(max=1)
