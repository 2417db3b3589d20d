"""Reading, writing and comparing images."""

import operator
import os
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import encoded, levels, noise, picture
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from helpers import images as module
from helpers.images import (
    DATA,
    from_levels,
    load_folder,
    load_image,
    load_photos,
    on_grid,
    out_folder,
    save_png,
    to_bytes,
    to_grid,
    write_file,
)

COLOUR = (200, 40, 90)
ARRAY = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)  # without any symmetry
TENSOR = torch.from_numpy(ARRAY).permute(2, 0, 1)


def plain(mode: str, colour: object, size: int = 32) -> Image.Image:
    return Image.new(mode, (size, size), colour)


CONTENT = encoded(ARRAY)


def assert_array(image: Tensor, wanted: np.ndarray = ARRAY) -> None:
    assert image.dtype == torch.float32 and on_grid(image)
    assert np.array_equal(to_bytes(image)[0].transpose(1, 2, 0), wanted)


# --- what can be read -------------------------------------------------------------------------

PALETTE = plain("P", 1)
PALETTE.putpalette([0, 0, 0, *COLOUR])
HALF = tuple(round(c * 128 / 255 + 127) for c in COLOUR)  # COLOUR at opacity 128/255, on white


@pytest.mark.parametrize(
    "content, expected, tolerance",
    [
        pytest.param(encoded(PALETTE), COLOUR, 0, id="palette"),
        pytest.param(encoded(PALETTE, transparency=1), (255, 255, 255), 0, id="palette, transparent"),
        pytest.param(encoded(plain("1", 1)), (255, 255, 255), 0, id="one bit"),
        pytest.param(encoded(plain("LA", (60, 0))), (255, 255, 255), 0, id="grey, transparent"),
        pytest.param(encoded(plain("RGBA", (*COLOUR, 128))), HALF, 1, id="half transparent"),
        pytest.param(encoded(plain("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0), 3, id="CMYK JPEG"),
        pytest.param(encoded(np.full((32, 32), 77 * 257, np.uint16)), (77, 77, 77), 0, id="16-bit grey"),
        pytest.param(encoded(plain("F", 0.2), "TIFF"), (51, 51, 51), 0, id="float TIFF"),
    ],
)
def test_every_kind_of_file_gives_its_colour(content: bytes, expected: tuple[int, ...], tolerance: int) -> None:
    image = load_image(content, 32)
    assert image.shape == (1, 3, 32, 32)
    assert (levels(image) - torch.tensor(expected).view(1, 3, 1, 1)).abs().max() <= tolerance


SOURCES = {
    "bytes": CONTENT,
    "PIL": Image.fromarray(ARRAY),
    "uint8 array": ARRAY,
    "float array": ARRAY / 255,
    "opaque array": np.dstack([ARRAY, np.full((32, 32), 255, np.uint8)]),
    "uint8 tensor": TENSOR,
    "batch of one inside a graph": (TENSOR[None] / 255).requires_grad_(),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_every_kind_of_source_gives_the_same_pixels(source: object) -> None:
    assert_array(load_image(source, 32))


@pytest.mark.parametrize("form", [str, Path, Path.as_uri, lambda path: path.open("rb")])
def test_every_way_to_name_a_file_gives_the_same_pixels(form: object, tmp_path: Path) -> None:
    assert_array(load_image(form(write_file(tmp_path / "an image.png", CONTENT)), 32))


@pytest.mark.parametrize("source", [ARRAY[:, :, 0], ARRAY[:, :, :1], TENSOR[:1]])
def test_grey_arrays_and_tensors_keep_their_axes(source: object) -> None:
    assert_array(load_image(source, 32), ARRAY[:, :, [0, 0, 0]])


def test_an_address_may_hold_letters_beyond_ascii(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/k%C3%BCken%20%C3%A9t%C3%A9.png?x=%C3%A4&y=%20"] = CONTENT
    address = address.replace("http", "HTTP")
    assert_array(load_image(f"{address}/küken %C3%A9té.png?x=ä&y=%20#ö", 32))


def test_the_central_square_is_taken_exactly() -> None:
    wide = np.hstack([np.zeros_like(ARRAY), ARRAY, np.zeros_like(ARRAY)])
    assert_array(load_image(wide, 32))


# --- what cannot be read ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 2.5, True])
def test_size_must_be_a_whole_number(size: object) -> None:
    with pytest.raises(ValueError, match=r"size is .*; give one whole number of pixels"):
        load_image(ARRAY, size)


@pytest.mark.parametrize(
    "source, message",
    [
        pytest.param(b"GIF, or so I say", "this bytes cannot be read as an image .no format that Pillow", id="text"),
        pytest.param(CONTENT[: len(CONTENT) // 2], "cannot be read .*; get a whole copy", id="half a PNG"),
        pytest.param(42, "this int cannot be read", id="number"),
        pytest.param(np.full((8, 8, 3), np.nan), r"\[0, 1\] without NaN; divide", id="NaN"),
        pytest.param(np.full((8, 8, 3), 200.0), r"\[0, 1\] without NaN; divide by 255", id="above one"),
        pytest.param(torch.full((3, 8, 8), -0.1), r"\[0, 1\] without NaN; divide", id="negative"),
        pytest.param(torch.zeros(3, 8, 8, dtype=torch.int64), "int64 is ambiguous; give uint8", id="int64 tensor"),
        pytest.param(np.zeros((3, 8, 8)), r"shape \(3, 8, 8\) is no image; give", id="channels first array"),
        pytest.param(torch.zeros(2, 3, 8, 8), r"shape \(2, 3, 8, 8\) is no image; give", id="batch of two"),
        pytest.param(torch.zeros(7), r"shape \(7,\) is no image; give", id="one axis"),
    ],
)
def test_bad_sources_are_named_with_a_remedy(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(source, 8)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"broken\.png cannot be read as an image .* save it as PNG or JPEG"):
        load_image(write_file(tmp_path / "broken.png", b"no image"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        load_image(tmp_path / "nowhere.png")


def test_a_decompression_bomb_is_refused() -> None:
    header = b"IHDR" + (20_000).to_bytes(4, "big") * 2 + CONTENT[24:29]
    bomb = CONTENT[:12] + header + zlib.crc32(header).to_bytes(4, "big") + CONTENT[33:]
    with pytest.raises(ValueError, match=r"exceeds limit"):
        load_image(bomb)


def test_a_png_with_a_huge_text_gets_one_sentence() -> None:
    text = PngInfo()
    text.add_text("comment", "0" * 2_000_000, zip=True)
    with pytest.raises(ValueError, match=r"^this bytes cannot be read .*; .*save it as PNG"):
        load_image(encoded(ARRAY, pnginfo=text))


def test_a_page_that_is_not_there_or_breaks_off(server: tuple[str, dict[str, bytes]]) -> None:
    address, pages = server
    pages["/cut.png"] = CONTENT
    for url in (f"{address}/missing.png", f"{address}/cut.png", "http://[::1/a.png", "file:///nowhere/a.png"):
        with pytest.raises(ValueError, match=r"cannot download \w+://.*; check the address"):
            load_image(url)


SMALL = Image.fromarray(ARRAY[:16, :16])
WHOLE = [
    encoded(SMALL),
    encoded(SMALL.convert("P"), transparency=3),
    encoded(SMALL, "JPEG", progressive=True),
    encoded(SMALL, "TIFF"),
    encoded(SMALL.convert("P"), "GIF"),
    encoded(SMALL, "DDS"),
]


@settings(max_examples=60)
@given(st.sampled_from(WHOLE), st.binary(max_size=8), st.integers(0, 200), st.integers(0, 200))
def test_any_bytes_load_or_raise_value_error(content: bytes, patch: bytes, start: int, length: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on damaged metadata
        try:
            image = load_image(content[:start] + patch + content[start + length :], 16)
        except ValueError as error:
            assert "this bytes cannot be read as an image" in str(error)
        else:
            assert image.shape == (1, 3, 16, 16) and on_grid(image)


# --- files that are written -------------------------------------------------------------------


def test_save_png_rounds_and_never_truncates(tmp_path: Path) -> None:
    image = torch.tensor([0.4, 0.6, 253.51, 254.49, 254.7]).expand(3, 8, 5) / 255
    assert (np.array(Image.open(save_png(image, tmp_path / "grey.png")))[0, :, 0] == [0, 1, 254, 254, 255]).all()


@pytest.mark.parametrize("image, name", [(noise(), "picture.jpg"), (noise(2), "a.png"), (noise() * 2, "a.png")])
def test_save_png_refuses_other_formats_and_what_is_not_one_image(image: Tensor, name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.png|image holds 2|image has pixels"):
        save_png(image, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_png(picture(10.0), tmp_path / "picture.png")
    old = path.read_bytes()

    def interrupted(self: Path, target: Path) -> None:
        assert self.parent == target.parent, "only within one disk a file is renamed at once"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_png(picture(20.0), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege")
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = save_png(picture(10.0), tmp_path / "target.png"), tmp_path / "link.png"
    link.symlink_to(target)
    save_png(picture(20.0), link)
    assert link.is_symlink() and levels(load_image(target, 8)).eq(20).all()


def test_a_tilde_is_the_home_folder_unless_a_file_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    assert save_png(noise(), "~/a.png") == tmp_path / "home" / "a.png"
    assert not list(Path.cwd().iterdir())
    assert torch.equal(load_image("~/a.png", 8), noise()) and len(load_folder("~")) == 1
    assert_array(load_image(write_file("~x.png", CONTENT), 32))
    assert Path("~x.png").exists()


# --- folders of images and the place for results -----------------------------------------------


def test_bundled_images_need_no_resizing() -> None:
    for path in (DATA / "images").glob("*.png"):
        with Image.open(path) as image:  # so that a certificate tells of these pixels
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (224, 224)), path.name


def test_bundled_photos_have_the_labels_of_their_folders() -> None:
    images, labels = load_photos("test")
    assert images.shape == (len(labels), 3, 224, 224) and on_grid(images)
    assert sorted(labels) == sorted(path.parent.name for path in (DATA / "photos" / "test").rglob("*.jpg"))
    with pytest.raises(ValueError, match="'validation'; give 'train' or 'test'"):
        load_photos("validation")


def test_a_folder_is_read_whole_and_what_is_skipped_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} holds no images"):
        load_folder(tmp_path)
    kinds = {"a.bmp": "BMP", "b.GIF": "GIF", "c.jpeg": "JPEG", "d.tif": "TIFF", "e.webp": "WEBP"}
    for place, (name, kind) in enumerate(kinds.items()):
        (tmp_path / name).write_bytes(encoded(plain("L", 30 * place, 224), kind))
    (tmp_path / "._c.jpg").write_bytes(b"\0\5\x16\7")  # macOS leaves such files
    (tmp_path / "folder.png").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load_folder(tmp_path)
    assert (levels(images)[:, 0, 0, 0] - torch.arange(5) * 30).abs().max() <= 2
    for name in ("notes.txt", "paper.pdf"):  # Pillow writes PDF and does not read it
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r"skipped in .*: notes\.txt, paper\.pdf$"):
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


# --- the 8-bit grid ---------------------------------------------------------------------------


def test_every_level_is_the_nearest_float() -> None:
    wanted = np.arange(256, dtype=np.float32) / np.float32(255)
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        every = from_levels(torch.arange(256.0, device=device))
        assert np.array_equal(every.cpu().numpy(), wanted)
        assert torch.equal(to_grid(every + 0.4 / 255), every)


def test_levels_are_divided_by_a_tensor_of_their_device() -> None:
    """By a number, CUDA would multiply with a rounded 1/255: other pixels than those of the file."""
    nodes = torch.fx.symbolic_trace(from_levels).graph.nodes
    (division,) = (node for node in nodes if node.target is operator.truediv)
    assert isinstance(division.args[1], torch.fx.Node)
