"""The certificate tells the truth about a saved file, from that file alone."""

import hashlib
import io
import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nets import SIZE, levels, lowering, noise, picture, ramp, random_net, red_reader, wakeful
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
ROOT = DATA.parent


@pytest.fixture
def zeroed(tmp_path: Path) -> Path:
    """A file that zeroes lowering(90.5) with a margin of half a level; the clean image is of level 100."""
    image = picture(100.0)
    image[:, 0] = 90 / 255
    return save_png(image, tmp_path / "zeroed.png")


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png(*extra: bytes, bits: int = 8, kind: int = 2, sample: bytes = b"\x5a\x5a\x5a", size: int = SIZE) -> bytes:
    """A PNG file by hand (ISO 15948); extra: chunks before the pixels."""
    header = size.to_bytes(4, "big") * 2 + bytes([bits, kind, 0, 0, 0])
    pixels = zlib.compress((b"\0" + sample * SIZE) * SIZE)
    chunks = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# --- the verdict --------------------------------------------------------------------------------


def test_a_zeroed_file_is_certified(zeroed: Path) -> None:
    found = certify(lowering(90.5), zeroed)
    assert found.zero is True
    assert (found.nonzero, found.nonzero_float64, found.outputs) == (0, 0, PIXELS)
    assert found.margin == pytest.approx(0.5, abs=1e-3)
    assert 0 <= found.gap < 1e-3
    assert (found.linf, found.psnr, found.ssim, found.original_sha256) == (None,) * 4


def test_one_changed_pixel_value_is_noticed(zeroed: Path) -> None:
    """One of 192 values goes up by one level: one output wakes up."""
    with Image.open(zeroed) as image:
        pixels = np.array(image)
    pixels[5, 2, 0] += 1
    Image.fromarray(pixels).save(zeroed)
    found = certify(lowering(90.5), zeroed)
    assert found.zero is False
    assert (found.nonzero, found.nonzero_float64) == (1, 1)
    assert found.margin == pytest.approx(-0.5, abs=1e-3)


def test_the_file_counts_and_nothing_else(zeroed: Path) -> None:
    """The same name with other content gets another verdict: no result is kept."""
    base = lowering(90.5)
    assert certify(base, zeroed).zero
    save_png(ramp(), zeroed)
    found = certify(base, zeroed)
    assert not found.zero
    assert found.nonzero == int((levels(ramp())[0, 0] > 90).sum())


def test_another_network_gets_another_verdict(zeroed: Path) -> None:
    first, second = certify(lowering(90.5), zeroed), certify(wakeful(), zeroed)
    assert first.zero and not second.zero
    assert second.nonzero == PIXELS
    assert first.weights_sha256 != second.weights_sha256


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


def test_the_base_is_left_alone(zeroed: Path) -> None:
    base = random_net()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    certify(base, zeroed)
    for name, value in base.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, before[name])


# --- hashes, the change, the other fields ---------------------------------------------------------


def test_hashes_are_those_of_the_files(zeroed: Path, tmp_path: Path) -> None:
    original = save_png(picture(100.0), tmp_path / "original.png")
    base = lowering(90.5)
    found = certify(base, zeroed, original)
    assert found.picture == "zeroed.png"
    assert found.picture_sha256 == hashlib.sha256(zeroed.read_bytes()).hexdigest()
    assert found.original_sha256 == hashlib.sha256(original.read_bytes()).hexdigest()
    assert (found.network, found.weights_sha256) == ("tiny", base.sha256)
    assert found.pixels == "8 x 8, 8-bit RGB"


def test_the_change_is_measured_in_whole_levels(zeroed: Path) -> None:
    found = certify(lowering(90.5), zeroed, picture(100.0))
    assert found.linf == 10 and type(found.linf) is int
    assert found.psnr == pytest.approx(20 * np.log10(255 / 10) + 10 * np.log10(3), abs=1e-4)  # a third of the values
    assert 0 < found.ssim < 1
    assert found.original_sha256 is None, "a tensor has no file"


