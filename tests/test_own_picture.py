"""Pictures as readers bring them: straight from a phone."""

import io
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from helpers import images as module
from helpers.images import load_image, on_grid

RED, BLUE = (200, 40, 30), (20, 60, 180)
TALL, WIDE = 3024, 4032  # a phone's sensor, 12 megapixels


def photo() -> Image.Image:
    """As a phone stores it when held upright: lying on its side, the red top of the scene at the left."""
    pixels = np.empty((TALL, WIDE, 3), np.uint8)
    pixels[:, : WIDE // 2], pixels[:, WIDE // 2 :] = RED, BLUE
    return Image.fromarray(pixels)


def encoded(picture: Image.Image, kind: str, **settings: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **settings)
    return content.getvalue()


def assert_upright(image: torch.Tensor) -> None:
    assert image.shape == (1, 3, 224, 224) and on_grid(image)
    for row, colour in ((20, RED), (200, BLUE)):
        levels = image[0, :, row].mean(1) * 255
        assert (levels - torch.tensor(colour)).abs().max() < 4, "the scene's top is above"


@pytest.mark.parametrize("kind", ["file", "bytes"])
def test_a_phone_photo_of_12_megapixels_stands_upright(kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    exif[0x010F] = "A phone"
    content = encoded(photo(), "JPEG", exif=exif, quality=85)
    path = tmp_path / "IMG_0001.JPG"
    path.write_bytes(content)
    assert_upright(load_image(path if kind == "file" else content))


def phone_file(brand: bytes) -> bytes:
    """The start of a file of the ISO base media format."""
    return b"\0\0\0\x18ftyp" + brand + b"\0\0\0\0mif1" + brand + b"\0" * 64


@pytest.mark.parametrize("brand", module.HEIC)
def test_heic_without_its_reader_gives_the_remedy(
    brand: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    path = tmp_path / "IMG_0002.HEIC"
    path.write_bytes(phone_file(brand))
    with pytest.raises(ValueError, match=r"IMG_0002\.HEIC is a HEIC picture.*JPEG.*pip install pillow-heif"):
        load_image(path)
    with pytest.raises(ValueError, match="this bytearray is a HEIC picture"):
        load_image(bytearray(path.read_bytes()))


def test_heic_is_read_by_its_reader_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    reader = types.SimpleNamespace(register_heif_opener=lambda: calls.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", reader)
    monkeypatch.setattr(Image, "open", lambda file: photo().rotate(-90, expand=True))
    assert_upright(load_image(phone_file(b"heic")))
    assert calls == [True]


def test_real_heic_and_its_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif", reason="pip install pillow-heif")
    upright = photo().rotate(-90, expand=True).resize((TALL // 4, WIDE // 4))
    content = io.BytesIO()
    heif.from_pillow(upright).save(content, quality=95)
    assert_upright(load_image(content.getvalue()))
    with pytest.raises(ValueError, match=r"damaged or cut short|not a picture"):
        load_image(content.getvalue()[:200])


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read() -> None:
    small = photo().rotate(-90, expand=True).resize((TALL // 4, WIDE // 4))
    assert_upright(load_image(encoded(small, "AVIF", quality=95)))


@pytest.mark.parametrize("brand", [b"avif", b"avis"])
def test_avif_without_its_reader_gives_the_remedy(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ValueError, match=r"is an AVIF picture; convert it to JPEG, or install Pillow 11\.3"):
        load_image(phone_file(brand))


@pytest.mark.parametrize("content", [phone_file(b"mp42"), phone_file(b"qt  "), b"\0\0\0\x18ftyp"])
def test_a_film_is_no_picture(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a picture that Pillow can read"):
        load_image(content)
