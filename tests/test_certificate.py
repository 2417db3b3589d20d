"""The certificate tells the truth about a saved file, from that file alone."""

import hashlib
import json
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SIZE, encoded, levels, lowering, noise, picture, wakeful
from PIL import Image
from torch import nn

from conftest import ALBATROSS
from helpers.__main__ import NETWORKS, main
from helpers.attack import Result
from helpers.base import Base
from helpers.certificate import Certificate, certify, exact_pixels
from helpers.images import DATA, load_image, save_png
from helpers.weights import VGG16_BASE

PIXELS = SIZE * SIZE


@pytest.fixture
def zeroed(tmp_path: Path) -> Path:
    """A file that zeroes lowering(90.5) with a margin of half a level; the clean image is of level 100."""
    image = picture(100.0)
    image[:, 0] = 90 / 255
    return save_png(image, tmp_path / "zeroed.png")


# --- the verdict --------------------------------------------------------------------------------


def test_a_zeroed_file_is_certified(zeroed: Path) -> None:
    base = lowering(90.5)
    found = certify(base, zeroed)
    assert found.zero is True
    assert (found.nonzero, found.nonzero_float64, found.outputs) == (0, 0, PIXELS)
    assert found.margin == pytest.approx(0.5, abs=1e-3)
    assert 0 <= found.gap < 1e-3
    assert {found.linf, found.psnr, found.ssim, found.ssimulacra2, found.flip, found.original_sha256} == {None}
    assert (found.picture, found.pixels) == ("zeroed.png", "8 x 8, 8-bit RGB")
    assert found.picture_sha256 == hashlib.sha256(zeroed.read_bytes()).hexdigest()
    assert (found.network, found.weights_sha256) == ("tiny", base.sha256)
    assert {value.dtype for value in base.state_dict().values()} == {torch.float32}, "the base is left alone"


def test_one_changed_pixel_value_is_noticed(zeroed: Path) -> None:
    """One of 192 values goes up by one level: one feature becomes active."""
    assert certify(lowering(90.5), zeroed).zero
    with Image.open(zeroed) as image:
        pixels = np.array(image)
    pixels[5, 2, 0] += 1
    Image.fromarray(pixels).save(zeroed)
    found = certify(lowering(90.5), zeroed)
    assert found.zero is False
    assert (found.nonzero, found.nonzero_float64) == (1, 1)
    assert found.margin == pytest.approx(-0.5, abs=1e-3)


def test_another_network_gets_another_verdict(zeroed: Path) -> None:
    base = Base(wakeful().body, nn.ReLU(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25), size=SIZE)
    found = certify(base, zeroed)
    assert not found.zero and found.nonzero == 2 * PIXELS
    assert found.weights_sha256 != certify(lowering(90.5), zeroed).weights_sha256
    assert "mean (0.100000, 0.200000, 0.300000)" in found.preprocessing
    assert "std (0.500000, 0.500000, 0.250000)" in found.preprocessing


def test_zero_by_rounding_alone_is_not_certified(tmp_path: Path) -> None:
    """1 + 1e-9 - 1 is 0 in float32 and not in float64: such a zero hangs on the machine."""
    sums, minus_one = nn.Conv2d(3, 1, 1, bias=False), nn.Conv2d(1, 1, 1)
    with torch.no_grad():
        sums.weight.copy_(torch.tensor([1.0, 1e-9, 0.0]).view(1, 3, 1, 1))
        minus_one.weight.fill_(1.0)
        minus_one.bias.fill_(-1.0)
    base = Base(nn.Sequential(sums, minus_one), nn.ReLU(), size=SIZE)
    found = certify(base, save_png(picture(255.0), tmp_path / "white.png"))
    assert (found.nonzero, found.nonzero_float64) == (0, PIXELS)
    assert not found.zero
    assert found.gap == pytest.approx(1e-9, rel=1e-3)


# --- the change, text and JSON --------------------------------------------------------------------


