"""Pictures on their way through a budget, for every attack here: Adam's steps, then back into the budget."""

import math

import torch
from torch import Tensor

from helpers.images import from_levels, to_grid

NORMS = ("linf", "l2")
SECOND_MOMENT = 0.99  # Adam's memory of squared gradients, in a run of some hundred steps
BRAKE = 0.5  # share of its momentum that a pixel keeps at an edge: all of it would hold it there when the slope turns


def half_cosine(step: int, steps: int) -> float:
    """Share of a step size that falls from 1 at step 0 to 0 at `steps` on half a cosine."""
    return (1 + math.cos(math.pi * step / steps)) / 2


class Walk:
    """Pictures that move, at most eps from where they start, by Adam (Kingma & Ba 2015).

    x: (N, 3, H, W), not rounded, always within the budget and [0, 1]. norm: "linf", no pixel changes by more
    than eps, rounded down to whole 1/255; or "l2", the root of all squared changes of a picture is at most eps.
    """

    def __init__(self, images: Tensor, eps: float, norm: str = "linf") -> None:
        self.x = images.clone(memory_format=torch.channels_last)
        self.radius = None if norm == "linf" else eps
        budget = 1.0 if self.radius is not None else math.floor(eps * 255 + 1e-3) / 255
        self.low, self.high = (self.x - budget).clamp_(min=0), (self.x + budget).clamp_(max=1)
        self.origin = self.x.clone()
        self.first, self.second, self.moves = torch.zeros_like(self.x), torch.zeros_like(self.x), 0

    def scatter(self, seed: int) -> None:
        """Begin anywhere in the budget; the same place on every device."""
        where = torch.rand(self.x.shape, generator=torch.Generator().manual_seed(seed)).to(self.x)
        self.x.copy_(self.low + (self.high - self.low) * where)
        self._into_the_ball()

    def keep(self, places: list[int]) -> None:
        """Drop the other pictures."""
        for name in ("x", "low", "high", "origin", "first", "second"):
            setattr(self, name, getattr(self, name)[places])

    def rounded(self) -> Tensor:
        """The pictures on the 8-bit grid, within the budget too."""
        if self.radius is None:
            return to_grid(self.x)
        # Rounding each change towards nothing cannot make the root of all squares larger.
        return to_grid(self.origin + from_levels(((self.x - self.origin) * 255).trunc_()))

    def move(self, slope: Tensor, rate: float, momentum: float) -> None:
        """One step against the slope (N, 3, H, W): at first each pixel moves by about rate."""
        self.moves += 1
        self.first.lerp_(slope, 1 - momentum)
        self.second.lerp_(slope.square(), 1 - SECOND_MOMENT)
        scale = (self.second / (1 - SECOND_MOMENT**self.moves)).sqrt_().add_(1e-12)
        self.x.addcdiv_(self.first, scale, value=-rate / (1 - momentum**self.moves))
        self.first.mul_(torch.where((self.x < self.low) | (self.x > self.high), BRAKE, 1.0))
        torch.clamp(self.x, self.low, self.high, out=self.x)
        self._into_the_ball()

    def _into_the_ball(self) -> None:
        if self.radius is not None:
            change = self.x - self.origin
            length = torch.linalg.vector_norm(change, dim=(1, 2, 3), keepdim=True)
            torch.addcmul(self.origin, change, (self.radius / (length + 1e-12)).clamp_(max=1), out=self.x)
