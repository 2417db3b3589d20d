"""Images as readers bring them: straight from a phone."""

import io
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from helpers.images import load_image, on_grid, to_bytes

RED, BLUE = (200, 40, 30), (20, 60, 180)


def photo(width: int = 400, height: int = 300) -> Image.Image:
    """As a phone stores it when held upright: lying on its side, the red top of the scene at the left."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height))
    return image


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def assert_upright(image: torch.Tensor) -> None:
    assert image.shape == (1, 3, 224, 224) and on_grid(image)
    for row, colour in ((20, RED), (200, BLUE)):
        levels = image[0, :, row].mean(1) * 255
        assert (levels - torch.tensor(colour)).abs().max() < 4, "the scene's top is above"


def exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """EXIF by hand, tags of (number, type, count, value), for values that Pillow does not write."""
    end = 8 + 2 + 12 * len(tags) + 4
    entries, values = b"", b""
    for number, kind, count, value in tags:
        place = struct.pack("<I", end + len(values)) if len(value) > 4 else value.ljust(4, b"\0")
        values += value if len(value) > 4 else b""
        entries += struct.pack("<HHI", number, kind, count) + place
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + values


LYING = (0x112, 3, 1, b"\6\0")
MALFORMED = {
    "nothing else": (0x10F, 2, 8, b"A phone\0"),
    "XResolution as text": (0x11A, 2, 6, b"72dpi\0"),
    "a negative rational": (0x11A, 10, 1, struct.pack("<ii", -1, 0)),
    "a negative Compression": (0x103, 9, 1, struct.pack("<i", -5)),
}


@pytest.mark.parametrize("other", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_stands_upright_whatever_its_other_exif_tags_say(kind: str, other: tuple[int, int, int, bytes]) -> None:
    assert_upright(load_image(encoded(photo(), kind, exif=exif(*sorted([LYING, other])), quality=95)))


ORIGIN = {  # orientation: where row 0 and column 0 of the file belong in the image (EXIF 2.3)
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize("orientation", ORIGIN)
def test_all_eight_orientations(orientation: int) -> None:
    upright = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    row, column = ORIGIN[orientation]
    stored = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    tag = exif((0x112, 3, 1, struct.pack("<H", orientation)))
    image = load_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=tag), 64)
    assert np.array_equal(to_bytes(image)[0].transpose(1, 2, 0), upright)


def test_a_jpeg_of_108_megapixels_is_read() -> None:
    image = load_image(encoded(Image.new("L", (12_000, 9_000), 86), "JPEG"))
    assert image.shape == (1, 3, 224, 224) and (to_bytes(image) == 86).all()


# --- HEIC and AVIF ----------------------------------------------------------------------------


def phone_file(brand: bytes, compatible: bytes = b"mif1") -> bytes:
    """The start of a file of the ISO base media format."""
    return b"\0\0\0\x18ftyp" + brand + bytes(4) + compatible + brand + bytes(64)


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"avif"])
def test_heic_without_its_reader_gives_the_remedy(
    brand: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # not installed
    path = tmp_path / "IMG_0002.HEIC"
    path.write_bytes(phone_file(brand))
    with pytest.raises(ValueError, match=r"IMG_0002\.HEIC is a HEIC or AVIF image.*JPEG.*pillow-heif.*Pillow 11\.3"):
        load_image(path)


def test_heic_is_read_by_its_reader_where_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def register_heif_opener() -> None:
        monkeypatch.setattr(Image, "open", lambda file: photo().rotate(-90, expand=True))

    monkeypatch.setitem(sys.modules, "pillow_heif", types.SimpleNamespace(register_heif_opener=register_heif_opener))
    assert_upright(load_image(phone_file(b"heic")))


def test_real_heic() -> None:
    heif = pytest.importorskip("pillow_heif", reason="pip install pillow-heif")
    content = io.BytesIO()
    heif.from_pillow(photo().rotate(-90, expand=True)).save(content, quality=95)
    assert_upright(load_image(content.getvalue()))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("brand", [b"avif", b"mif1"])
def test_avif_is_read_whatever_its_first_brand(brand: bytes) -> None:
    content = encoded(photo().rotate(-90, expand=True), "AVIF", quality=95)
    assert_upright(load_image(content.replace(b"ftypavif", b"ftyp" + brand)))


@pytest.mark.parametrize("content", [phone_file(b"mp42", b"isom"), phone_file(b"qt  ", b"qt  "), b"\0\0\0\x18ftyp"])
def test_a_film_is_no_image(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an image that Pillow can read"):
        load_image(content)