def test_the_change_is_measured_in_whole_levels(zeroed: Path) -> None:
    found = certify(lowering(90.5), zeroed, picture(100.0))
    assert found.linf == 10 and type(found.linf) is int
    assert found.psnr == pytest.approx(20 * np.log10(255 / 10) + 10 * np.log10(3), abs=1e-4)  # a third of the values
    assert 0 < found.ssim < 1 and found.ssimulacra2 < 100 and found.flip > 0
    assert found.original_sha256 is None, "a tensor has no file"
    with pytest.raises(ValueError, match="same dimensions"):
        certify(lowering(90.5), zeroed, noise(size=16))


def test_the_original_may_be_any_image_file(zeroed: Path, tmp_path: Path) -> None:
    """It is cropped and resized as load_image does: here a JPEG photo of another size."""
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30), (100, 100, 100)).save(photo, quality=100)
    found = certify(lowering(90.5), zeroed, photo)
    assert found.linf == 10
    assert found.original_sha256 == hashlib.sha256(photo.read_bytes()).hexdigest()


def test_the_certificate_reads_well(zeroed: Path) -> None:
    text = str(certify(lowering(90.5), zeroed, picture(100.0)))
    assert text.startswith("zeroed.png: zeroed: every feature is exactly zero\n")
    assert "0 of 64 left" in text and "largest change 10/255" in text and "SSIMULACRA2" in text and "FLIP" in text
    other = str(certify(wakeful(), zeroed))
    assert other.startswith("zeroed.png: not zeroed\n")
    assert "64 of 128 left" in other and "largest change" not in other


def test_the_json_file_holds_everything(zeroed: Path, tmp_path: Path) -> None:
    found = certify(lowering(90.5), zeroed, zeroed)  # unchanged: PSNR is infinite, for which JSON has no number
    text = found.save(tmp_path / "new" / "certificate.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content.pop("zero") is True
    assert Certificate(**content | {"psnr": float(content["psnr"])}) == found


# --- what is refused ------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(*extra: bytes, bits: int = 8, sample: bytes = b"\x5a\x5a\x5a", size: int = SIZE) -> bytes:
    """A PNG file by hand (ISO 15948); extra: chunks before the pixels."""
    header = size.to_bytes(4, "big") * 2 + bytes([bits, 2, 0, 0, 0])
    pixels = zlib.compress((b"\0" + sample * SIZE) * SIZE)
    chunks = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


GREY = Image.new("RGB", (SIZE, SIZE), (90, 90, 90))
EXIF = Image.Exif()
EXIF[0x0112] = 6  # lying on its side


@pytest.mark.parametrize(
    "content, kind",
    [
        (encoded(GREY, "PNG", exif=EXIF), "eXIf"),
        (png(chunk(b"tRNS", b"\0\x5a" * 3)), "tRNS"),
        (png(chunk(b"gAMA", b"\0\1\0\0")), "gAMA"),
        (png(chunk(b"acTL", bytes(8))), "acTL"),
    ],
    ids=["turned", "transparent", "other colours", "a film"],
)
def test_what_can_make_another_reader_see_other_pixels_is_refused(content: bytes, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"file\.png .*it holds {kind}, by which another .*; a certificate needs"):
        exact_pixels(content, "file.png")


@pytest.mark.parametrize(
    "content, message",
    [
        pytest.param(encoded(GREY, "JPEG"), "not a PNG file", id="JPEG"),
        pytest.param(encoded(GREY.convert("RGBA"), "PNG"), "8 bits a channel and colour type 6", id="RGBA"),
        pytest.param(png(bits=16, sample=b"\x5a\xff" * 3), "16 bits a channel and colour type 2", id="16 bits"),
        pytest.param(png()[:50], "cut short", id="cut short"),
        pytest.param(png() + b"more", "damaged", id="bytes after the end"),
        pytest.param(png(chunk(b"IHDR", b"")), "damaged", id="two headers"),
        pytest.param(png(size=60_000), "exceeds limit", id="bomb"),
    ],
)
def test_what_is_no_exact_image_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"file\.png .*{message}.*; a certificate needs an 8-bit RGB PNG file"):
        certify(lowering(), path)


