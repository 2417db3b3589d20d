"""Adam on pixels within a budget: the step of every attack here."""

import math

import torch
from torch import Tensor

from helpers.images import from_levels, to_grid

NORMS = ("linf", "l2")
BETA2 = 0.99  # memory of squared gradients, for runs of some hundred steps (Adam's own 0.999 is for thousands)


def half_cosine(step: int, steps: int) -> float:
    """Share of a step size that falls from 1 at step 0 to 0 at `steps` on half a cosine."""
    return (1 + math.cos(math.pi * step / steps)) / 2


class PixelAdam:
    """Images that move by the steps of torch.optim.Adam and stay within a budget and [0, 1].

    images (Tensor): where they start, (N, 3, H, W) on the 8-bit grid; not modified.
    eps (float): budget. norm "linf": of each pixel, in units of [0, 1], rounded down to whole 1/255;
        norm "l2": length of an image's whole change in the same units.
    norm (str): "linf" or "l2". (Default: "linf")
    momentum (float): Adam's first moment. (Default: 0.9)
    """

    def __init__(self, images: Tensor, eps: float, norm: str = "linf", momentum: float = 0.9) -> None:
        self.original = images.clone(memory_format=torch.channels_last)
        self.x = self.original.clone()  # not rounded
        self.radius = eps if norm == "l2" else None
        per_pixel = 1.0 if norm == "l2" else math.floor(eps * 255 + 1e-3) / 255
        self.low, self.high = (self.x - per_pixel).clamp_(min=0), (self.x + per_pixel).clamp_(max=1)
        self.adam = torch.optim.Adam([self.x], betas=(momentum, BETA2), eps=1e-12)

    def random_start(self, generator: torch.Generator) -> None:
        """Move to a uniformly random place in the budget; generator: of the CPU, so that every device gets the same."""
        share = torch.rand(self.x.shape, generator=generator).to(self.x)
        self.x.copy_(self.low + (self.high - self.low) * share)
        self.project()

    def quantized(self) -> Tensor:
        """The images on the 8-bit grid, within the budget too."""
        if self.radius is None:
            return to_grid(self.x)
        # Rounding each change towards zero cannot make it longer.
        return to_grid(self.original + from_levels(((self.x - self.original) * 255).trunc_()))

    def step(self, grad: Tensor, step_size: float) -> None:
        """One step against the gradient (N, 3, H, W); at first each pixel moves by about step_size."""
        self.x.grad = grad
        self.adam.param_groups[0]["lr"] = step_size
        self.adam.step()
        self.project()

    def project(self) -> None:
        """Move to the nearest images within the budget and [0, 1]."""
        self.x.clamp_(self.low, self.high)
        if self.radius is not None:
            delta = self.x - self.original
            length = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
            self.x.copy_(self.original + delta * (self.radius / (length + 1e-12)).clamp(max=1))

    def keep(self, which: Tensor) -> None:
        """Drop all images but these; which: (N,) of bool."""
        state = self.adam.state.pop(self.x, {})
        for name in ("original", "x", "low", "high"):
            setattr(self, name, getattr(self, name)[which])
        self.adam.param_groups[0]["params"] = [self.x]
        self.adam.state[self.x] = {key: value[which] if value.ndim else value for key, value in state.items()}
