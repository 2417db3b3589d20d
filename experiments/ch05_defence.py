"""Zeroed photos of notebook 05, data/defences/zero and zero_calibration: about a minute per photo on two cores.

    python -m experiments ch05                # continues where it was stopped
    python -m experiments readouts zeroed     # then the readouts of these photos

Every second photo of the test split is attacked. The others calibrate detectors; every fourth of them is attacked too,
which helps the defender to choose a filter. Images are lossless WebP: the same pixels, a fifth smaller than PNG.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from experiments.common import attacked, photos, vgg16
from helpers.images import DATA, image_bytes, load_folder, write_file

FOLDER = DATA / "defences"


def attack_photos(folder: Path, images: Tensor, attack: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Attack images one by one and save them in a folder; those that are there already are kept. Returns all.

    attack: number and image (1, 3, H, W) -> attacked image.
    """
    for number, image in enumerate(images.split(1)):
        path = folder / f"{number:02d}.webp"
        if not path.exists():
            content = image_bytes(attack(number, image)[0], "WEBP", lossless=True, quality=100, method=6)
            write_file(path, content)
            print(path, flush=True)
    return load_folder(folder)


def main(options: Sequence[str] = ()) -> None:
    images, labels = photos("test")
    for folder, chosen in {"zero": range(1, len(images), 2), "zero_calibration": range(0, len(images), 8)}.items():

        def zero(number: int, image: Tensor, places: Sequence[int] = chosen) -> Tensor:
            place = places[number]  # `bench` and `ch07` attack some of these photos, too
            return attacked(vgg16(), f"{labels[place]}-{place}", image, eps=8, steps=150)[0]

        attack_photos(FOLDER / folder, images[chosen.start :: chosen.step], zero)