def test_preprocessing_is_written_down(zeroed: Path) -> None:
    base = Base(red_reader((1.0, -90.5)).body, nn.ReLU(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25), size=SIZE)
    text = certify(base, zeroed).preprocessing
    assert "mean (0.100000, 0.200000, 0.300000)" in text and "std (0.500000, 0.500000, 0.250000)" in text


def test_the_certificate_reads_well(zeroed: Path) -> None:
    text = str(certify(lowering(90.5), zeroed, picture(100.0)))
    assert text.startswith("zeroed.png: zeroed: every feature is exactly zero\n")
    assert "0 of 64 left" in text and "largest change 10/255" in text
    other = str(certify(wakeful(), zeroed))
    assert other.startswith("zeroed.png: not zeroed\n")
    assert "64 of 128 left" in other and "largest change" not in other


def test_the_original_may_be_any_image_file(zeroed: Path, tmp_path: Path) -> None:
    """It is cropped and resized as load_image does: here a JPEG photo of another size."""
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (40, 30), (100, 100, 100)).save(photo, quality=100)
    found = certify(lowering(90.5), zeroed, photo)
    assert found.linf == 10
    assert found.original_sha256 == hashlib.sha256(photo.read_bytes()).hexdigest()


# --- JSON -----------------------------------------------------------------------------------------


