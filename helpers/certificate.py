"""The certificate of a blinded picture: verified from the saved file alone."""

import argparse
import copy
import hashlib
import io
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from helpers.base import Base, check_base, count_nonzero
from helpers.images import DAMAGED, check_images, difference, write_file
from helpers.networks import efficientnet_lite0, vgg16_base


def room(base: Base, z: Tensor) -> Tensor:
    """Alias of Base.margin_reached."""
    return base.margin_reached(z)


def nonzero_and_margin(base: Base, images: Tensor, batch: int = 8) -> tuple[Tensor, Tensor]:
    """Alias of Base.verdict."""
    return base.verdict(images, batch)


@dataclass(frozen=True)
class Certificate:
    """What was verified from the file `picture`; `zero` is the verdict.

    outputs, nonzero, nonzero_float64: values in the last layer, and how many are not 0.0 in
    either precision. margin: how far the largest pre-activation lies below the base's threshold,
    or where it has none, minus the largest output in size (see room); gap: the largest
    difference of a pre-activation between float32 and float64. linf: the largest change of a
    pixel in 1/255, psnr and ssim: against the original, None without one.
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
        """Whether every output is exactly zero in float32 and in float64."""
        return self.nonzero == 0 and self.nonzero_float64 == 0

    def __str__(self) -> str:
        verdict = "blind: every output is exactly zero" if self.zero else "not blind"
        lines = [
            f"{self.picture}: {verdict}",
            f"  {self.network}: {self.nonzero:,} of {self.outputs:,} outputs left, {self.nonzero_float64:,} in float64",
            f"  margin {self.margin:.2g}, float32 against float64 {self.gap:.1g}",
        ]
        if self.linf is not None:
            lines.append(f"  largest change {self.linf}/255, PSNR {self.psnr:.1f} dB, SSIM {self.ssim:.3f}")
        lines.append(f"  picture sha256 {self.picture_sha256[:16]}..., weights sha256 {self.weights_sha256[:16]}...")
        return "\n".join(lines)

    def save(self, path: str | Path) -> Path:
        """Write all fields and the verdict as JSON; return the path."""
        fields = {"zero": self.zero, **asdict(self)}
        for name, value in fields.items():
            if value in (math.inf, -math.inf):  # an unchanged picture has an infinite PSNR; JSON knows none
                fields[name] = str(value)
        return write_file(path, (json.dumps(fields, indent=2, allow_nan=False) + "\n").encode())


def certify(base: Base, png: str | Path, original: str | Path | Tensor | None = None) -> Certificate:
    """Verify a saved picture from its file alone, in float32 and float64, on the CPU.

    png: an 8-bit RGB PNG file, taken as it is, never resized. original: the clean picture,
    as a file or a tensor (1, 3, H, W), for the size of the change. Raises ValueError or
    FileNotFoundError when a file is missing, is no such PNG or has another size or the base is in training
    mode, TypeError for another base.
    """
    check_base(base)
    content = Path(png).read_bytes()
    image = exact_pixels(content, Path(png).name)
    change, original_sha256 = None, None
    if original is not None:
        if not isinstance(original, Tensor):
            clean = Path(original).read_bytes()
            original_sha256 = hashlib.sha256(clean).hexdigest()
            original = exact_pixels(clean, Path(original).name)
        check_images(original, "original")
        change = difference(original.cpu(), image)
    base32 = copy.deepcopy(base).to("cpu", torch.float32)
    try:
        z32, features, margin = _evidence(base32, image)
    except RuntimeError as error:
        size = f"{image.shape[3]} x {image.shape[2]}"
        remedy = f"give one of {base.size} x {base.size}"
        raise ValueError(f"{base.name} cannot read {Path(png).name} of {size} pixels; {remedy}") from error
    z64, features64, _ = _evidence(base32.double(), image.double())
    mean, std = (", ".join(f"{v:.6f}" for v in t.flatten().tolist()) for t in (base.mean, base.std))
    return Certificate(
        picture=Path(png).name,
        picture_sha256=hashlib.sha256(content).hexdigest(),
        pixels=f"{image.shape[3]} x {image.shape[2]}, 8-bit RGB",
        network=base.name,
        weights_sha256=base.sha256,
        preprocessing=f"(pixel / 255 - mean) / std, RGB, mean ({mean}), std ({std})",
        outputs=features.numel(),
        nonzero=int(count_nonzero(features)),
        nonzero_float64=int(count_nonzero(features64)),
        margin=margin,
        gap=(z32.double() - z64).abs().max().item(),
        linf=change and change.linf,
        psnr=change and change.psnr,
        ssim=change and change.ssim,
        original_sha256=original_sha256,
    )


@torch.no_grad()
def _evidence(base: Base, image: Tensor) -> tuple[Tensor, Tensor, float]:
    z = base.pre_activations(image)
    return z, base.rest(z), room(base, z).item()


def exact_pixels(content: bytes, name: str) -> Tensor:
    """The pixels of an 8-bit RGB PNG file, as a tensor (1, 3, H, W) in [0, 1], never resized."""
    try:
        picture = Image.open(io.BytesIO(content))
        picture.load()
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is not a whole picture ({error}); give the PNG file that save_png wrote") from error
    bits = content[24] if picture.format == "PNG" else 8  # Pillow drops the lower half of 16 bits
    if picture.format != "PNG" or picture.mode != "RGB" or bits != 8:
        kind = f"{picture.format} {picture.mode}" + (f" of {bits} bits" if bits != 8 else "")
        raise ValueError(f"{name} is {kind}; a certificate needs an 8-bit RGB PNG file")
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255


NETWORKS = {"vgg16": vgg16_base, "efficientnet_lite0": lambda: efficientnet_lite0().base}


def main(arguments: list[str] | None = None) -> int:
    """The command line: certify FILE. Exit status 0 blind, 1 not blind, 2 bad input."""
    parser = argparse.ArgumentParser(prog="python -m helpers.attack")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("certify", help="verify a saved PNG file")
    command.add_argument("file", type=Path)
    command.add_argument("--original", type=Path, help="the clean picture, for the size of the change")
    command.add_argument("--network", choices=NETWORKS, default="vgg16")
    command.add_argument("--json", type=Path, help="also write the certificate to this file")
    given = parser.parse_args(arguments)
    try:
        certificate = certify(NETWORKS[given.network](), given.file, given.original)
        if given.json:
            certificate.save(given.json)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(certificate)
    return 0 if certificate.zero else 1
