"""Tiny networks whose answer to the attack is known in closed form. Levels are grey levels, 1/255."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from helpers.networks import Base

SIZE = 8


def picture(*levels: float, size: int = SIZE) -> Tensor:
    """Plain images (N, 3, size, size) of the given grey levels."""
    return torch.tensor(levels).view(-1, 1, 1, 1).expand(-1, 3, size, size).div(255).contiguous()


def ramp(size: int = SIZE) -> Tensor:
    """An image (1, 3, size, size) that holds many grey levels from 0 to 255."""
    levels = torch.linspace(0, 255, size * size).round().view(1, 1, size, size)
    return levels.expand(-1, 3, -1, -1).div(255).contiguous()


def noise(number: int = 1, seed: int = 0, size: int = SIZE) -> Tensor:
    """Random images (number, 3, size, size) on the 8-bit grid."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (number, 3, size, size), generator=generator).float() / 255


def red_reader(*rows: tuple[float, float], body: type[nn.Module] | None = None, pool: bool = False) -> Base:
    """One feature per pixel and row (slope, bias): relu(slope * red level + bias)."""
    conv = nn.Conv2d(3, len(rows), 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[:, 0, 0, 0] = torch.tensor([255 * slope for slope, _ in rows])
        conv.bias.copy_(torch.tensor([bias for _, bias in rows]))
    rest = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)) if pool else nn.ReLU()
    return Base(body(conv) if body else conv, rest, size=SIZE, name="tiny")


def lowering(level: float = 90.5, **settings: object) -> Base:
    """A feature is inactive when its red level is at most `level`: zero needs every one there."""
    return red_reader((1.0, -level), **settings)


def corridor(low: float, high: float) -> Base:
    """Two features a pixel, inactive when low <= red <= high; with low > high one is always active."""
    return red_reader((1.0, -high), (-1.0, low))


def wakeful() -> Base:
    """The first feature of a pixel can be made inactive (red at most 90.5), the second never."""
    return red_reader((1.0, -90.5), (0.0, 3.0))


def random_net(seed: int = 0, scale: float = 4.0) -> Base:
    """Two random convolutions: no closed form, a bumpy way."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        first, second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 5, 3, padding=1)
    with torch.no_grad():
        first.weight *= scale
        second.weight *= scale
    rest = nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2))
    return Base(nn.Sequential(first, nn.ReLU(inplace=True), second), rest, size=SIZE, name="random")


def levels(images: Tensor) -> Tensor:
    """Pixels as whole numbers 0 to 255."""
    return (images * 255).round().long()


class Counting(nn.Module):
    """Notes the batch size of each pass that asks for a gradient (verifications do not)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.sizes = body, []

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad:
            self.sizes.append(len(x))
        return self.body(x)


class Fuse(nn.Module):
    """Raises `error` on every forward pass once it is set: proves that nothing ran, or interrupts."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body, self.error = body, None

    def forward(self, x: Tensor) -> Tensor:
        if self.error is not None:
            raise self.error
        return self.body(x)


def fused(error: BaseException | None = None) -> Base:
    """lowering(90.5), which raises `error` on every pass. The error may be changed: base.body.error."""
    base = lowering(body=Fuse)
    base.body.error = error
    return base


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **settings: object) -> bytes:
    """An image as the bytes of a file."""
    content = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(content, kind, **settings)
    return content.getvalue()
