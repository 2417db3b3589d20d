"""Defences against a blinded base: read it elsewhere, filter the picture, look a second time.

A head that reads only the zeroed layer cannot be mended by training. What can help reads something
else, so all defences work on what one forward pass has seen (`look`): READERS are what a head may
read, FILTERS change the picture before the network sees it. What refuses pictures is in detectors.py.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from helpers.base import Base
from helpers.cache import kept
from helpers.images import check_images, to_grid
from helpers.runtime import progress

Filter = Callable[[Tensor], Tensor]
POOLS = (17, 24)  # the layers that end pool3 and pool4 of VGG-16, counted from 1


@dataclass(frozen=True)
class Reading:
    """What the layers of a base give for N pictures, as means over positions, on the CPU.

    middle: after some layers on the way, each with length one, side by side (N, M). under and features:
    below and above the last ReLU (N, C). length: of all features, before any mean (N,).
    """

    middle: Tensor
    under: Tensor
    features: Tensor
    length: Tensor


def means(base: Base, images: Tensor, ends: Sequence[int] = POOLS) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The fields of a Reading, with slopes; ends: layers of the body, counted from 1."""
    if not isinstance(base.body, nn.Sequential) or not all(1 <= end <= len(base.body) for end in ends):
        raise ValueError(f"{base.name} has no layers {tuple(ends)} in sequence; give vgg16_base(), or other ends")
    y, middle = (images - base.mean) / base.std, [images.new_zeros(len(images), 0)]
    for number, layer in enumerate(base.body, 1):
        y = layer(y)
        if number in ends:
            middle.append(nn.functional.normalize(y.float().mean((2, 3))))
    z = y.float()
    features = base.rest(z)
    return torch.cat(middle, 1), z.mean((2, 3)), features.mean((2, 3)), features.flatten(1).norm(dim=1)


@torch.no_grad()
def look(base: Base, images: Tensor, *, ends: Sequence[int] = POOLS, batch: int = 16, keep: bool = False) -> Reading:
    """One forward pass over pictures (N, 3, H, W), for all heads and detectors.

    keep: read it from out/kept/ when it was computed before, see cache.kept.
    """
    check_images(images)
    if keep:
        return Reading(**kept(base, images, f"look {ends}", lambda: vars(look(base, images, ends=ends, batch=batch))))
    pieces = progress(images.split(batch), "looking at pictures: batch")
    parts = [means(base, piece.to(base.mean.device), ends) for piece in pieces]
    return Reading(*(torch.cat(part).cpu() for part in zip(*parts, strict=True)))


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, eps=1e-30)  # however short; all zeros stay zeros


READERS: dict[str, Callable[[Reading], Tensor]] = {
    "as it was": lambda seen: seen.features,
    "unit length": lambda seen: _unit(seen.features),
    "under the ReLU": lambda seen: _unit(seen.under),
    "several depths": lambda seen: torch.cat([seen.middle, _unit(seen.features)], 1),
}


def fit_head(vectors: Tensor, labels: Sequence[str], c: float = 10.0) -> LogisticRegression:
    """A linear head on vectors (N, C), as train_head makes it: c is in units of their mean length."""
    unit = vectors.norm(dim=1).mean().item()
    return LogisticRegression(C=c / unit**2, max_iter=5000).fit(vectors.numpy(), list(labels))


def probe(vectors: Tensor, labels: Sequence[str], folds: int = 4) -> int:
    """What can still be learnt: right answers of fresh heads on vectors (N, C), by cross-validation."""
    unit = vectors.norm(dim=1).mean().clamp(min=1e-12)
    head = LogisticRegression(C=10.0, max_iter=5000)
    return int((cross_val_predict(head, (vectors / unit).numpy(), list(labels), cv=folds) == np.array(labels)).sum())


def second_look(first: np.ndarray, second: np.ndarray, seen: Reading, least: float) -> np.ndarray:
    """The first answers (N,), but the second ones where features are shorter than `least`."""
    return np.where(seen.length.numpy() < least, second, first)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Pictures (N, 3, H, W) as a JPEG file gives them back (Pillow's encoder; quality 1 to 95)."""
    copies = []
    for pixels in (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy():
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
        copies.append(torch.from_numpy(np.array(Image.open(stream))))
    return torch.stack(copies).permute(0, 3, 1, 2).to(images) / 255


def fewer_bits(images: Tensor, bits: int = 4) -> Tensor:
    """Pictures with 2**bits levels per colour."""
    levels = 2**bits - 1
    return to_grid((images * levels).round() / levels)


def median(images: Tensor, side: int = 3) -> Tensor:
    """Each pixel becomes the median of its side x side neighbours."""
    padded = nn.functional.pad(images, [side // 2] * 4, mode="reflect")
    return padded.unfold(2, side, 1).unfold(3, side, 1).flatten(-2).median(-1).values


def blur(images: Tensor, side: int = 5) -> Tensor:
    """A Gaussian blur over side x side pixels."""
    return vision.gaussian_blur(images, [side, side]).clamp(0, 1)


def smaller(images: Tensor, side: int = 160) -> Tensor:
    """The pictures in fewer pixels: (N, 3, side, side)."""
    return vision.resize(images, [side, side], antialias=True).clamp(0, 1)


def shrink_and_pad(images: Tensor, seed: int | None = None, least: float = 0.85) -> Tensor:
    """Shrink to a random size, at least that share of the side, at a random place on grey (Xie et al. 2018).

    seed: None draws anew each time.
    """
    chance = None if seed is None else torch.Generator().manual_seed(seed)
    full = images.shape[2]
    side = int(torch.randint(int(least * full), full, (), generator=chance))
    left, top = torch.randint(0, full - side + 1, (2,), generator=chance).tolist()
    return vision.pad(smaller(images, side), [left, top, full - side - left, full - side - top], fill=0.5)


FILTERS: dict[str, Filter] = {
    "JPEG 75": jpeg,
    "4 bits": fewer_bits,
    "median 3 x 3": median,
    "blur 5 x 5": blur,
    "160 pixels": smaller,
    "shrink and pad": lambda x: shrink_and_pad(x, seed=0),
}


def views(images: Tensor, names: Sequence[str] = tuple(FILTERS)) -> Iterator[tuple[str, Tensor]]:
    """The pictures as they are and behind each named filter, one at a time."""
    yield "no filter", images
    for name in names:
        yield name, FILTERS[name](images)
