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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from helpers.base import Base, check_base, count_nonzero
from helpers.decode import read_file
from helpers.images import difference, read_image, to_tensor, write_file
from helpers.runtime import full_float32

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PLAIN = {b"IHDR", b"IDAT", b"IEND"}  # any other chunk can make a reader turn, colour or animate the image


@dataclass(frozen=True)
class Certificate:
    """What certify found.

    outputs, nonzero, nonzero_float64: number of features, and how many are not 0.0 in either precision.
    margin: distance of the largest pre-activation below the base's threshold, see Base.margin_reached.
    gap: largest difference of a pre-activation between float32 and float64.
    linf, psnr, ssim: change against the original in 1/255, in dB and as SSIM; None without an original.
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
    Raises ValueError, FileNotFoundError or TypeError.
    """
    check_base(base)
    content, name = read_file(png), Path(png).name
    image = exact_pixels(content, name)  # (1, 3, H, W)
    height, width = image.shape[2:]
    original_sha256 = None
    if isinstance(original, str | Path):
        original_sha256 = hashlib.sha256(read_file(original)).hexdigest()
        original = read_image(original, width, height)
    change = None if original is None else difference(original.cpu(), image)
    base32 = copy.deepcopy(base).to("cpu")
    z32, nonzero, outputs = _evaluate(base32, image)
    z64, nonzero64, _ = _evaluate(base32.double(), image.double())
    mean, std = (", ".join(f"{v:.6f}" for v in t.flatten().tolist()) for t in (base.mean, base.std))
    return Certificate(
        picture=name,
        picture_sha256=hashlib.sha256(content).hexdigest(),
        pixels=f"{width} x {height}, 8-bit RGB",
        network=base.name,
        weights_sha256=base.sha256,
        preprocessing=f"pixels in [0, 1], red green blue, less mean ({mean}), divided by std ({std})",
        outputs=outputs,
        nonzero=nonzero,
        nonzero_float64=nonzero64,
        margin=base.margin_reached(z32).item(),
        gap=(z32.double() - z64).abs().max().item(),
        linf=change and change.linf,
        psnr=change and change.psnr,
        ssim=change and change.ssim,
        original_sha256=original_sha256,
    )


@torch.no_grad()
@full_float32()
def _evaluate(base: Base, image: Tensor) -> tuple[Tensor, int, int]:
    """Pre-activations (1, ...), number of features that are not zero, number of features."""
    z = base.pre_activations(image)
    features = base.rest(z)
    return z, int(count_nonzero(features)), features.numel()


def exact_pixels(content: bytes, name: str) -> Tensor:
    """The pixels (1, 3, H, W) in [0, 1] of a PNG file that every reader reads alike; ValueError for others."""
    remedy = "a certificate needs an 8-bit RGB PNG file without metadata, as save_png writes it"
    if not content.startswith(SIGNATURE):
        raise ValueError(f"{name} is not a PNG file; {remedy}")
    chunks = list(_chunks(content))
    kinds = {kind for kind, _ in chunks}
    if b"" in kinds or not re.fullmatch(b"IHDR(IDAT)+IEND", b"".join(kind for kind, _ in chunks if kind in PLAIN)):
        raise ValueError(f"{name} is damaged or cut short; {remedy}")
    others = b", ".join(sorted(kinds - PLAIN)).decode("latin-1")
    if others:
        raise ValueError(f"{name} holds {others}, by which another reader may show other pixels; {remedy}")
    bits, colour = chunks[0][1].ljust(13)[8:10]
    if (bits, colour) != (8, 2):
        raise ValueError(f"{name} is a PNG file of {bits} bits and colour type {colour}; {remedy}")
    try:
        return to_tensor(Image.open(io.BytesIO(content)))
    except Exception as error:  # Pillow's readers raise anything for damaged files
        raise ValueError(f"{name} is damaged, cut short or too large; {remedy}") from error


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk of a PNG file (ISO 15948); after a wrong checksum one without a kind."""
    place = len(SIGNATURE)
    while place < len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        chunk = content[place + 4 : end]
        if content[end : end + 4] != zlib.crc32(chunk).to_bytes(4, "big"):
            chunk, end = b"", len(content)
        yield chunk[:4], chunk[4:]
        place = end + 4
