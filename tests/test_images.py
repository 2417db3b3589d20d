"""Reading, writing and comparing images."""

import io
import os
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import levels, noise, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import images as module
from helpers.images import (
    DATA,
    Difference,
    difference,
    from_levels,
    load_folder,
    load_image,
    load_photos,
    on_grid,
    out_folder,
    save_png,
    to_bytes,
    to_grid,
    user_path,
    write_file,
)

COLOUR = (200, 40, 90)
ARRAY = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # without any symmetry
TENSOR = torch.from_numpy(ARRAY).permute(2, 0, 1)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def plain(mode: str = "RGB", colour: object = COLOUR, size: int = 32) -> Image.Image:
    return Image.new(mode, (size, size), colour)


CONTENT = encoded(ARRAY)


def assert_image(image: Tensor, size: int) -> None:
    assert image.shape == (1, 3, size, size) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1 and on_grid(image)


def assert_array(image: Tensor, wanted: np.ndarray = ARRAY) -> None:
    assert np.array_equal(to_bytes(image)[0].transpose(1, 2, 0), wanted)


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
    assert_image(image, 32)
    gap = (levels(image) - torch.tensor(expected).view(1, 3, 1, 1)).abs()
    assert gap.max() <= tolerance


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    wanted = np.arange(0, 256, dtype=np.uint16).reshape(16, 16)
    image = load_image(encoded(Image.fromarray(wanted * 257)), 16)
    assert_image(image, 16)
    assert np.array_equal(levels(image)[0, 0].numpy(), wanted)


SOURCES = {
    "bytes": CONTENT,
    "bytearray": bytearray(CONTENT),
    "memoryview": memoryview(CONTENT),
    "PIL": Image.fromarray(ARRAY),
    "uint8 array": ARRAY,
    "float64 array": ARRAY / 255,
    "float32 array": (ARRAY / 255).astype(np.float32),
    "opaque array": np.dstack([ARRAY, np.full((32, 32), 255, np.uint8)]),
    "uint8 tensor": TENSOR,
    "float tensor": TENSOR / 255,
    "batch of one": TENSOR[None] / 255,
    "leaf of a graph": (TENSOR / 255).requires_grad_(),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_source_gives_the_same_pixels(source: object) -> None:
    assert_array(load_image(source, 32))


@pytest.mark.parametrize(
    "form", [str, Path, Path.as_uri, lambda path: path.open("rb"), lambda path: io.BytesIO(CONTENT)]
)
def test_every_way_to_name_a_file_gives_the_same_pixels(form: object, tmp_path: Path) -> None:
    assert_array(load_image(form(write_file(tmp_path / "an image.png", CONTENT)), 32))


@pytest.mark.parametrize("source", [ARRAY[:, :, 0], ARRAY[:, :, :1], TENSOR[0], TENSOR[:1]])
def test_grey_arrays_and_tensors_keep_their_axes(source: object) -> None:
    assert_array(load_image(source, 32), ARRAY[:, :, [0, 0, 0]])


def test_the_users_image_is_left_alone() -> None:
    image = plain("RGBA", (*COLOUR, 0))
    before = image.tobytes()
    load_image(image, 16)
    assert (image.mode, image.size, image.tobytes()) == ("RGBA", (32, 32), before)


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
def test_url(scheme: str, server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/albatross.png"] = CONTENT
    assert_array(load_image(f"{address}/albatross.png".replace("http", scheme), 32))


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


def test_an_extreme_shape_is_read() -> None:
    with pytest.warns(UserWarning, match="only 2 pixels"):
        assert_image(load_image(Image.new("RGB", (8000, 2), COLOUR), 112), 112)


def test_tiny_images_warn_and_others_do_not() -> None:
    with pytest.warns(UserWarning, match="only 15 pixels"):
        load_image(plain(size=15))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(plain(size=112))


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "224", (224, 224), None])
def test_size_must_be_a_whole_number(size: object) -> None:
    with pytest.raises(ValueError, match=r"size is .*; give a whole number of pixels, for example 224"):
        load_image(plain(), size)


# --- what cannot be read ----------------------------------------------------------------------

JPEG = encoded(ARRAY, "JPEG")