@settings(max_examples=60)
@given(st.binary(max_size=8), st.integers(0, 80), st.integers(0, 80))
def test_damaged_files_give_exact_pixels_or_a_value_error(patch: bytes, start: int, length: int) -> None:
    content = png()
    assert (levels(exact_pixels(content, "whole")) == 90).all()
    try:
        pixels = exact_pixels(content[:start] + patch + content[start + length :], "file.png")
    except ValueError as error:
        assert str(error).startswith("file.png ")
    else:
        assert (levels(pixels) == 90).all()


def test_a_base_in_training_mode_is_refused(zeroed: Path) -> None:
    with pytest.raises(ValueError, match=r"training mode.*base\.eval\(\)"):
        certify(lowering(90.5).train(), zeroed)


def test_an_image_is_never_resized(tmp_path: Path) -> None:
    large = certify(lowering(90.5), save_png(picture(10.0, size=12), tmp_path / "large.png"))
    assert large.outputs == 144 and large.pixels == "12 x 12, 8-bit RGB"


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "vgg16", lambda: lowering(90.5))
    monkeypatch.setitem(NETWORKS, "efficientnet_lite0", wakeful)


def test_the_command_line_runs_in_its_own_process(blinded: tuple[Result, Path], tmp_path: Path) -> None:
    path, certificate = blinded[1], tmp_path / "certificate.json"
    line = [sys.executable, "-m", "helpers", "certify", path, "--original", ALBATROSS, "--json", certificate]
    run = subprocess.run(line, cwd=DATA.parent, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("albatross.png: zeroed")
    content = json.loads(certificate.read_text(encoding="utf-8"))
    assert content["zero"] is True and content["nonzero"] == 0 and content["outputs"] == 25_088
    assert content["weights_sha256"] == VGG16_BASE.digest
    assert 1 <= content["linf"] <= 16
    assert content["margin"] > content["gap"], "what rounding of sums can do is less than what is spare"


@pytest.mark.parametrize("folder, status", [("blind", 0), ("images", 1)])
def test_plain_torch_without_this_projects_code_agrees(folder: str, status: int, vgg: Base) -> None:
    path = DATA / folder / "cat.png"
    line = [sys.executable, DATA.parent / "tools" / "check_with_torch.py", path]
    run = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (status, "")
    (active,), (margin,) = (values.tolist() for values in vgg.verdict(load_image(path)))
    number = r"([\d,]+) of 25,088 features are not zero, highest pre-activation (-?[\d.]+)\n"
    found = re.fullmatch(re.escape(f"{path}: ") + number, run.stdout)
    assert found and int(found[1].replace(",", "")) == active
    assert float(found[2]) == pytest.approx(-margin, abs=0.02)


@pytest.mark.usefixtures("tiny")
def test_the_exit_status_tells_zero_from_not_zero(zeroed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(zeroed)]) == 0
    assert main(["certify", str(zeroed), "--network", "efficientnet_lite0"]) == 1
    assert capsys.readouterr().out.count("zeroed.png: not zeroed\n") == 1


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "arguments, message",
    [
        ("certify nowhere.png", "nowhere.png"),
        ("certify file.png --json file.png/a.json", "file.png"),
        ("zero file.png out.jpg", "must end in .png"),
        ("zero file.png file.png", "is the photo itself"),
        ("zero file.png out.png --eps 999", "eps"),
    ],
)
def test_bad_input_on_the_command_line_gives_one_line(
    arguments: str, message: str, zeroed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(zeroed.parent)
    content = zeroed.rename("file.png").read_bytes()
    assert main(arguments.split()) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.count("\n") == 1
    assert output.err.startswith("error: ") and message in output.err
    assert [path.name for path in Path().iterdir()] == ["file.png"] and Path("file.png").read_bytes() == content


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("options, status", [("--eps 12", 0), ("--eps 3", 1), ("--least-visible --steps 200", 0)])
def test_a_photo_is_zeroed_saved_and_verified(
    options: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photo.jpg", tmp_path / "new" / "out.png"
    Image.new("RGB", (40, 30), (100, 100, 100)).save(photo, quality=100)
    assert main(["zero", str(photo), str(out), "--steps", "40", *options.split()]) == status
    output = capsys.readouterr()
    assert output.err == "", "no progress bar where nobody looks on"
    assert output.out == f"{certify(lowering(90.5), out, load_image(photo, SIZE))}\n"
