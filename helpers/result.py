"""What an attack returns, and how the best images on its way are kept."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers.base import Base, count_nonzero


@dataclass
class Result:
    """Result of zero_out for N images.

    images (Tensor): attacked, (N, 3, H, W) on the 8-bit grid.
    original (Tensor): the images given.
    nonzero (list[int]): features of each image that are not 0.0, in float32.
    margin (list[float]): distance of its largest pre-activation below the base's threshold (negative: above);
        for a base without a threshold, minus the largest absolute output.
    steps (list[int]): gradient steps taken.
    outputs (int): features of an image.
    history (list[list[int]]): features left after 0, 1, 2, ... steps, in the precision of the search.
    interrupted (bool): whether KeyboardInterrupt ended the attack early.
    margin_wanted (float): the margin at which an image counts as done.
    """

    images: Tensor
    original: Tensor
    nonzero: list[int]
    margin: list[float]
    steps: list[int]
    outputs: int
    history: list[list[int]] = field(repr=False)
    interrupted: bool = False
    margin_wanted: float = 0.0

    def completed(self) -> "Result":
        """This result. Raises KeyboardInterrupt if the attack was interrupted: its settings would give another one."""
        if self.interrupted:
            raise KeyboardInterrupt
        return self

    def __str__(self) -> str:
        zeroed = [margin for n, margin in zip(self.nonzero, self.margin, strict=True) if n == 0]
        left = ", ".join(f"{n:,}" for n in self.nonzero)
        text = f"{len(zeroed)} of {len(self.nonzero)} images zeroed; features left of {self.outputs:,}: {left}"
        thin = sum(margin < self.margin_wanted for margin in zeroed)
        text += f"; margin of {self.margin_wanted:g} not reached by {thin} of the zeroed" if thin else ""
        return text + ("; interrupted" if self.interrupted else "")


class Best:
    """The best of each image so far, and which images are done.

    base, images: as in zero_out. margin_wanted: the margin at which an image is done. precision: of the search.
    """

    def __init__(self, base: Base, images: Tensor, margin_wanted: float, precision: torch.dtype) -> None:
        self.base, self.original, self.margin_wanted, self.precision = base, images, margin_wanted, precision
        self.images, self.outputs, self.interrupted = images.clone(), math.prod(base.feature_shape), False
        self.nonzero = torch.full((len(images),), 2**62, device=images.device)
        self.margin = torch.full((len(images),), -torch.inf, device=images.device)
        self.length = torch.full((len(images),), torch.inf, device=images.device)  # of changes whose image is done
        self.counts: list[tuple[Tensor, Tensor]] = []  # of each step: places (n,) and features left (n,)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A KeyboardInterrupt ends the attack and is noted: what was reached so far is worth having."""
        try:
            yield
        except KeyboardInterrupt:
            self.interrupted = True

    def pre_activations(self, quantized: Tensor) -> Tensor:
        """Pre-activations in float32, computed in the precision of the search."""
        lower = self.precision != torch.float32
        with torch.autocast(quantized.device.type, self.precision) if lower else nullcontext():
            return self.base.pre_activations(quantized).float()

    def update(self, places: Tensor, quantized: Tensor, z: Tensor, length: Tensor | None = None) -> Tensor:
        """Note the images at these places (n,) that are better than before; return which are done: (n,) of bool.

        length: of their changes (n,), if of two images that are done the one with the shorter change is better.
        """
        features = self.base.rest(z)
        self.outputs = features[0].numel()  # for images of this size
        nonzero, margin = count_nonzero(features), self.base.margin_reached(z)
        done = (nonzero == 0) & (margin >= self.margin_wanted)
        if self.precision != torch.float32 and done.any():  # only float32 decides
            verdict = self.base.verdict(quantized)
            done &= (verdict[0] == 0) & (verdict[1] >= self.margin_wanted)
        better = (nonzero < self.nonzero[places]) | (nonzero == self.nonzero[places]) & (margin > self.margin[places])
        better |= done
        if length is not None:
            shortest = self.length[places]  # infinite until an image was done
            better &= torch.where(done, length < shortest, shortest.isinf())
            self.length[places[better & done]] = length[better & done]
        self.images[places[better]] = quantized[better]
        self.nonzero[places[better]], self.margin[places[better]] = nonzero[better], margin[better]
        self.latest = places, quantized
        self.counts.append((places, nonzero))
        return done

    def now(self, together: Tensor) -> tuple[Tensor, Tensor]:
        """The images of a batch as they are now (those that are done as they ended) and their features left.

        together: places of the batch, one after the other.
        """
        images, nonzero = self.images[together], self.nonzero[together]  # copies
        places, quantized = self.latest
        images[places - together[0]], nonzero[places - together[0]] = quantized, self.counts[-1][1]
        return images, nonzero

    def result(self) -> Result:
        """The best images, judged once more in float32."""
        nonzero, margin = (tensor.tolist() for tensor in self.base.verdict(self.images))
        history: list[list[int]] = [[] for _ in self.images]
        for places, counts in self.counts:
            for place, count in zip(places.tolist(), counts.tolist(), strict=True):
                history[place].append(count)
        steps = [max(len(counts) - 1, 0) for counts in history]
        return Result(
            self.images, self.original, nonzero, margin, steps, self.outputs, history, self.interrupted,
            self.margin_wanted if self.base.threshold is not None else -math.inf,
        )  # fmt: skip
