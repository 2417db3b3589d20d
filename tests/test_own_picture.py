"""Images as readers bring them: straight from a phone."""

import runpy
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import encoded
from PIL import Image, features
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from helpers import decode
from helpers.images import load_image, to_bytes

RED, BLUE = (200, 40, 30), (20, 60, 180)


def photo() -> Image.Image:
    """As a phone stores it when held upright: lying on its side, the red top of the scene at the left."""
    image = Image.new("RGB", (400, 300), BLUE)
    image.paste(RED, (0, 0, 200, 300))
    return image


def assert_upright(image: torch.Tensor) -> None:
    for row, colour in ((20, RED), (200, BLUE)):
        levels = image[0, :, row].mean(1) * 255
        assert (levels - torch.tensor(colour)).abs().max() < 4, "the scene's top is above"


def exif(orientation: int) -> bytes:
    """EXIF that Pillow would not write by itself: XResolution as text, a negative Compression."""
    tags = ImageFileDirectory_v2()
    tags[0x112] = orientation
    for tag, kind, value in ((0x103, 9, -5), (0x11A, 2, "72dpi")):
        tags.tagtype[tag], tags[tag] = kind, value
    return b"Exif\0\0II*\0\x08\0\0\0" + tags.tobytes(8)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_stands_upright_whatever_its_other_exif_tags_say(kind: str) -> None:
    assert_upright(load_image(encoded(photo(), kind, exif=exif(6), quality=95)))


ORIGIN = {  # orientation: where row 0 and column 0 of the file belong in the image (EXIF 2.3)
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


def test_all_eight_orientations() -> None:
    upright = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for value, (row, column) in ORIGIN.items():
        stored = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
        stored = stored[::-1] if row in ("bottom", "right") else stored
        stored = stored[:, ::-1] if column in ("bottom", "right") else stored
        content = encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif(value))
        assert np.array_equal(to_bytes(load_image(content, 64))[0].transpose(1, 2, 0), upright), value


def test_a_jpeg_of_108_megapixels_is_read() -> None:
    content = encoded(Image.new("L", (12_000, 9_000), 86), "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = load_image(content)
    assert image.shape == (1, 3, 224, 224) and (to_bytes(image) == 86).all()
    assert decode.read_rgb(content, 672).height < 2000, "it was shrunk while it was decoded"


def test_heic_without_its_reader_gives_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "IMG_0002.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(4) + b"mif1heic" + bytes(64))
    with pytest.raises(ValueError, match=r"IMG_0002\.HEIC cannot be read as an image.*JPEG; HEIC needs pillow-heif"):
        load_image(path)


def test_the_reader_of_heic_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    reader = types.SimpleNamespace(register_heif_opener=lambda: called.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    runpy.run_path(decode.__file__)
    assert called


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_whatever_its_first_brand() -> None:
    content = encoded(photo().rotate(-90, expand=True), "AVIF", quality=95)
    assert_upright(load_image(content.replace(b"ftypavif", b"ftypmif1")))
