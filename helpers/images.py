"""Image files and pixels.

Images are a float32 tensor (N, 3, H, W) in [0, 1]. They are on the 8-bit grid when every value is k/255, so that a PNG
file holds them without loss.
"""

import csv
import io
import os
import uuid
import warnings
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from helpers.decode import read_rgb, user_path

DATA = Path(__file__).resolve().parents[1] / "data"


def load_image(source: Any, size: int = 224) -> Tensor:
    """Read one image, turn it upright, put it on white where it is transparent, crop its central square and resize it.

    source: a path, a URL, a file object, bytes, a PIL image, an array (H, W[, 1, 3 or 4]) of uint8 or of floats in
    [0, 1], or a tensor ([3,] H, W).
    size (int): side of the result in pixels. (Default: 224)
    Returns a tensor (1, 3, size, size) on the 8-bit grid. Raises ValueError or OSError.
    """
    check_size(size)
    image = read_rgb(source, 3 * size)
    return to_tensor(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def to_tensor(image: Image.Image) -> Tensor:
    """The pixels of an RGB image as a tensor (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def load_photos(split: str) -> tuple[Tensor, list[str]]:
    """The bundled photos (N, 3, 224, 224) of one split, "train" or "test", and their N labels."""
    folder = DATA / "photos"
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    if not rows:
        raise ValueError(f"no photos in split {split!r}; give 'train' or 'test'")
    return torch.cat([load_image(folder / row["file"]) for row in rows]), [row["label"] for row in rows]


def load_folder(folder: str | Path) -> Tensor:
    """All images of a folder in the order of their names: (N, 3, 224, 224).

    Hidden files are ignored; a warning names other files that are not images.
    """
    files = sorted(path for path in user_path(folder).glob("[!.]*") if path.is_file())
    readable = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    images = [path for path in files if path.suffix.lower() in readable]
    if not images:
        raise FileNotFoundError(f"{folder} holds no images; was it copied whole?")
    if skipped := ", ".join(path.name for path in files if path not in images):
        warnings.warn(f"skipped in {folder}, not images that Pillow reads: {skipped}", stacklevel=2)
    return torch.cat([load_image(path) for path in images])


def out_folder() -> Path:
    """Where notebooks write: ZERO_OUT_OUT, else out/ next to helpers/, else out/ in the working folder."""
    given = os.environ.get("ZERO_OUT_OUT")
    root = DATA.parent if os.access(DATA.parent, os.W_OK) else Path.cwd()
    folder = user_path(given) if given else root / "out"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number, Python's or NumPy's; bool and float are rejected."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_size(size: object) -> None:
    """Raise ValueError unless size is a side in pixels."""
    if not is_whole(size) or size < 1:
        raise ValueError(f"size is {size!r}; give one whole number of pixels, images here are square")


def check_images(images: Tensor, what: str = "images") -> None:
    """Raise TypeError or ValueError unless images are a float32 batch (N, 3, H, W) in [0, 1]."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{what} is a {type(images).__name__}; give a tensor, for example load_image(path)")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"{what} has shape {tuple(images.shape)}; give (N, 3, H, W), for one image image[None]")
    if images.dtype != torch.float32:
        raise TypeError(f"{what} is {images.dtype}; give float32 in [0, 1], for example image.float() / 255")
    low, high = images.min().item(), images.max().item()  # NaN if one pixel is NaN
    if not (low >= 0 and high <= 1):
        raise ValueError(f"{what} has pixels from {low:.3g} to {high:.3g}; give [0, 1], before normalisation")


def check_grid(images: Tensor, what: str = "images") -> None:
    """check_images, and ValueError unless they are on the 8-bit grid."""
    check_images(images, what)
    if not on_grid(images):
        raise ValueError(f"{what} is not on the 8-bit grid; give to_grid({what}), as a PNG file would hold it")


def check_one(image: Tensor, what: str) -> None:
    """check_grid, and ValueError unless it is one image."""
    check_grid(image, what)
    if len(image) != 1:
        raise ValueError(f"{what} holds {len(image)} images; give one at a time, image[None] or images[:1]")


def from_levels(levels: Tensor) -> Tensor:
    """Whole levels 0 to 255 as pixels k/255, on every device bit for bit as a PNG file returns them."""
    # Not `levels / 255`: CUDA multiplies by the rounded 1/255 instead, which is one bit off for half of the levels.
    return levels / levels.new_full((), 255)


def to_grid(images: Tensor) -> Tensor:
    """The nearest images on the 8-bit grid."""
    return from_levels((images * 255).round())


def to_bytes(images: Tensor) -> np.ndarray:
    """The nearest levels 0 to 255 of images (..., 3, H, W), as uint8 of the same shape; clipped to [0, 1]."""
    return (images * 255).round().clamp(0, 255).byte().cpu().numpy()


def on_grid(images: Tensor) -> bool:
    """Whether every pixel is k/255, up to the rounding of a float32 division."""
    levels = images * 255
    return bool((levels - levels.round()).abs().max() < 1e-4)


def save_png(image: Tensor, path: str | Path) -> Path:
    """Write one image as an 8-bit RGB PNG file, rounded to the nearest k/255; return its path.

    image: (1, 3, H, W) or (3, H, W). path: must end in .png.
    Raises ValueError, TypeError or OSError.
    """
    image = image[None] if image.ndim == 3 else image
    check_images(image, "image")
    if len(image) != 1:
        raise ValueError(f"image holds {len(image)} images; save them one by one")
    return write_file(png_path(path), image_bytes(image[0]))


def image_bytes(image: Tensor, kind: str = "PNG", **settings: object) -> bytes:
    """An image (3, H, W) in [0, 1] as the bytes of an 8-bit file, rounded to the nearest k/255.

    kind, settings: of Pillow's Image.save. (Default: "PNG")
    """
    content = io.BytesIO()
    Image.fromarray(to_bytes(image).transpose(1, 2, 0)).save(content, kind, **settings)
    return content.getvalue()


def png_path(path: str | Path) -> Path:
    """The path of a PNG file to write. Raises ValueError unless it ends in .png."""
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path} must end in .png; lossy formats destroy the attack")
    return user_path(path)


def write_file(path: str | Path, content: bytes) -> Path:
    """Write a file under a temporary name, then rename it, so that it is never half-written. Return the path.

    A symbolic link is kept, and its target is written.
    """
    path = user_path(path)
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}.part")  # no other writer uses this name
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return path