@pytest.mark.parametrize(
    "source, message",
    [
        pytest.param(b"GIF, or so I say", "not an image.*save it as", id="no image"),
        pytest.param(b"", "empty.*whole copy", id="empty"),
        pytest.param(CONTENT[: len(CONTENT) // 2], "damaged or unusual.*whole copy", id="half a PNG"),
        pytest.param(JPEG[: len(JPEG) // 2], "damaged or unusual.*whole copy", id="half a JPEG"),
        pytest.param(42, "cannot read a int; give a path", id="number"),
        pytest.param(None, "cannot read a NoneType; give a path", id="nothing"),
        pytest.param(io.StringIO("text"), "cannot read a str; give a path", id="text file"),
        pytest.param(plain("F", float("nan")), "NaN or infinite pixels", id="NaN in mode F"),
        pytest.param(np.full((8, 8, 3), np.nan), r"\[0, 1\] without NaN; divide", id="NaN"),
        pytest.param(np.full((8, 8, 3), np.inf), r"\[0, 1\] without NaN; divide", id="infinite"),
        pytest.param(np.full((8, 8, 3), 200.0), r"\[0, 1\] without NaN; divide by 255", id="above one"),
        pytest.param(np.full((8, 8, 3), -0.1), r"\[0, 1\] without NaN; divide", id="negative"),
        pytest.param(torch.full((3, 8, 8), 1.01), r"\[0, 1\] without NaN; divide", id="tensor above one"),
        pytest.param(np.zeros((8, 8, 3), np.int64), "int64 is ambiguous; give uint8", id="int64"),
        pytest.param(torch.zeros(3, 8, 8, dtype=torch.int64), "int64 is ambiguous; give uint8", id="int64 tensor"),
        pytest.param(np.zeros((8, 8, 3), bool), "bool is ambiguous; give uint8", id="bool"),
        pytest.param(np.zeros((8, 8, 2)), r"shape \(8, 8, 2\) is no image; give", id="two channels"),
        pytest.param(np.zeros((3, 8, 8)), r"shape \(3, 8, 8\) is no image; give", id="channels first array"),
        pytest.param(np.zeros((2, 8, 8, 3)), r"shape \(2, 8, 8, 3\) is no image; give", id="batch array"),
        pytest.param(np.zeros((0, 8, 3)), r"shape \(0, 8, 3\) is no image; give", id="no pixels"),
        pytest.param(torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\) is no image; give", id="batch of two"),
        pytest.param(torch.zeros(7), r"shape \(7,\) is no image; give", id="one axis"),
    ],
)
def test_bad_sources_are_named_with_a_remedy(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(source, 8)


def test_errors_name_the_file_and_not_its_buffer(tmp_path: Path) -> None:
    path = write_file(tmp_path / "broken.png", b"no image")
    with pytest.raises(ValueError, match=r"broken\.png is not an image that Pillow can read; save"):
        load_image(path)


def test_a_missing_file_and_a_folder_are_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png; check the path"):
        load_image(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=f"{tmp_path.name} is a folder; .*load_folder"):
        load_image(tmp_path)


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG file whose header names this size."""
    start = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + JPEG[start + 4 :]


def png_of(width: int, height: int) -> bytes:
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + CONTENT[24:29]
    return CONTENT[:12] + header + zlib.crc32(header).to_bytes(4, "big") + CONTENT[33:]


@pytest.mark.parametrize("content", [jpeg_of(65_000, 65_000), png_of(20_000, 20_000)], ids=["JPEG", "PNG"])
def test_a_decompression_bomb_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"too many pixels.*smaller"):
        load_image(content)


def test_a_png_with_a_huge_text_gets_one_sentence() -> None:
    text = PngInfo()
    text.add_text("comment", "0" * 2_000_000, zip=True)
    with pytest.raises(ValueError, match=r"this bytes is damaged or unusual .*; .*save it as PNG"):
        load_image(encoded(ARRAY, pnginfo=text))


def test_a_page_that_is_not_there_or_breaks_off(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/cut.png"] = CONTENT
    for path in ("/missing.png", "/cut.png"):
        with pytest.raises(ValueError, match=f"cannot download {address}{path}.*check the address"):
            load_image(address + path)


def test_an_address_may_hold_letters_beyond_ascii(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/k%C3%BCken%20%C3%A9t%C3%A9.png?x=%C3%A4&y=%20"] = CONTENT
    assert_array(load_image(f"{address}/küken %C3%A9té.png?x=ä&y=%20#ö", 32))


@pytest.mark.parametrize(
    "address", ["http://[::1/a.png", "http://ü..invalid/a.png", "http://192.0.2.1/a.png", "file:///nowhere/a.png"]
)
def test_an_address_that_leads_nowhere_is_one_sentence(address: str) -> None:
    with pytest.raises(ValueError, match=r"cannot download \w+://.*; check the address"):
        load_image(address)


def loads_or_says_why(content: bytes) -> None:
    """Success or ValueError; any other exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on damaged metadata
        try:
            image = load_image(content, 16)
        except ValueError as error:
            assert str(error)
        else:
            assert_image(image, 16)


@given(st.binary(max_size=200))
def test_any_bytes_load_or_raise_value_error(content: bytes) -> None:
    loads_or_says_why(content)


SMALL = Image.fromarray(ARRAY[:16, :16])


def exif_jpeg() -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a description", 72.0
    return encoded(SMALL, "JPEG", exif=exif)


WHOLE = [
    encoded(SMALL),
    encoded(SMALL.convert("P"), transparency=3),
    encoded(SMALL.convert("LA")),
    encoded(SMALL, "JPEG", progressive=True),
    encoded(SMALL.convert("CMYK"), "JPEG"),
    exif_jpeg(),
    encoded(SMALL, "TIFF"),
    encoded(SMALL.convert("P"), "GIF"),
    encoded(SMALL, "DDS"),
]


@pytest.mark.parametrize("level, stored", [(253.51, 254), (254.49, 254), (254.7, 255), (0.4, 0), (0.6, 1)])
def test_save_png_rounds_and_never_truncates(level: float, stored: int, tmp_path: Path) -> None:
    path = save_png(torch.full((3, 8, 8), level / 255), tmp_path / "grey.png")
    assert (np.array(Image.open(path)) == stored).all()


@pytest.mark.parametrize("name", ["picture.jpg", "picture", "picture.png.webp"])
def test_save_png_refuses_other_formats(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png"):
        save_png(noise(), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("image", [noise(2), noise()[0, 0], noise() * 2])
def test_save_png_refuses_what_is_not_one_picture(image: Tensor, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=r"image (holds|has)"):
        save_png(image, tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["fdopen", "replace"])
def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing(
    error: BaseException, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_png(picture(10.0), tmp_path / "picture.png")
    old = path.read_bytes()
    monkeypatch.setattr(os, moment, lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(type(error)):
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


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege")
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = save_png(picture(10.0), tmp_path / "target.png"), tmp_path / "link.png"
    link.symlink_to(target)
    save_png(picture(20.0), link)
    assert link.is_symlink() and levels(load_image(target, 8)).eq(20).all()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, while the working folder is another."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_tilde_is_the_home_folder(home: Path) -> None:
    assert save_png(noise(), "~/a.png") == home / "a.png"
    assert torch.equal(load_image("~/a.png", 8), noise())
    assert load_folder("~").shape == (1, 3, 224, 224)
    assert not list(Path.cwd().iterdir())


def test_a_file_whose_name_starts_with_a_tilde_is_read(home: Path) -> None:
    write_file("~x.png", CONTENT)
    assert user_path("~x.png") == Path("~x.png")
    assert_array(load_image("~x.png", 32))


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


def test_difference_of_equal_pictures() -> None:
    assert difference(noise(), noise()) == Difference(0, 0.0, float("inf"), 1.0)


@pytest.mark.parametrize(
    "original, attacked, message",
    [
        (noise() * 0.999, noise(), "original is not on the 8-bit grid; round it"),
        (noise(), noise() * 0.999, "attacked is not on the 8-bit grid; round it"),
        (noise(2), noise(), "original holds 2 images; compare them one by one"),
        (noise(), noise(size=16), r"shapes differ: \(1, 3, 8, 8\) and \(1, 3, 16, 16\)"),
        (noise(), noise()[0], r"attacked has shape \(3, 8, 8\)"),
        (noise(size=6), noise(size=6), "6 x 6 pixels; SSIM needs 7 x 7"),
    ],
)
def test_difference_refuses_what_it_cannot_compare(original: Tensor, attacked: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference(original, attacked)


# --- folders of images and the place for results -----------------------------------------------


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


def test_a_folder_is_read_whole_and_what_is_skipped_is_named(tmp_path: Path) -> None:
    kinds = {
        "a.bmp": "BMP",
        "b.GIF": "GIF",
        "c.jpeg": "JPEG",
        "d.JPG": "JPEG",
        "e.png": "PNG",
        "f.tif": "TIFF",
        "g.webp": "WEBP",
    }
    for place, (name, kind) in enumerate(kinds.items()):
        (tmp_path / name).write_bytes(encoded(plain("L", 30 * place, 224), kind))
    for hidden in ("._c.jpg", ".DS_Store"):  # macOS leaves them
        (tmp_path / hidden).write_bytes(b"\0\5\x16\7")
    (tmp_path / "folder.png").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load_folder(tmp_path)
    assert (levels(images)[:, 0, 0, 0] - torch.arange(7) * 30).abs().max() <= 2
    (tmp_path / "notes.txt").write_text("of a trip")
    with pytest.warns(UserWarning, match=r"skipped in .*: notes\.txt$"):
        load_folder(tmp_path)


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} holds no images"):
        load_folder(tmp_path)


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
