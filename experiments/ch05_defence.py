"""Zeroed photos of notebook 05, data/defences/zero and zero_calibration: about a minute per photo on two cores.

    python -m experiments ch05                # goes on where it was stopped
    python -m experiments readouts zeroed     # then, what the network gives for them

Every second photo of the test split is attacked; every fourth of the others, which calibrate detectors, helps the
defender to choose a filter. Images are lossless WebP: a fifth smaller than PNG, the same pixels.
"""

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from experiments.common import attacked, photos
from experiments.readouts import test_split
from helpers.base import Base
from helpers.images import DATA, load_folder, load_image, to_bytes, write_file
from helpers.networks import vgg16_base
from helpers.runtime import pick_device

FOLDER = DATA / "defences"


def save_webp(image: Tensor, path: Path) -> None:
    """Write one image (1, 3, H, W) on the 8-bit grid as lossless WebP; raise OSError if a pixel differs."""
    content = io.BytesIO()
    pixels = to_bytes(image[0]).transpose(1, 2, 0)
    Image.fromarray(pixels).save(content, format="WEBP", lossless=True, quality=100, method=6)
    write_file(path, content.getvalue())
    if not torch.equal(load_image(path), image.cpu()):
        raise OSError(f"{path} does not read back as it was written")


def attack_photos(folder: Path, images: Tensor, attack: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Attack images one by one into a folder, except those that are there. Returns all.

    attack: number and image (1, 3, H, W) -> attacked image.
    """
    for number, image in enumerate(images.split(1)):
        path = folder / f"{number:02d}.webp"
        if not path.exists():
            save_webp(attack(number, image), path)
            print(path, flush=True)
    return load_folder(folder)


def main(options: Sequence[str] = ()) -> None:
    base = vgg16_base().to(pick_device())
    calibration, test = test_split()
    attack_photos(FOLDER / "zero", test, partial(zero, base, range(1, 84, 2)))
    attack_photos(FOLDER / "zero_calibration", calibration[::4], partial(zero, base, range(0, 84, 8)))


def zero(base: Base, places: Sequence[int], number: int, image: Tensor) -> Tensor:
    """The image after zero_out with its defaults; `bench` and `ch07` attack some of these photos, too.

    places: in the test split. number: of the image among them.
    """
    place = places[number]
    return attacked(base, f"{photos('test')[1][place]}-{place}", image, eps=8, steps=150)[0]
