"""Any source of an image as an upright RGB image: paths, URLs, bytes, arrays, photos of phones."""

import io
import os
import re
import string
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose as T
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

HEADERS = {"User-Agent": "Mozilla/5.0 (zero-out notebooks)"}  # some hosts refuse Python's default
LARGEST_JPEG = 400_000_000  # pixels; draft mode shrinks them while it decodes
ORIENTATION = 0x0112  # EXIF tag; its values 2 to 8 are made upright by these:
TURNS = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)


def read_rgb(source: Any, size: int) -> Image.Image:
    """Decode, turn upright, lay transparency on white.

    source: as in load_image. size: a large JPEG is shrunk while it is decoded, to 3 * size or more.
    Raises ValueError or FileNotFoundError.
    """
    name, image = name_of(source), _fetch(source)
    try:
        if isinstance(image, bytes):
            image = _open(image, size)
        image.load()
        # ImageOps.exif_transpose would also rewrite all other tags, and fail where one is malformed.
        turn = dict(enumerate(TURNS, 2)).get(image.getexif().get(ORIENTATION))
        return _to_rgb(image if turn is None else image.transpose(turn))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels to open safely; make it smaller first") from error
    except ImportError as error:
        remedy = "convert it to JPEG, or install pillow-heif (HEIC) or Pillow 11.3 (AVIF)"
        raise ValueError(f"{name} is a HEIC or AVIF image, which this Pillow cannot read; {remedy}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that Pillow can read; save it as PNG or JPEG") from error
    except Exception as error:  # Pillow's readers raise anything for damaged files
        raise ValueError(f"{name} is damaged or unusual ({error}); get a whole copy or save it as PNG") from error


def name_of(source: Any) -> str:
    """The source as errors call it."""
    return str(source) if isinstance(source, str | Path) else f"this {type(source).__name__}"


def user_path(path: str | Path) -> Path:
    """The path, with a leading "~" expanded unless there is a file of that very name."""
    path = Path(path)
    return path if path.exists() else Path(os.path.expanduser(path))


def read_file(path: str | Path) -> bytes:
    """The bytes of an image file; raises FileNotFoundError, or ValueError for a folder."""
    path = user_path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one image, or load all with load_folder")
    if not path.exists():
        raise FileNotFoundError(f"there is no image {path}; check the path, seen from {Path.cwd()}")
    return path.read_bytes()


def _fetch(source: Any) -> Image.Image | bytes:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, Tensor | np.ndarray):
        return Image.fromarray(_to_uint8(source))
    if isinstance(source, str) and re.match("(https?|file)://", source, re.IGNORECASE):
        source = _download(source)
    elif isinstance(source, str | Path):
        source = read_file(source)
    elif hasattr(source, "read"):
        source = source.read()
    if not isinstance(source, bytes | bytearray | memoryview):
        raise ValueError(f"cannot read a {type(source).__name__}; give a path, URL, bytes, PIL image or array")
    if len(source) == 0:
        raise ValueError("the image file is empty (0 bytes); get a whole copy")
    return bytes(source)


def _download(url: str) -> bytes:
    try:
        parts = urlsplit(url)  # letters beyond ASCII, and spaces, are quoted as browsers do; the host has its own code
        path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
        request = urllib.request.Request(parts._replace(path=path, query=query).geturl(), headers=HEADERS)
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.read()
    except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
        raise ValueError(f"cannot download {url} ({error}); check the address and the Internet switch") from error


def _open(content: bytes, size: int) -> Image.Image:
    if content.startswith(b"\xff\xd8\xff"):
        image = JpegImageFile(io.BytesIO(content))  # Image.open would refuse 200 megapixels
        if image.width * image.height > LARGEST_JPEG:
            raise Image.DecompressionBombError
        image.draft(None, (3 * size, 3 * size))
        return image
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if content[4:8] != b"ftyp" or not re.search(rb"hei[cmsx]|hev[cx]|mif1|msf1|avi[fs]", content[8:40]):
            raise
    from pillow_heif import register_heif_opener

    register_heif_opener()
    return Image.open(io.BytesIO(content))


def _to_uint8(values: Tensor | np.ndarray) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() else values  # NumPy has no bfloat16
        values = values[0] if values.ndim == 4 and len(values) == 1 else values
        values = (values.movedim(0, -1) if values.ndim == 3 else values).numpy()
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)) or values.size == 0:
        raise ValueError(f"an array of shape {values.shape} is no image; give (H, W), (H, W, 3) or (3, H, W) tensor")
    values = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"an array of {values.dtype} is ambiguous; give uint8, or floats in [0, 1]")
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("float pixels must lie in [0, 1] without NaN; divide by 255 first")
    return np.rint(values * 255).astype(np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or infinite pixels")
        if image.mode == "F":
            values = values * 255 if values.max() <= 1 else values
        elif image.mode.startswith("I;16") or values.max() > 255:
            values = values / 257  # Pillow would clip 16-bit samples at 255
        image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
