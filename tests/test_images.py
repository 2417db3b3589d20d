"""Reading, writing and comparing pictures."""

import io
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import levels, noise, picture
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import images as module
from helpers.images import (
    DATA,
    Difference,
    check_images,
    difference,
    from_levels,
    load_image,
    load_photos,
    on_grid,
    out_folder,
    save_png,
    to_grid,
    write_file,
)

COLOUR = (200, 40, 90)


def encoded(image: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def plain(mode: str = "RGB", colour: object = COLOUR, size: int = 32) -> Image.Image:
    return Image.new(mode, (size, size), colour)


def pixels(size: int = 32) -> np.ndarray:
    """A picture without any symmetry, (size, size, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def assert_picture(image: Tensor, size: int) -> None:
    assert image.shape == (1, 3, size, size)
    assert image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    assert on_grid(image)


def first_pixel(image: Tensor) -> tuple[int, ...]:
    return tuple(levels(image)[0, :, 0, 0].tolist())


# --- what can be read -------------------------------------------------------------------------


def palette(transparency: int | None) -> bytes:
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, *COLOUR])
    return encoded(image) if transparency is None else encoded(image, transparency=transparency)


HALF = tuple(round(c * 128 / 255 + 127) for c in COLOUR)  # COLOUR at opacity 128/255, on white


@pytest.mark.parametrize(
    "content, expected, tolerance",
    [
        pytest.param(palette(None), COLOUR, 0, id="palette"),
        pytest.param(palette(0), COLOUR, 0, id="palette, another entry transparent"),
        pytest.param(palette(1), (255, 255, 255), 0, id="palette, transparent"),
        pytest.param(encoded(plain("L", 77)), (77, 77, 77), 0, id="grey"),
        pytest.param(encoded(plain("L", 77), transparency=77), (255, 255, 255), 0, id="grey, transparent"),
        pytest.param(encoded(plain("1", 1)), (255, 255, 255), 0, id="one bit, white"),
        pytest.param(encoded(plain("1", 0)), (0, 0, 0), 0, id="one bit, black"),
        pytest.param(encoded(plain("LA", (60, 0))), (255, 255, 255), 0, id="grey + alpha, transparent"),
        pytest.param(encoded(plain("LA", (60, 255))), (60, 60, 60), 0, id="grey + alpha, opaque"),
        pytest.param(encoded(plain("RGBA", (*COLOUR, 255))), COLOUR, 0, id="RGBA, opaque"),
        pytest.param(encoded(plain("RGBA", (*COLOUR, 0))), (255, 255, 255), 0, id="RGBA, transparent"),
        pytest.param(encoded(plain("RGBA", (*COLOUR, 128))), HALF, 1, id="RGBA, half transparent"),
        pytest.param(encoded(plain(), "JPEG", quality=95), COLOUR, 3, id="JPEG"),
        pytest.param(encoded(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), 3, id="CMYK JPEG"),
        pytest.param(encoded(plain("F", 77.0), "TIFF"), (77, 77, 77), 0, id="float TIFF"),
        pytest.param(encoded(plain("F", 0.2), "TIFF"), (51, 51, 51), 0, id="float TIFF in [0, 1]"),
    ],
)
def test_every_kind_of_file_gives_its_colour(content: bytes, expected: tuple[int, ...], tolerance: int) -> None:
    image = load_image(content, 32)
    assert_picture(image, 32)
    gap = (levels(image) - torch.tensor(expected).view(1, 3, 1, 1)).abs()
    assert gap.max() <= tolerance


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    wanted = np.arange(0, 256, dtype=np.uint16).reshape(16, 16)
    image = load_image(encoded(Image.fromarray(wanted * 257)), 16)
    assert_picture(image, 16)
    assert np.array_equal(levels(image)[0, 0].numpy(), wanted)


EXIF_ORIGIN = {  # orientation: where row 0 and column 0 of the file belong in the picture (EXIF 2.3)
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip


@pytest.mark.parametrize("orientation", EXIF_ORIGIN)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_exif_rotation_is_applied(kind: str, orientation: int) -> None:
    upright = np.array(Image.fromarray(pixels(4)).resize((64, 64), Image.Resampling.BICUBIC))
    row, column = EXIF_ORIGIN[orientation]
    stored = upright if row in ("top", "bottom") else upright.transpose(1, 0, 2)
    stored = stored[::-1] if row in ("bottom", "right") else stored
    stored = stored[:, ::-1] if column in ("bottom", "right") else stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    settings = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = load_image(encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **settings), 64)
    gap = np.abs(levels(image)[0].permute(1, 2, 0).numpy() - upright)
    assert gap.max() <= (0 if kind == "PNG" else 6)


ARRAY = pixels()
TENSOR = torch.from_numpy(ARRAY).permute(2, 0, 1)
CONTENT = encoded(Image.fromarray(ARRAY))
SOURCES = {
    "bytes": CONTENT,
    "bytearray": bytearray(CONTENT),
    "memoryview": memoryview(CONTENT),
    "PIL": Image.fromarray(ARRAY),
    "uint8 array": ARRAY,
    "float64 array": ARRAY / 255,
    "float32 array": (ARRAY / 255).astype(np.float32),
    "strided array": ARRAY[::-1, ::-1][::-1, ::-1],
    "opaque array": np.dstack([ARRAY, np.full((32, 32), 255, np.uint8)]),
    "uint8 tensor": TENSOR,
    "float tensor": TENSOR / 255,
    "batch of one": TENSOR[None] / 255,
    "leaf of a graph": (TENSOR / 255).requires_grad_(),
}


@pytest.mark.parametrize("kind", [*SOURCES, "path", "text"])
def test_every_kind_of_source_gives_the_same_pixels(kind: str, tmp_path: Path) -> None:
    path = write_file(tmp_path / "a picture.png", CONTENT)
    image = load_image({"path": path, "text": str(path), **SOURCES}[kind], 32)
    assert_picture(image, 32)
    assert np.array_equal(levels(image)[0].permute(1, 2, 0).numpy(), ARRAY)
    assert not image.requires_grad


@pytest.mark.parametrize("kind", ["array (H, W)", "array (H, W, 1)", "tensor (H, W)", "tensor (1, H, W)"])
def test_grey_arrays_and_tensors_keep_their_axes(kind: str) -> None:
    grey = ARRAY[:, :, 0]
    tensor = torch.from_numpy(grey)
    forms = {
        "array (H, W)": grey,
        "array (H, W, 1)": grey[:, :, None],
        "tensor (H, W)": tensor,
        "tensor (1, H, W)": tensor[None],
    }
    assert np.array_equal(levels(load_image(forms[kind], 32))[0, 1].numpy(), grey)


@pytest.mark.parametrize("level, nearest", [(254.7, 255), (0.4, 0), (99.6, 100)])
def test_float_pixels_go_to_the_nearest_level(level: float, nearest: int) -> None:
    image = load_image(np.full((32, 32, 3), level / 255), 32)
    assert first_pixel(image) == (nearest,) * 3


def test_bfloat16_tensors_are_read() -> None:
    assert first_pixel(load_image(torch.ones(3, 32, 32, dtype=torch.bfloat16), 32)) == (255, 255, 255)


def test_the_users_picture_is_left_alone() -> None:
    image = plain("RGBA", (*COLOUR, 0))
    before = image.tobytes()
    load_image(image, 16)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (32, 32), before)


def test_url(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/albatross.png"] = CONTENT
    image = load_image(f"{address}/albatross.png", 32)
    assert np.array_equal(levels(image)[0].permute(1, 2, 0).numpy(), ARRAY)


# --- crop and size ----------------------------------------------------------------------------


@pytest.mark.parametrize("upright", [False, True])
def test_the_central_square_is_taken_exactly(upright: bool) -> None:
    stripes = np.zeros((32, 96, 3), np.uint8)
    for third in range(3):
        stripes[:, 32 * third : 32 * (third + 1), third] = 255
    stripes[:, 32:64, 2] = np.arange(32)[:, None] if upright else np.arange(32)
    stripes = stripes.transpose(1, 0, 2) if upright else stripes
    wanted = stripes[32:64] if upright else stripes[:, 32:64]
    assert np.array_equal(levels(load_image(stripes, 32))[0].permute(1, 2, 0).numpy(), wanted)


def test_a_large_picture_is_shrunk_around_its_middle() -> None:
    stripes = np.zeros((200, 600, 3), np.uint8)
    for third in range(3):
        stripes[:, 200 * third : 200 * (third + 1), third] = 255
    image = load_image(stripes, 50)
    assert_picture(image, 50)
    assert (levels(image)[0, :, :, 2:-2] == torch.tensor([0, 255, 0]).view(3, 1, 1)).all()


def test_an_extreme_shape_never_makes_a_large_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizing the short side first would turn 8000 x 2 into 448,000 x 112 pixels."""
    made = []
    resize = Image.Image.resize

    def spy(self: Image.Image, size: tuple[int, int], *args: object, **settings: object) -> Image.Image:
        made.append(size)
        return resize(self, size, *args, **settings)

    monkeypatch.setattr(Image.Image, "resize", spy)
    with pytest.warns(UserWarning, match="only 2 pixels"):
        image = load_image(Image.new("RGB", (8000, 2), COLOUR), 112)
    assert_picture(image, 112)
    assert first_pixel(image) == COLOUR
    assert all(width <= 112 and height <= 112 for width, height in made)


def test_tiny_pictures_warn_and_others_do_not() -> None:
    with pytest.warns(UserWarning, match="only 15 pixels"):
        assert_picture(load_image(plain(size=15)), 224)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(plain(size=112))


def test_size_may_be_a_whole_number_of_numpy() -> None:
    assert torch.equal(load_image(plain(), np.int64(32)), load_image(plain(), 32))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "224", None])