def strictly(text: str) -> dict[str, object]:
    """Parse JSON as others do: NaN and Infinity are no JSON (RFC 8259)."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_json_file_holds_everything(zeroed: Path, tmp_path: Path) -> None:
    found = certify(lowering(90.5), zeroed, picture(100.0))
    content = strictly(found.save(tmp_path / "new" / "certificate.json").read_text(encoding="utf-8"))
    assert content.pop("zero") is True
    assert Certificate(**content) == found


def test_an_unchanged_picture_gives_strict_json_too(zeroed: Path, tmp_path: Path) -> None:
    found = certify(lowering(90.5), zeroed, zeroed)
    assert (found.linf, found.psnr, found.ssim) == (0, float("inf"), 1)
    content = strictly(found.save(tmp_path / "certificate.json").read_text(encoding="utf-8"))
    assert float(content["psnr"]) == float("inf")


# --- what is refused ------------------------------------------------------------------------------


def saved(kind: str, mode: str = "RGB", **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (90, 90, 90)).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


def test_a_plain_file_is_accepted() -> None:
    """So that the refusals below have no other reason."""
    assert (levels(exact_pixels(png(), "plain")) == 90).all()


TEXT = b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n8\n" + b"4d4d002a")
CHUNKS = {
    "eXIf": b"MM\0*",
    "tRNS": b"\0\x5a" * 3,
    "gAMA": b"\0\1\0\0",
    "cHRM": bytes(32),
    "iCCP": b"a\0\0",
    "cICP": bytes(4),
}
CHUNKS |= {"acTL": bytes(8), "sBIT": b"\5\5\5", "pHYs": bytes(9), "zTXt": TEXT, "iTXt": b"XML:com.adobe.xmp\0\0\0\0\0"}


@pytest.mark.parametrize("kind", CHUNKS)
def test_what_can_make_another_reader_see_other_pixels_is_refused(kind: str) -> None:
    content = png(chunk(kind.encode(), CHUNKS[kind]))
    with pytest.raises(ValueError, match=rf"^file\.png holds {kind}, by which another .*; a certificate needs"):
        exact_pixels(content, "file.png")


def test_an_orientation_is_refused_where_load_image_would_turn() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with pytest.raises(ValueError, match="holds eXIf"):
        exact_pixels(saved("PNG", exif=exif), "file.png")


@pytest.mark.parametrize(
    "content, message",
    [
        pytest.param(saved("JPEG"), "is not a PNG file", id="JPEG"),
        pytest.param(b"", "is not a PNG file", id="empty"),
        pytest.param(saved("PNG", "L"), "of 8 bits and colour type 0", id="grey"),
        pytest.param(saved("PNG", "RGBA"), "of 8 bits and colour type 6", id="RGBA"),
        pytest.param(png(bits=16, sample=b"\x5a\xff" * 3), "of 16 bits and colour type 2", id="16 bits"),
        pytest.param(png()[:50], "is damaged or cut short", id="cut short"),
        pytest.param(png() + b"more", "is damaged or cut short", id="bytes after the end"),
        pytest.param(png()[:-20] + b"?" + png()[-19:], "is damaged or cut short", id="wrong checksum"),
        pytest.param(png(chunk(b"IHDR", b"")), "is damaged or cut short", id="two headers"),
        pytest.param(png(size=60_000), "is damaged, cut short or too large", id="bomb"),
    ],
)
def test_what_is_no_exact_image_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"file\.png .*{message}; a certificate needs an 8-bit RGB PNG file"):
        certify(lowering(), path)


@given(st.binary(max_size=8), st.integers(0, 80), st.integers(0, 80))
def test_damaged_files_give_exact_pixels_or_a_value_error(patch: bytes, start: int, length: int) -> None:
    content = png()
    content = content[:start] + patch + content[start + length :]
    try:
        pixels = exact_pixels(content, "file.png")
    except ValueError as error:
        assert str(error).startswith("file.png ")
    else:
        assert (levels(pixels) == 90).all()


def test_missing_files_are_named(zeroed: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        certify(lowering(), tmp_path / "nowhere.png")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        certify(lowering(), zeroed, tmp_path / "nowhere.png")


def test_a_base_in_training_mode_is_refused(zeroed: Path) -> None:
    with pytest.raises(ValueError, match=r"training mode.*base\.eval\(\)"):
        certify(lowering(90.5).train(), zeroed)


def test_an_original_of_another_size_is_refused(zeroed: Path) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        certify(lowering(90.5), zeroed, noise(size=16))


def test_a_picture_is_never_resized(tmp_path: Path, vgg: Base) -> None:
    large = certify(lowering(90.5), save_png(picture(10.0, size=12), tmp_path / "large.png"))
    assert large.outputs == 144 and large.pixels == "12 x 12, 8-bit RGB"
    tiny = save_png(picture(10.0), tmp_path / "tiny.png")
    with pytest.raises(ValueError, match=r"cannot read images of 8 x 8 pixels .*; give 224 x 224"):
        certify(vgg, tiny)


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
    content = strictly(certificate.read_text(encoding="utf-8"))
    assert content["zero"] is True and content["nonzero"] == 0 and content["outputs"] == 25_088
    assert content["weights_sha256"] == VGG16_BASE.digest
    assert 1 <= content["linf"] <= 16


@pytest.mark.usefixtures("tiny")
def test_the_exit_status_tells_zero_from_not_zero(zeroed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(zeroed)]) == 0
    assert main(["certify", str(zeroed), "--network", "efficientnet_lite0"]) == 1
    assert capsys.readouterr().out.count("zeroed.png: not zeroed\n") == 1


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "arguments, message",
    [
        ("certify nowhere.png", "there is no image"),
        ("certify .", "is a folder"),
        ("certify file.png --json file.png/a.json", "file.png"),
        ("zero nowhere.jpg out.png", "there is no image"),
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
@pytest.mark.parametrize("eps, status", [("12", 0), ("3", 1)])
def test_a_photo_is_zeroed_saved_and_verified(
    eps: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = tmp_path / "photo.jpg", tmp_path / "new" / "out.png"
    Image.new("RGB", (40, 30), (100, 100, 100)).save(photo, quality=100)
    assert main(["zero", str(photo), str(out), "--eps", eps, "--steps", "40"]) == status
    output = capsys.readouterr()
    assert output.err == "", "no progress bar where nobody looks on"
    assert output.out == f"{certify(lowering(90.5), out, load_image(photo, SIZE))}\n"
