"""Shared by several experiments: networks and photos on the device, and attacks that were run before."""

import functools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from helpers.attack import zero_out
from helpers.base import Base, Classifier
from helpers.images import DATA, load_image, load_photos, save_png, write_file
from helpers.networks import efficientnet_lite0, train_head, vgg16_base
from helpers.runtime import machine, pick_device

TABLES = DATA / "bench"
OUT = DATA.parent / "out" / "bench"


@functools.cache
def device() -> torch.device:
    return pick_device()


@functools.cache
def vgg16(until: str = "pool5") -> Base:
    return vgg16_base(until).to(device())


@functools.cache
def lite0() -> Classifier:
    return efficientnet_lite0().to(device())


@functools.cache
def six_classes() -> Classifier:
    """A head for the six classes of the photos, trained on the train split."""
    return train_head(vgg16(), *photos("train"))


@functools.cache
def photos(split: str) -> tuple[Tensor, list[str]]:
    """The photos of a split (N, 3, 224, 224) on the device, and their labels."""
    images, labels = load_photos(split)
    return images.to(device()), labels


def photos_at(places: Iterable[int]) -> dict[str, Tensor]:
    """Photos of the test split by class and place ("bird-3"), each (1, 3, 224, 224) on the device."""
    images, labels = photos("test")
    return {f"{labels[i]}-{i}": images[i : i + 1] for i in places}


def picture(name: str, size: int = 224) -> Tensor:
    """A bundled image by its name, (1, 3, size, size) on the device."""
    return load_image(DATA / "images" / f"{name}.png", size).to(device())


def answers(classifier: Classifier, images: Tensor, batch: int = 8) -> list[str]:
    """The predicted class of each image. batch: images per forward pass. (Default: 8)"""
    scores = torch.cat([classifier.probabilities(piece) for piece in images.split(batch)])
    return [classifier.labels[i] for i in scores.argmax(1).tolist()]


def evenly(split: str, count: int) -> tuple[Tensor, list[str]]:
    """`count` photos of a split, evenly spaced, and their labels."""
    images, labels = photos(split)
    places = [i * len(images) // count for i in range(count)]
    return images[places], [labels[i] for i in places]


def speckle(shape: tuple[int, ...], levels: int) -> Tensor:
    """Random noise: each value is plus or minus `levels` / 255."""
    sign = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (sign * levels / 255).to(device())


def judged(base: Base, image: Tensor) -> dict[str, float]:
    """Features left and margin of one image (1, 3, H, W), as columns of a table."""
    return {name: value.item() for name, value in zip(("left", "margin"), base.verdict(image), strict=True)}


def attacked(
    base: Base, name: str, image: Tensor, *, eps: int | None, steps: int, folder: Path = OUT
) -> tuple[Tensor, int, float]:
    """zero_out with its defaults on one image (1, 3, H, W), or the result that an earlier call on this machine saved.

    name: of the image.
    eps: budget in 1/255; None for the least visible change.
    steps: at most.
    folder: where PNG files wait. (Default: out/bench/)
    Returns the image of the PNG file, the steps taken and the seconds.
    """
    about = {"picture": name, "eps": eps, "weights": base.sha256, **machine(device())}
    path = _earlier(folder, about, steps)
    if path is None:
        start = time.perf_counter()
        result = zero_out(base, image, eps=eps and eps / 255, steps=steps).completed()
        path = save_png(result.images, folder / f"{name}-{eps}-{steps}.png")
        about |= {"at most": steps, "steps": result.steps[0], "seconds": time.perf_counter() - start}
        write_file(path.with_suffix(".json"), json.dumps(about).encode())
    known = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return load_image(path, image.shape[-1]).to(image.device), known["steps"], known["seconds"]


def _earlier(folder: Path, about: dict[str, object], steps: int) -> Path | None:
    """The PNG file of an attack with the same limit, or of one that ended early enough to be the same."""
    for record in sorted(folder.glob(f"{about['picture']}-{about['eps']}-*.json")):
        known = json.loads(record.read_text(encoding="utf-8"))
        done_early = known["steps"] < known["at most"] and known["steps"] <= steps
        same = about | {"threads": known.get("threads")}  # their number changes the time only
        if same.items() <= known.items() and (known["at most"] == steps or done_early):
            return record.with_suffix(".png")
    return None