def test_size_must_be_a_whole_number(size: object) -> None:
    with pytest.raises(ValueError, match=r"size is .*224"):
        load_image(plain(), size)


# --- what cannot be read ----------------------------------------------------------------------

LARGE = encoded(Image.fromarray(pixels(64)))
LARGE_JPEG = encoded(Image.fromarray(pixels(64)), "JPEG")


@pytest.mark.parametrize(
    "source, message",
    [
        pytest.param(b"GIF, or so I say", "not a picture.*save it as", id="no picture"),
        pytest.param(b"", "empty.*whole copy", id="empty"),
        pytest.param(LARGE[: len(LARGE) // 2], "damaged or cut short.*whole copy", id="half a PNG"),
        pytest.param(LARGE_JPEG[: len(LARGE_JPEG) // 2], "damaged or cut short.*whole copy", id="half a JPEG"),
        pytest.param(42, "cannot read a int; give a path", id="number"),
        pytest.param(None, "cannot read a NoneType; give a path", id="nothing"),
        pytest.param(np.full((8, 8, 3), np.nan), r"\[0, 1\] without NaN; divide", id="NaN"),
        pytest.param(np.full((8, 8, 3), np.inf), r"\[0, 1\] without NaN; divide", id="infinite"),
        pytest.param(np.full((8, 8, 3), 200.0), r"\[0, 1\] without NaN; divide by 255", id="above one"),
        pytest.param(np.full((8, 8, 3), -0.1), r"\[0, 1\] without NaN; divide", id="negative"),
        pytest.param(torch.full((3, 8, 8), 1.01), r"\[0, 1\] without NaN; divide", id="tensor above one"),
        pytest.param(np.zeros((8, 8, 3), np.int64), "int64 is ambiguous; give uint8", id="int64"),
        pytest.param(torch.zeros(3, 8, 8, dtype=torch.int64), "int64 is ambiguous; give uint8", id="int64 tensor"),
        pytest.param(np.zeros((8, 8, 3), bool), "bool is ambiguous; give uint8", id="bool"),
        pytest.param(np.zeros((8, 8, 2)), r"shape \(8, 8, 2\) is no picture; give", id="two channels"),
        pytest.param(np.zeros((3, 8, 8)), r"shape \(3, 8, 8\) is no picture; give", id="channels first array"),
        pytest.param(np.zeros((2, 8, 8, 3)), r"shape \(2, 8, 8, 3\) is no picture; give", id="batch array"),
        pytest.param(np.zeros((0, 8, 3)), r"shape \(0, 8, 3\) is no picture; give", id="no pixels"),
        pytest.param(torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\) is no picture; give", id="batch of two"),
        pytest.param(torch.zeros(7), r"shape \(7,\) is no picture; give", id="one axis"),
    ],
)
def test_bad_sources_are_named_with_a_remedy(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(source, 8)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    for content in (b"no picture", LARGE[:300]):
        path = write_file(tmp_path / "broken.png", content)
        with pytest.raises(ValueError, match=r"broken\.png"):
            load_image(path)


def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png; check the path"):
        load_image(tmp_path / "nowhere.png")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=tmp_path.name):
        load_image(tmp_path)


@pytest.mark.parametrize("limit", [700, 300])  # 32 x 32 = 1024: Pillow warns above the limit, raises above twice
def test_a_decompression_bomb_is_refused(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match=r"too many pixels.*smaller"):
        load_image(CONTENT, 32)


def test_a_page_that_is_not_there_or_breaks_off(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/cut.png"] = CONTENT
    for path in ("/missing.png", "/cut.png"):
        with pytest.raises(ValueError, match=f"cannot download {address}{path}.*check the address"):
            load_image(address + path)


def test_an_address_may_hold_letters_beyond_ascii(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/k%C3%BCken%20%C3%A9t%C3%A9.png?x=%C3%A4&y=%20"] = CONTENT
    image = load_image(f"{address}/küken %C3%A9té.png?x=ä&y=%20#ö", 32)
    assert np.array_equal(levels(image)[0].permute(1, 2, 0).numpy(), ARRAY)


@pytest.mark.parametrize("address", ["http://[::1/a.png", "http://..invalid/a.png", "http://ü..invalid/a.png"])
def test_what_is_no_address_is_one_sentence(address: str) -> None:
    with pytest.raises(ValueError, match=r"cannot download http://.*; check the address"):
        load_image(address)


def test_without_the_internet_the_address_is_named() -> None:
    with pytest.raises(ValueError, match=r"cannot download http://192\.0\.2\.1/a\.png.*Internet"):
        load_image("http://192.0.2.1/a.png")  # an address for documentation (RFC 5737)


def loads_or_says_why(content: bytes) -> None:
    """Success or ValueError; any other exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on damaged metadata
        try:
            image = load_image(content, 16)
        except ValueError as error:
            assert str(error)
        else:
            assert_picture(image, 16)


@given(st.binary(max_size=200))
def test_any_bytes_load_or_raise_value_error(content: bytes) -> None:
    loads_or_says_why(content)


def exif_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 72.0
    return encoded(Image.fromarray(pixels(16)), "JPEG", exif=exif)


WHOLE = [
    encoded(Image.fromarray(pixels(16))),
    encoded(Image.fromarray(pixels(16)).convert("P"), transparency=3),
    encoded(Image.fromarray(pixels(16)).convert("LA")),
    encoded(Image.fromarray(pixels(16)), "JPEG", progressive=True),
    encoded(Image.fromarray(pixels(16)).convert("CMYK"), "JPEG"),
    exif_jpeg(),
    encoded(Image.fromarray(pixels(16)), "TIFF"),
    encoded(Image.fromarray(pixels(16)).convert("P"), "GIF"),
    encoded(Image.fromarray(pixels(16)), "DDS"),
]


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_damage_loads_or_raises_value_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(WHOLE)))
    places = st.integers(0, len(content) - 1) | st.integers(0, 120)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=8)):
        content[place % len(content)] = value
    end = data.draw(st.integers(0, len(content)) | st.none())
    loads_or_says_why(bytes(content[:end]))


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, EOFError, IndexError, ZeroDivisionError])
def test_a_readers_odd_error_becomes_a_value_error(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers of rare formats raise these (AVIF RuntimeError, DDS NotImplementedError)."""

    def fail(self: Image.Image) -> None:
        raise error("odd")

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ValueError, match="this bytes is damaged or cut short"):
        load_image(CONTENT)


# --- check_images -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images, error, message",
    [
        (np.zeros((1, 3, 8, 8), np.float32), TypeError, "ndarray; give a tensor"),
        (torch.zeros(3, 8, 8), ValueError, r"shape \(3, 8, 8\).*image\[None\]"),
        (torch.zeros(1, 8, 8, 3), ValueError, r"shape \(1, 8, 8, 3\); give \(N, 3, H, W\)"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"shape \(1, 1, 8, 8\); give"),
        (torch.zeros(0, 3, 8, 8), ValueError, r"shape \(0, 3, 8, 8\); give"),
        (torch.zeros(1, 3, 0, 8), ValueError, r"shape \(1, 3, 0, 8\); give"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, r"torch\.uint8; give float32"),
        (torch.zeros(1, 3, 8, 8).double(), TypeError, r"torch\.float64; give float32"),
        (torch.zeros(1, 3, 8, 8).half(), TypeError, r"torch\.float16; give float32"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "NaN or infinite pixels"),
        (torch.full((1, 3, 8, 8), -torch.inf), ValueError, "NaN or infinite pixels"),
        (torch.full((1, 3, 8, 8), 128.0), ValueError, r"from 128 to 128; give \[0, 1\]"),
        (torch.full((1, 3, 8, 8), -0.5), ValueError, r"from -0\.5 to -0\.5; give \[0, 1\]"),
    ],
)
def test_check_images_names_the_value_and_the_remedy(images: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^the thing .*{message}"):
        check_images(images, "the thing")


def test_check_images_lets_good_pictures_pass() -> None:
    check_images(noise(3))
    check_images(torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 4))


# --- the grid and the PNG file ----------------------------------------------------------------


def test_every_grey_level_survives_the_grid_and_the_file(tmp_path: Path) -> None:
    image = (torch.arange(256) / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_grid(image), image)
    assert on_grid(image)
    assert torch.equal(load_image(save_png(image, tmp_path / "all.png"), 16), image)
    assert not on_grid(image + 1e-6)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**31), st.integers(8, 20))
def test_a_file_gives_back_the_rounded_picture(tmp_path: Path, seed: int, size: int) -> None:
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    back = load_image(save_png(image, tmp_path / "picture.png"), size)
    assert torch.equal(back, to_grid(image))
    assert (back - image).abs().max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("level, stored", [(253.51, 254), (254.49, 254), (254.7, 255), (0.4, 0), (0.6, 1)])
def test_save_png_rounds_and_never_truncates(level: float, stored: int, tmp_path: Path) -> None:
    path = save_png(torch.full((3, 8, 8), level / 255), tmp_path / "grey.png")
    assert (np.array(Image.open(path)) == stored).all()


def test_save_png_makes_a_plain_png_and_the_folder_for_it(tmp_path: Path) -> None:
    path = save_png(noise(), tmp_path / "new" / "folder" / "picture.PNG")
    with Image.open(path) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (8, 8))
    assert [entry.name for entry in path.parent.iterdir()] == ["picture.PNG"]


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.png.webp"])
def test_save_png_refuses_other_formats(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png"):
        save_png(noise(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("image", [noise(2), noise()[0, 0], noise() * 2, noise() * torch.nan, noise().double()])
def test_save_png_refuses_what_is_not_one_picture(image: Tensor, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=r"image (holds|has|is)"):
        save_png(image, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_nothing(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        save_png(noise(), tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_png(picture(10.0), tmp_path / "picture.png")
    old = path.read_bytes()
    monkeypatch.setattr(os, "fdopen", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_png(picture(20.0), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_reads_back_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"something else")
    with pytest.raises(OSError, match="does not read back as it was written"):
        save_png(noise(), tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unprivileged")
def test_a_read_only_folder_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        save_png(noise(), tmp_path / "picture.png")
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OSError):
        save_png(noise(), tmp_path / "folder" / "picture.png")
    assert (tmp_path / "folder").read_text(encoding="utf-8") == "a file"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_others_may_read_the_file(tmp_path: Path) -> None:
    assert save_png(noise(), tmp_path / "picture.png").stat().st_mode & 0o777 == 0o644


# --- difference -------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 8, 255])
def test_difference_of_plain_pictures_in_closed_form(level: int) -> None:
    found = difference(picture(0.0), picture(float(level)))
    assert found.linf == level and isinstance(found.linf, int)
    assert found.l2 == pytest.approx(level / 255 * (3 * 8 * 8) ** 0.5)
    assert found.psnr == pytest.approx(20 * np.log10(255 / level), abs=1e-6)
    # SSIM of two plain pictures a, b: (2ab + c1) / (a^2 + b^2 + c1), here with a = 0 (Wang et al. 2004).
    c1 = 0.01**2
    assert found.ssim == pytest.approx(c1 / ((level / 255) ** 2 + c1), abs=1e-6)


def test_difference_of_one_pixel() -> None:
    original = noise()
    attacked = original.clone()
    attacked[0, 1, 2, 3] = (attacked[0, 1, 2, 3] * 255 + 5).round() / 255
    assert attacked.max() <= 1
    found = difference(original, attacked)
    assert found.linf == 5
    assert found.l2 == pytest.approx(5 / 255)
    assert 0.9 < found.ssim < 1
    assert difference(attacked, original) == found


def test_difference_does_not_mind_gradients() -> None:
    assert difference(noise().requires_grad_(), picture(9.0)) == difference(noise(), picture(9.0).requires_grad_())


def test_difference_of_equal_pictures() -> None:
    assert difference(noise(), noise()) == Difference(0, 0.0, float("inf"), 1.0)


@pytest.mark.parametrize(
    "original, attacked, message",
    [
        (noise() * 0.999, noise(), "original is not on the 8-bit grid; round it"),
        (noise(), noise() * 0.999, "attacked is not on the 8-bit grid; round it"),
        (noise(2), noise(), "original holds 2 pictures; compare them one by one"),
        (noise(), noise(size=16), r"shapes differ: \(1, 3, 8, 8\) and \(1, 3, 16, 16\)"),
        (noise(), noise()[0], r"attacked has shape \(3, 8, 8\)"),
    ],
)
def test_difference_refuses_what_it_cannot_compare(original: Tensor, attacked: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference(original, attacked)


# --- the bundled photos and the place for results -----------------------------------------------


def test_bundled_pictures_are_whole_and_exact() -> None:
    paths = sorted((DATA / "images").glob("*.png"))
    assert DATA / "images" / "albatross.png" in paths
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "RGB"), path.name
            assert image.size == (224, 224), path.name  # so that a certificate needs no resizing


@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_photos_have_the_labels_of_their_folders(split: str) -> None:
    images, labels = load_photos(split)
    assert images.shape == (len(labels), 3, 224, 224)
    assert on_grid(images)
    folders = [path.parent.name for path in (DATA / "photos" / split).rglob("*.jpg")]
    assert sorted(labels) == sorted(folders)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="'validation'; give 'train' or 'test'"):
        load_photos("validation")


def test_results_go_where_they_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERO_OUT_OUT", str(tmp_path / "given" / "deep"))
    assert out_folder() == tmp_path / "given" / "deep" and out_folder().is_dir()
    monkeypatch.delenv("ZERO_OUT_OUT")
    monkeypatch.setattr(module, "DATA", tmp_path / "data")
    assert out_folder() == tmp_path / "out" and out_folder().is_dir()
    monkeypatch.setattr(os, "access", lambda *_: False)  # an attached data set
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    assert out_folder() == tmp_path / "working" / "out" and out_folder().is_dir()


DEVICES = [
    "cpu",
    *(["cuda"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.backends.mps.is_available() else []),
]


@pytest.mark.parametrize("device", DEVICES)
def test_every_level_is_the_nearest_float_on_every_device(device: str) -> None:
    every = torch.arange(256.0, device=device)
    wanted = np.arange(256, dtype=np.float32) / np.float32(255)
    assert np.array_equal(from_levels(every).cpu().numpy(), wanted)
    assert np.array_equal(to_grid(from_levels(every)).cpu().numpy(), wanted)


class Divisors(TorchDispatchMode):
    """Notes what is divided by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket is torch.ops.aten.div:
            self.seen.append(args[1])
        return function(*args, **(kwargs or {}))


def test_levels_are_divided_by_a_tensor_of_their_device() -> None:
    """By a number, CUDA would multiply with a rounded 1/255: other pixels than those of the file."""
    levels = torch.zeros(2, 3, 4, 4, device="meta")
    with Divisors() as divisors:
        to_grid(levels)
    (divisor,) = divisors.seen
    assert isinstance(divisor, Tensor) and divisor.device.type == "meta"
