"""Readouts of photos before and after attacks, for notebooks 05 and 06: data/readouts/. Takes some minutes.

    python -m experiments readouts            # makes those that are missing, or whose images have changed
    python -m experiments readouts zeroed     # only this set

Means are stored in half precision, feature norms in float32, so that exact zeros stay exact.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

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
SHOWN = 12  # the number of that photo
ALL = tuple(FILTERS)


def test_split() -> tuple[Tensor, Tensor]:
    """The photos for calibration and those for tests, each every second one of the test split."""
    photos, _ = load_photos("test")
    return photos[::2], photos[1::2]


def attacked(folder: str) -> Tensor:
    return load_folder(DATA / "defences" / folder)


def jpeg_copies() -> Tensor:
    """A matched photo after JPEG files of several qualities."""
    return torch.cat([jpeg(attacked("matched")[SHOWN : SHOWN + 1], quality) for quality in QUALITIES])


def noisy() -> Tensor:
    """Every ninth test photo with uniform noise of at most 8/255."""
    photos = test_split()[1][::9]
    noise = torch.randint(-8, 9, photos.shape, generator=torch.Generator().manual_seed(0))
    return to_grid((photos + noise / 255).clamp(0, 1))


class Images(NamedTuple):
    """What a file of readouts is made from: images, filters and a base."""

    load: Callable[[], Tensor]
    filters: Sequence[str] = ()
    base: Callable[[], Base] = vgg16_base


SETS = {
    "train": Images(lambda: load_photos("train")[0], ("blur 5 x 5", "160 pixels")),  # for a second look
    "calibration": Images(lambda: test_split()[0], SQUEEZERS),
    "clean": Images(lambda: test_split()[1], ALL),
    "noise": Images(noisy),
    "donor": Images(lambda: load_image(DATA / "images" / "albatross.png"), ALL),
    "zeroed": Images(lambda: attacked("zero"), ALL),
    "zeroed_calibration": Images(lambda: attacked("zero_calibration"), ALL),
    "matched": Images(lambda: attacked("matched"), ALL),
    "matched_jpeg": Images(jpeg_copies),
    "hardened_calibration": Images(lambda: test_split()[0][::2], base=vgg16_hardened),
    "hardened_clean": Images(lambda: test_split()[1][::3], base=vgg16_hardened),
}


def key_of(images: Tensor, base: Base, filters: Sequence[str]) -> str:
    """A hash of the images, the weights and the names of the filters."""
    digest = hashlib.sha256(to_bytes(images).tobytes())
    digest.update(f"{base.sha256} {', '.join(filters)}".encode())
    return digest.hexdigest()


def stored_key(name: str) -> str:
    """The hash in a stored file, or "" if there is no file."""
    path = FOLDER / f"{name}.safetensors"
    if not path.exists():
        return ""
    with safe_open(path, "pt") as file:
        return file.metadata()["key"]


def main(options: Sequence[str] = ()) -> None:
    for name in options or SETS:
        load, filters, make_base = SETS[name]
        base, images = make_base().to(pick_device()), load()
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
