"""Filters: transforms of an image before the network sees it. Images are (N, 3, H, W) in [0, 1]."""

import io
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from helpers.images import image_bytes, to_grid, to_tensor

Transform = Callable[[Tensor], Tensor]


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Images saved as JPEG by Pillow and read again. quality: 1 to 100. (Default: 75)"""
    files = (io.BytesIO(image_bytes(image, "JPEG", quality=quality)) for image in images)
    return torch.cat([to_tensor(Image.open(file)) for file in files]).to(images)


def fewer_bits(images: Tensor, bits: int = 4) -> Tensor:
    """Images with 2**bits levels per colour. bits: 1 to 8. (Default: 4)"""
    levels = 2**bits - 1
    return to_grid((images * levels).round() / levels)


def median(images: Tensor, side: int = 3) -> Tensor:
    """Each value becomes the median of the side x side values around it. side: in pixels. (Default: 3)"""
    padded = nn.functional.pad(images, [side // 2] * 4, mode="reflect")
    return padded.unfold(2, side, 1).unfold(3, side, 1).flatten(-2).median(-1).values


def blur(images: Tensor, side: int = 5) -> Tensor:
    """A Gaussian blur over side x side pixels. (Default: 5)"""
    return vision.gaussian_blur(images, [side, side]).clamp(0, 1)


def smaller(images: Tensor, side: int = 160) -> Tensor:
    """The images at a lower resolution: (N, 3, side, side). (Default: 160)"""
    return vision.resize(images, [side, side], antialias=True).clamp(0, 1)


def shrink_and_pad(images: Tensor, seed: int | None = None) -> Tensor:
    """Scale the images down to a random size, 0.85 or more, and place them at random on grey (Xie et al. 2018).

    seed: of size and place. (Default: None, other ones each time)
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    full = images.shape[2]
    side = int(torch.randint(int(0.85 * full), full, (), generator=generator))
    left, top = torch.randint(0, full - side + 1, (2,), generator=generator).tolist()
    return vision.pad(smaller(images, side), [left, top, full - side - left, full - side - top], fill=0.5)


FILTERS: dict[str, Transform] = {
    "JPEG 75": jpeg,
    "4 bits": fewer_bits,
    "median 3 x 3": median,
    "blur 5 x 5": blur,
    "160 pixels": smaller,
    "shrink and pad": lambda x: shrink_and_pad(x, seed=0),
}


def filtered(images: Tensor, names: Sequence[str] = tuple(FILTERS)) -> Iterator[tuple[str, Tensor]]:
    """Yield ("no filter", images), then the name of each filter with the images after it. (Default: all filters)"""
    yield "no filter", images
    for name in names:
        yield name, FILTERS[name](images)
