"""Files and pixels.

A picture is a float32 tensor (N, 3, H, W) in [0, 1]. It is "on the 8-bit grid" when
every value is k/255: then a PNG file holds it without loss.
"""

import csv
import io
import operator
import os
import string
import struct
import tempfile
import urllib.request
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

DATA = Path(__file__).resolve().parents[1] / "data"
HEADERS = {"User-Agent": "Mozilla/5.0 (zero-out notebooks)"}  # some hosts refuse Python's default
# What Pillow's readers raise for damaged files, beside ValueError; found by feeding them altered ones.
DAMAGED = (OSError, SyntaxError, RuntimeError, LookupError, ArithmeticError, AttributeError, EOFError, struct.error)

HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands of ISO/IEC 23008-12


def load_image(source: Any, size: int = 224) -> Tensor:
    """Read one picture as a tensor (1, 3, size, size) in [0, 1], on the 8-bit grid.

    source: a path, a URL, the bytes of a file, a PIL image, an array (H, W[, 3 or 4]) of
    uint8 or of floats in [0, 1], or a tensor (3, H, W). EXIF rotation is applied,
    transparency is laid on white, the central square is resized to size x size pixels.
    HEIC, which some phones write, is read where pillow-heif is installed.
    Raises ValueError or FileNotFoundError, with the remedy. Warns when a tiny picture
    has to be enlarged more than twice.
    """
    if not is_whole(size) or size < 1:
        raise ValueError(f"size is {size!r}; give a whole number of pixels, for example 224")
    name = _name(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            picture = _to_rgb(ImageOps.exif_transpose(_open(source, name)))
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"{name} has too many pixels to open safely; make it smaller first") from error
        except UnidentifiedImageError as error:
            raise ValueError(f"{name} is not a picture that Pillow can read; save it as PNG or JPEG") from error
        except DAMAGED as error:
            if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
                raise
            raise ValueError(f"{name} is damaged or cut short ({error}); get a whole copy") from error
    side = min(picture.size)
    if 2 * side < size:
        warnings.warn(f"{name} is only {side} pixels wide or high; enlarged to {size}, it is a blur", stacklevel=2)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else f"this {type(source).__name__}"


def _open(source: Any, name: str) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source  # NumPy has no bfloat16
        source = source[0] if source.ndim == 4 and len(source) == 1 else source
        source = (source.movedim(0, -1) if source.ndim == 3 else source).numpy()
    if isinstance(source, np.ndarray):
        return Image.fromarray(_array(source))
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        source = _download(source)
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"there is no picture {path}; check the path, seen from {Path.cwd()}")
        source = path.read_bytes()
    if not isinstance(source, bytes | bytearray | memoryview):
        raise ValueError(f"cannot read a {type(source).__name__}; give a path, URL, bytes, PIL image or array")
    if len(source) == 0:
        raise ValueError("the picture file is empty (0 bytes); get a whole copy")
    _prepare(bytes(source[:12]), name)
    return Image.open(io.BytesIO(source))


def _prepare(start: bytes, name: str) -> None:
    """Let Pillow read what phones write; ValueError with the remedy where it cannot."""
    if start[4:8] != b"ftyp":
        return
    if start[8:] in HEIC:
        try:
            from pillow_heif import register_heif_opener
        except ImportError as error:
            remedy = "convert it to JPEG, or run pip install pillow-heif and load it again"
            raise ValueError(f"{name} is a HEIC picture, which Pillow alone cannot read; {remedy}") from error
        register_heif_opener()
    elif start[8:] in (b"avif", b"avis") and not features.check("avif"):
        raise ValueError(f"{name} is an AVIF picture; convert it to JPEG, or install Pillow 11.3 or newer")


def _download(url: str) -> bytes:
    try:
        parts = urlsplit(url)  # letters beyond ASCII, and spaces, as browsers send them; the host has its own code
        path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
        request = urllib.request.Request(parts._replace(path=path, query=query).geturl(), headers=HEADERS)
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.read()
    except (OSError, HTTPException, ValueError) as error:  # ValueError: no address at all
        raise ValueError(f"cannot download {url} ({error}); check the address and the Internet switch") from error


