"""The certificate of an attacked image.

It is a verdict about one PNG file and the weights of one network: all features of these pixels are exactly
zero, or they are not. It is no "certified robustness", which is a statement about all inputs near one.
"""

import copy
import hashlib
import io
import json
import math
import re
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from helpers.base import Base, check_base, count_nonzero
from helpers.decode import user_path
from helpers.images import load_image, to_tensor, write_file
from helpers.runtime import full_float32
from helpers.visibility import difference


@dataclass(frozen=True)
class Certificate:
    """What certify found.

    outputs, nonzero, nonzero_float64: number of features, and how many are not 0.0 in either precision.
    margin: distance of the largest pre-activation below the base's threshold, see Base.margin_reached.
    gap: largest difference of a pre-activation between float32 and float64.
    linf, psnr, ssim, ssimulacra2, flip: change against the original, see visibility.Difference; None without an
        original, the last two also without their packages.
    """

    picture: str
    picture_sha256: str
    pixels: str
    network: str
    weights_sha256: str
    preprocessing: str
    outputs: int
    nonzero: int
    nonzero_float64: int
    margin: float
    gap: float
    linf: int | None = None
    psnr: float | None = None
    ssim: float | None = None
    ssimulacra2: float | None = None
    flip: float | None = None
    original_sha256: str | None = None

    @property
    def zero(self) -> bool:
        """Whether every feature is exactly zero in float32 and in float64."""
        return self.nonzero == 0 and self.nonzero_float64 == 0

    def __str__(self) -> str:
        lines = [
            f"{self.picture}: {'zeroed: every feature is exactly zero' if self.zero else 'not zeroed'}",
            f"  {self.network}: {self.nonzero:,} of {self.outputs:,} left, {self.nonzero_float64:,} in float64",
            f"  margin {self.margin:.2g}, float32 against float64 {self.gap:.1g}",
        ]
        if self.linf is not None:
            lines.append(f"  largest change {self.linf}/255, PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}")
        if self.ssimulacra2 is not None:
            lines[-1] += f", SSIMULACRA2 {self.ssimulacra2:.0f}"
        if self.flip is not None:
            lines[-1] += f", FLIP {self.flip:.3f}"
        lines.append(f"  image sha256 {self.picture_sha256[:16]}..., weights sha256 {self.weights_sha256[:16]}...")
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write all fields and the verdict as JSON; return the path."""
        fields = {"zero": self.zero, **asdict(self)}
        fields["psnr"] = str(self.psnr) if self.psnr == math.inf else self.psnr  # JSON has no infinity
        return write_file(path, (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode())


def certify(base: Base, png: str | Path, original: str | Path | Tensor | None = None) -> Certificate:
    """Verify a saved image from its file alone, in float32 and float64, on the CPU.

    png: an 8-bit RGB PNG file without metadata, as save_png writes it; never resized.
    original: the clean image, for the size of the change: a tensor (1, 3, H, W), or any image file, cropped
    and resized as load_image does. (Default: None)
    Raises ValueError, TypeError or OSError.
    """
    check_base(base)
    content = user_path(png).read_bytes()
    image = exact_pixels(content, Path(png).name)
    base32 = copy.deepcopy(base).to("cpu")
    z32, nonzero, outputs = _evaluate(base32, image)
    z64, nonzero64, _ = _evaluate(base32.double(), image.double())
    mean, std = (", ".join(f"{v:.6f}" for v in t.flatten().tolist()) for t in (base.mean, base.std))
    return Certificate(
        picture=Path(png).name,
        picture_sha256=hashlib.sha256(content).hexdigest(),
        pixels=f"{image.shape[3]} x {image.shape[2]}, 8-bit RGB",
        network=base.name,
        weights_sha256=base.sha256,
        preprocessing=f"pixels in [0, 1], red green blue, less mean ({mean}), divided by std ({std})",
        outputs=outputs,
        nonzero=nonzero,
        nonzero_float64=nonzero64,
        margin=base.margin_reached(z32).item(),
        gap=(z32.double() - z64).abs().max().item(),
        **_change(original, image),
    )


@torch.no_grad()
@full_float32()
def _evaluate(base: Base, image: Tensor) -> tuple[Tensor, int, int]:
    """Pre-activations (1, ...), number of features that are not zero, number of features."""
    z = base.pre_activations(image)
    features = base.rest(z)
    return z, int(count_nonzero(features)), features.numel()


def _change(original: str | Path | Tensor | None, image: Tensor) -> dict[str, Any]:
    """The last fields of a certificate: how far the image is from the original, and the hash of the original's file."""
    if original is None:
        return {}
    sha256 = None
    if not isinstance(original, Tensor):
        sha256 = hashlib.sha256(user_path(original).read_bytes()).hexdigest()
        original = load_image(original, image.shape[3])
    found = asdict(difference(original.cpu(), image))
    return {name: found[name] for name in ("linf", "psnr", "ssim", "ssimulacra2", "flip")} | {"original_sha256": sha256}


def exact_pixels(content: bytes, name: str) -> Tensor:
    """The pixels (1, 3, H, W) in [0, 1] of a PNG file that every reader reads alike; ValueError for others."""
    try:
        _check_chunks(content)
        return to_tensor(Image.open(io.BytesIO(content)))
    except Exception as error:  # Pillow's readers raise anything for damaged files
        remedy = "a certificate needs an 8-bit RGB PNG file without metadata, as save_png writes it"
        raise ValueError(f"{name} cannot be certified ({error}); {remedy}") from error


def _check_chunks(content: bytes) -> None:
    """Raise ValueError unless a PNG file (ISO 15948) is whole and holds its header and 8-bit RGB pixels only."""
    kinds, place = [], 8  # after the signature
    while place < len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        kinds.append(content[place + 4 : place + 8])
        if content[end : end + 4] != zlib.crc32(content[place + 4 : end]).to_bytes(4, "big"):
            raise ValueError("not a PNG file, damaged or cut short")
        place = end + 4
    others = b", ".join(sorted({*kinds} - {b"IHDR", b"IDAT", b"IEND"})).decode("latin-1")
    if others:  # any of them can make a reader turn, colour or animate the image
        raise ValueError(f"it holds {others}, by which another reader may show other pixels")
    if not re.fullmatch(b"IHDR(IDAT)+IEND", b"".join(kinds)):
        raise ValueError("not a PNG file, damaged or cut short")
    if content[24:26] != b"\x08\x02":
        raise ValueError(f"it has {content[24]} bits a channel and colour type {content[25]}")
