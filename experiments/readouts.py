"""Readouts of photos before and after attacks, for notebooks 05 and 06: data/readouts/, some minutes.

    python -m experiments readouts            # makes those that are missing or whose images have changed
    python -m experiments readouts zeroed     # only this set

Means are stored in half precision, feature norms in float32, so that exact zeros stay exact.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from helpers.base import Base
from helpers.defence.detectors import SQUEEZERS
from helpers.defence.filters import FILTERS, filtered, jpeg
from helpers.defence.hardening import vgg16_hardened
from helpers.defence.readouts import FOLDER, extract_readouts
from helpers.images import DATA, load_folder, load_image, load_photos, to_bytes, to_grid, write_file
from helpers.networks import vgg16_base
from helpers.runtime import pick_device

QUALITIES = (100, 90, 75, 50, 30, 15)  # of the JPEG copies of one photo
SHOWN = 12  # that photo
LATER = ("blur 5 x 5", "160 pixels")  # filters that a second look may use


def train() -> Tensor:
    return load_photos("train")[0]


def test_split() -> tuple[Tensor, Tensor]:
    """Calibration photos and test photos: every second one of the test split."""
    photos, _ = load_photos("test")
    return photos[::2], photos[1::2]


def stored_images(folder: str) -> Tensor:
    return load_folder(DATA / "defences" / folder)


def jpeg_copies(folder: str) -> Tensor:
    return torch.cat([jpeg(stored_images(folder)[SHOWN : SHOWN + 1], quality) for quality in QUALITIES])


def noisy() -> Tensor:
    """Every ninth test photo with uniform noise of at most 8/255."""
    photos = test_split()[1][::9]
    generator = torch.Generator().manual_seed(0)
    return to_grid((photos + torch.randint(-8, 9, photos.shape, generator=generator) / 255).clamp(0, 1))


# Name of the set: base, images, filters.
SETS: dict[str, tuple[Callable[[], Base], Callable[[], Tensor], Sequence[str]]] = {
    "train": (vgg16_base, train, LATER),
    "calibration": (vgg16_base, lambda: test_split()[0], SQUEEZERS),
    "clean": (vgg16_base, lambda: test_split()[1], tuple(FILTERS)),
    "noise": (vgg16_base, noisy, ()),
    "donor": (vgg16_base, lambda: load_image(DATA / "images" / "albatross.png"), tuple(FILTERS)),
    "zeroed": (vgg16_base, partial(stored_images, "zero"), tuple(FILTERS)),
    "zeroed_calibration": (vgg16_base, partial(stored_images, "zero_calibration"), tuple(FILTERS)),
    "zeroed_jpeg": (vgg16_base, partial(jpeg_copies, "zero"), ()),
    "matched": (vgg16_base, partial(stored_images, "matched"), tuple(FILTERS)),
    "matched_jpeg": (vgg16_base, partial(jpeg_copies, "matched"), ()),
    "hardened_calibration": (vgg16_hardened, lambda: test_split()[0][::2], ()),
    "hardened_clean": (vgg16_hardened, lambda: test_split()[1][::3], ()),
}


def key_of(images: Tensor, base: Base, filters: Sequence[str]) -> str:
    """A hash of the images, the weights and the names of the filters."""
    digest = hashlib.sha256(to_bytes(images).tobytes())
    digest.update(f"{base.sha256} {', '.join(filters)}".encode())
    return digest.hexdigest()


def stored_key(name: str) -> str:
    """The hash that a stored file carries, or "" where there is none."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        return ""
    with safe_open(path, "pt") as file:
        return file.metadata()["key"]


def main(options: Sequence[str] = ()) -> None:
    for name in options or SETS:
        make_base, make_images, filters = SETS[name]
        base, images = make_base().to(pick_device()), make_images()
        key = key_of(images, base, filters)
        if stored_key(name) == key:
            continue
        tensors = {}
        for transform, x in filtered(images, filters):
            for field, tensor in vars(extract_readouts(base, x)).items():
                stored = tensor if field == "feature_norm" else tensor.half()
                tensors[f"{transform}/{field}"] = stored.contiguous()
        write_file(FOLDER / f"{name}.safetensors", save(tensors, {"key": key}))
        print(f"{name}: {len(images)} images, {1 + len(filters)} readouts each", flush=True)
