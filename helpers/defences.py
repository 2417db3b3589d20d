"""Defences against a blinded base: read it elsewhere, filter the picture, look a second time.

A head that reads only the zeroed layer cannot be mended by training. What can help reads something
else, so all defences work on what one forward pass has seen (`look`): READERS are what a head may
read, FILTERS change the picture before the network sees it. What refuses pictures is in detectors.py.
"""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as vision

from helpers.base import Base
from helpers.cache import kept
from helpers.images import check_images, from_levels, to_bytes, to_grid
from helpers.networks import POOL_ENDS
from helpers.runtime import progress, use_bfloat16

Filter = Callable[[Tensor], Tensor]
Head = LogisticRegression | Pipeline
MIDDLE = (POOL_ENDS["pool3"], POOL_ENDS["pool4"])  # layers of VGG-16, counted from 1


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


def means(base: Base, images: Tensor, ends: Sequence[int] = MIDDLE) -> tuple[Reading, Tensor]:
    """The Reading of pictures (N, 3, H, W) and their pre-activations in float32, with slopes.

    ends: layers of the body, counted from 1. Raises ValueError for a base that has none such in sequence.
    """
    if not isinstance(base.body, nn.Sequential) or not all(1 <= end <= len(base.body) for end in ends):
        raise ValueError(f"{base.name} has no layers {tuple(ends)} in sequence; give vgg16_base(), or other ends")
    y, middle = (images - base.mean) / base.std, [images.new_zeros(len(images), 0)]
    for number, layer in enumerate(base.body, 1):
        y = layer(y)
        if number in ends:
            middle.append(nn.functional.normalize(y.float().mean((2, 3))))
    z = y.float()
    features = base.rest(z)
    length = features.flatten(1).norm(dim=1)
    return Reading(torch.cat(middle, 1), z.mean((2, 3)), features.mean((2, 3)), length), z


@torch.no_grad()
def look(
    base: Base,
    images: Tensor,
    *,
    ends: Sequence[int] = MIDDLE,
    batch: int = 2,
    keep: bool = False,
    autocast: bool | None = None,
) -> Reading:
    """One forward pass over pictures (N, 3, H, W), for all heads and detectors.

    keep: read it from out/kept/ when it was computed before, see cache.kept. autocast: in bfloat16 (None: where
    the machine computes it natively), in half the time and good for heads and detectors; give False
    where it matters whether outputs are exactly zero.
    """
    check_images(images)
    device = base.mean.device
    autocast = use_bfloat16(device, autocast)
    if keep:
        settings = {"ends": ends, "batch": batch, "autocast": autocast}
        what = f"look {tuple(ends)} {'bfloat16' if autocast else 'float32'}"
        return Reading(**kept(base, images, what, lambda: vars(look(base, images, **settings))))
    pieces = []
    for piece in progress(images.split(batch), "looking at pictures: batch"):
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            pieces.append(vars(means(base, piece.to(device), ends)[0]))
    return Reading(**{name: torch.cat([piece[name] for piece in pieces]).cpu() for name in pieces[0]})


def _unit(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors, eps=1e-30)  # however short; all zeros stay zeros


READERS: dict[str, Callable[[Reading], Tensor]] = {
    "as it was": lambda seen: seen.features,
    "unit length": lambda seen: _unit(seen.features),
    "under the ReLU": lambda seen: _unit(seen.under),
    "pool3 and pool4": lambda seen: seen.middle,
    "several depths": lambda seen: torch.cat([seen.middle, _unit(seen.features)], 1),
}


def fit_head(vectors: Tensor, labels: Sequence[str], c: float = 10.0) -> LogisticRegression:
    """A linear head on vectors (N, C), as train_head makes it: c is in units of their mean length."""
    unit = vectors.norm(dim=1).mean().clamp(min=1e-12).item()
    return LogisticRegression(C=c / unit**2, max_iter=5000).fit(vectors.numpy(), list(labels))


def ridge() -> Pipeline:
    """A linear head before training, with every number in units of its spread over the training pictures.

    In 6-fold cross-validation on the bundled training photos it was as good as shrinkage discriminants, and
    better than `fit_head`, wherever a head reads more than the features. It needs hundredths of a second.
    """
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=100))


def fit_readers(seen: Reading, labels: Sequence[str]) -> dict[str, Head]:
    """One head for each of READERS: of the features `fit_head`, of other layers `ridge`."""
    heads: dict[str, Head] = {}
    for name, read in READERS.items():
        vectors = read(seen)
        plain = name in ("as it was", "unit length")
        heads[name] = fit_head(vectors, labels) if plain else ridge().fit(vectors.numpy(), list(labels))
    return heads


def probe(vectors: Tensor, labels: Sequence[str], folds: int = 4, head: Head | None = None) -> int:
    """What can still be learnt: right answers of fresh heads on vectors (N, C), by cross-validation.

    head: a head of that kind (default: `ridge`); it is not changed.
    """
    answers = cross_val_predict(ridge() if head is None else head, vectors.numpy(), list(labels), cv=folds)
    return int((answers == np.array(labels)).sum())


@dataclass(frozen=True)
class SecondLook:
    """A defence: where features are shorter than `least`, a second head looks again, behind a filter.

    first: a head on READERS["as it was"]; second: a head on READERS["unit length"].
    """

    filter: str
    first: Head
    second: Head
    least: float

    def answers(self, seen: Mapping[str, Reading]) -> np.ndarray:
        """Answers (N,); seen: readings under "no filter" and under the filter's name."""
        plain = seen["no filter"]
        first = self.first.predict(plain.features.numpy())
        second = self.second.predict(READERS["unit length"](seen[self.filter]).numpy())
        return np.where(plain.length.numpy() < self.least, second, first)


def fit_second_look(
    name: str, first: Head, plain: Reading, filtered: Reading, labels: Sequence[str], least: float
) -> SecondLook:
    """A SecondLook behind FILTERS[name]; its head learns from photos as they are (plain) and filtered."""
    unit = READERS["unit length"]
    second = fit_head(torch.cat([unit(plain), unit(filtered)]), [*labels, *labels])
    return SecondLook(name, first, second, least)


def jpeg(images: Tensor, quality: int = 75) -> Tensor:
    """Pictures (N, 3, H, W) as a JPEG file gives them back (Pillow's encoder; quality 1 to 100)."""
    copies = []
    for pixels in to_bytes(images).transpose(0, 2, 3, 1):
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
        copies.append(torch.from_numpy(np.array(Image.open(stream))))
    return from_levels(torch.stack(copies).permute(0, 3, 1, 2).to(images))


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