def _array(values: np.ndarray) -> np.ndarray:
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)) or values.size == 0:
        raise ValueError(f"an array of shape {values.shape} is no picture; give (H, W), (H, W, 3) or (3, H, W) tensor")
    values = values[:, :, 0] if values.ndim == 3 and values.shape[2] == 1 else values
    if values.dtype == np.uint8:
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"an array of {values.dtype} is ambiguous; give uint8, or floats in [0, 1]")
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise ValueError("float pixels must lie in [0, 1] without NaN; divide by 255 first")
    return np.rint(values * 255).astype(np.uint8)


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, dtype=np.float64)
        # Pillow clips 16-bit samples at 255 on conversion: scale them instead.
        scale = 1 if picture.mode == "F" else 257 if picture.mode.startswith("I;16") or values.max() > 255 else 1
        scaled = values * 255 if picture.mode == "F" and values.max() <= 1 else values / scale
        picture = Image.fromarray(np.rint(np.clip(scaled, 0, 255)).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def load_photos(split: str, folder: Path = DATA / "photos") -> tuple[Tensor, list[str]]:
    """The bundled photos of one split, "train" or "test": pictures (N, 3, 224, 224) and their N labels."""
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    if not rows:
        raise ValueError(f"no photos in split {split!r}; give 'train' or 'test'")
    return torch.cat([load_image(folder / row["file"]) for row in rows]), [row["label"] for row in rows]


def load_folder(folder: str | Path) -> Tensor:
    """All pictures of a folder, in the order of their names: (N, 3, 224, 224)."""
    files = [path for path in sorted(Path(folder).glob("*")) if path.suffix.lower() in (".png", ".webp", ".jpg")]
    if not files:
        raise FileNotFoundError(f"{folder} holds no pictures; was it copied whole?")
    return torch.cat([load_image(path) for path in files])


def out_folder() -> Path:
    """Where notebooks write: the folder named by ZERO_OUT_OUT, else out/ beside helpers/ or, if that is
    read-only (an attached data set on Kaggle), out/ in the working directory."""
    given = os.environ.get("ZERO_OUT_OUT")
    root = DATA.parent if os.access(DATA.parent, os.W_OK) else Path.cwd()
    folder = Path(given) if given else root / "out"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_whole(value: object) -> bool:
    """Whether a setting is a whole number, of Python's or any other kind (np.int64); True and 10.0 are none."""
    try:
        return not isinstance(value, bool) and operator.index(value) is not None
    except TypeError:
        return False


def check_number(name: str, value: object) -> None:
    """Raise one clear error for a setting that is no number."""
    try:
        float(None if isinstance(value, str) else value)  # "8" can be made a float, but not compared with one
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{name} is {value!r}; give one number, without quotes or brackets") from error


def check_images(images: Tensor, what: str = "images") -> None:
    """Raise one clear error unless images are a float32 batch (N, 3, H, W) in [0, 1]."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{what} is a {type(images).__name__}; give a tensor, for example load_image(path)")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(f"{what} has shape {tuple(images.shape)}; give (N, 3, H, W), for one picture image[None]")
    if images.dtype != torch.float32:
        raise TypeError(f"{what} is {images.dtype}; give float32 in [0, 1], for example image.float() / 255")
    if not torch.isfinite(images).all():
        raise ValueError(f"{what} holds NaN or infinite pixels; look at where it was made")
    low, high = images.min().item(), images.max().item()
    if low < 0 or high > 1:
        raise ValueError(f"{what} has pixels from {low:.3g} to {high:.3g}; give [0, 1], before normalisation")


def from_levels(levels: Tensor) -> Tensor:
    """Whole levels of 255 as pixels k/255, to the last bit as a PNG file gives them back, on every device."""
    # Not `levels / 255`: by a plain number CUDA multiplies with the rounded 1/255, one bit off for half of the levels.
    return levels / levels.new_full((), 255)


def to_grid(images: Tensor) -> Tensor:
    """The nearest pictures on the 8-bit grid, exactly as a PNG file gives them back."""
    return from_levels((images * 255).round())


def to_bytes(images: Tensor) -> np.ndarray:
    """The nearest levels 0 to 255 of pictures (..., 3, H, W), as uint8 of the same shape."""
    return (images * 255).round().byte().cpu().numpy()


def on_grid(images: Tensor) -> bool:
    """Whether every pixel is k/255, to the last bit."""
    return torch.equal(to_grid(images), images)


def save_png(image: Tensor, path: str | Path) -> Path:
    """Write one picture (1, 3, H, W) or (3, H, W) as an 8-bit PNG file; return its path.

    Rounds to the nearest k/255 (truncating would darken the picture and wake the
    network). The file is read back and compared before it takes its name, so an
    interrupted write leaves no half-written file. Raises OSError if one pixel differs.
    """
    image = image[None] if image.ndim == 3 else image
    check_images(image, "image")
    if len(image) != 1:
        raise ValueError(f"image holds {len(image)} pictures; save them one by one")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path.name} must end in .png; lossy formats destroy the attack")
    pixels = to_bytes(image[0]).transpose(1, 2, 0)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    write_file(path, content.getvalue())
    if not np.array_equal(np.array(Image.open(path)), pixels):
        raise OSError(f"{path} does not read back as it was written; try another disk")
    return path


def write_file(path: str | Path, content: bytes) -> Path:
    """Write under a temporary name, read back, then rename: never half-written. Return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        if Path(part).read_bytes() != content:
            raise OSError(f"{path} does not read back as it was written; is the disk full?")
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


@dataclass(frozen=True)
class Difference:
    """How far one picture is from another: linf in 1/255 (a whole number), l2 in [0, 1] units."""

    linf: int
    l2: float
    psnr: float
    ssim: float


def difference(original: Tensor, attacked: Tensor) -> Difference:
    """Compare two pictures (1, 3, H, W) on the 8-bit grid.

    PSNR (dB) and SSIM are scikit-image's, on values in [0, 1]; equal pictures have an
    infinite PSNR. Raises ValueError for different shapes or pictures off the grid.
    """
    for what, image in (("original", original), ("attacked", attacked)):
        check_images(image, what)
        if len(image) != 1:
            raise ValueError(f"{what} holds {len(image)} pictures; compare them one by one")
        if not on_grid(image):
            raise ValueError(f"{what} is not on the 8-bit grid; round it with to_grid first")
    if original.shape != attacked.shape:
        raise ValueError(f"shapes differ: {tuple(original.shape)} and {tuple(attacked.shape)}")
    pair = (image[0].detach().permute(1, 2, 0) for image in (original, attacked))
    a, b = (image.cpu().double().numpy() for image in pair)  # MPS has no double
    gap = np.abs(a - b)
    psnr = float(peak_signal_noise_ratio(a, b, data_range=1)) if gap.any() else float("inf")
    ssim = float(structural_similarity(a, b, channel_axis=2, data_range=1))
    return Difference(int(np.rint(gap.max() * 255)), float(np.sqrt((gap**2).sum())), psnr, ssim)
