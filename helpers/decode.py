"""Read an image from a path, a URL, bytes, an array or a PIL image as an upright RGB image."""

import io
import os
import string
import urllib.request
import warnings
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose as T
from torch import Tensor

with suppress(ImportError):
    from pillow_heif import register_heif_opener

    register_heif_opener()

AGENT = {"User-Agent": "Mozilla/5.0 (zero-out notebooks)"}  # some hosts refuse Python's default
ORIENTATION = 0x0112  # EXIF tag; its values 2 to 8 are made upright by these:
TURNS = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)


def read_rgb(source: Any, least: int) -> Image.Image:
    """Decode an image, turn it upright and put it on white where it is transparent.

    source: as in load_image.
    least: a large JPEG is scaled down while it is decoded, to sides of at least so many pixels.
    Raises ValueError, or OSError for a path that cannot be read.
    """
    name = str(source) if isinstance(source, str | Path) else f"this {type(source).__name__}"
    if isinstance(source, Tensor | np.ndarray):
        source = Image.fromarray(_to_uint8(source))
    elif isinstance(source, str) and "://" in source:
        source = _download(source)
    elif isinstance(source, str | Path):
        source = user_path(source).read_bytes()
    try:
        return _to_rgb(_upright(source if isinstance(source, Image.Image) else _open(source, least)))
    except Exception as error:  # Pillow's readers raise anything for damaged files
        reason = "no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        remedy = "get a whole copy, or save it as PNG or JPEG; HEIC needs pillow-heif, AVIF needs Pillow 11.3"
        raise ValueError(f"{name} cannot be read as an image ({reason}); {remedy}") from error


def user_path(path: str | Path) -> Path:
    """The path with a leading "~" expanded, unless a file has exactly this name."""
    path = Path(path)
    return path if path.exists() else Path(os.path.expanduser(path))


def _to_uint8(values: Tensor | np.ndarray) -> np.ndarray:
    """Levels (H, W[, 3 or 4]) of an array or tensor."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().squeeze(0)  # ([3,] H, W)
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
        values = (values.movedim(0, -1) if values.ndim == 3 else values).numpy()
    values = values[:, :, 0] if values.shape[2:] == (1,) else values
    if values.ndim < 2 or values.shape[2:] not in ((), (3,), (4,)) or values.size == 0:
        raise ValueError(f"an array of shape {values.shape} is no image; give (H, W), (H, W, 3) or (3, H, W) tensor")
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"an array of {values.dtype} is ambiguous; give uint8, or floats in [0, 1]")
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("float pixels must lie in [0, 1] without NaN; divide by 255 first")
    return np.rint(values * 255).astype(np.uint8)


def _download(url: str) -> bytes:
    try:
        address = quote(url, safe=string.punctuation)  # letters beyond ASCII, and spaces
        with urllib.request.urlopen(urllib.request.Request(address, headers=AGENT), timeout=20) as reply:
            return reply.read()
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise ValueError(f"cannot download {url} ({error}); check the address and the Internet switch") from error


def _open(source: Any, least: int) -> Image.Image:
    """Decode bytes or a file object. A large JPEG is scaled down while it is decoded, to `least` pixels or more."""
    source = io.BytesIO(source) if isinstance(source, bytes | bytearray | memoryview) else source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # photos of phones reach 108 megapixels
        image = Image.open(source)
    image.draft(None, (least, least))
    return image


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a PNG file may hold its EXIF tags after the pixels
    # ImageOps.exif_transpose would also rewrite all other tags, and fail where one is malformed.
    turn = dict(enumerate(TURNS, 2)).get(image.getexif().get(ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):  # floats, or 16-bit grey, which Pillow would clip at 255
        values = np.asarray(image) / (1 if image.mode == "F" else 65535)
        image = Image.fromarray(_to_uint8(values))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
