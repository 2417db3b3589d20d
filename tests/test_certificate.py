"""The certificate tells the truth about a saved file, from that file alone."""

import hashlib
import io
import json
import os
import struct
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
from helpers.attack import Result, zero_out
from helpers.base import Base
from helpers.certificate import Certificate, certify, count_nonzero, exact_pixels, main, room
from helpers.images import DATA, save_png
from helpers.weights import VGG16_BASE

PIXELS = SIZE * SIZE
ROOT = DATA.parent


@pytest.fixture
def zeroed(tmp_path: Path) -> Path:
    """A file that silences lowering(90.5) with nothing to spare but half a level."""
    result = zero_out(lowering(90.5), picture(100.0), eps=10 / 255, steps=40, autocast=False)
    return save_png(result.images, tmp_path / "zeroed.png")


def png(width: int, height: int, bits: int, kind: int, sample: bytes) -> bytes:
    """A plain PNG file by hand (ISO 15948), for forms that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    rows = (b"\0" + sample * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_base_is_left_alone(dtype: torch.dtype, zeroed: Path) -> None:
    base = random_net().to(dtype)
    base.body[0].weight.add_(torch.tensor(1e-12, dtype=torch.float64))  # lost on a way through float32
    before = {name: value.clone() for name, value in base.state_dict().items()}
    certify(base, zeroed)
    for name, value in base.state_dict().items():
        assert value.dtype == dtype and torch.equal(value, before[name])


def test_room_and_count_in_closed_form() -> None:
    z = torch.tensor([[-3.0, -1.0], [2.0, -5.0]])
    base = lowering()
    assert room(base, z).tolist() == [1, -2]
    base.threshold = -3.0
    assert room(base, z).tolist() == [-2, -5]
    base.threshold = None
    assert room(base, z).tolist() == [-3, -5]
    features = torch.tensor([[[0.0, -0.0]], [[1e-45, torch.nan]]])
    assert count_nonzero(features).tolist() == [0, 2], "the smallest number is none, and NaN is no zero"


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
    assert text.startswith("zeroed.png: blind: every output is exactly zero\n")
    assert "0 of 64 outputs left" in text and "largest change 10/255" in text
    other = str(certify(wakeful(), zeroed))
    assert other.startswith("zeroed.png: not blind\n")
    assert "64 of 128 outputs left" in other and "largest change" not in other


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


def test_an_interrupted_certificate_leaves_nothing(
    zeroed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = certify(lowering(90.5), zeroed)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        found.save(tmp_path / "certificate.json")
    assert [path.name for path in tmp_path.iterdir()] == ["zeroed.png"]


# --- what is refused ------------------------------------------------------------------------------


def saved(kind: str, mode: str = "RGB", **settings: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (90, 90, 90)).convert(mode).save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content, message",
    [
        pytest.param(saved("JPEG"), "is JPEG RGB; .* 8-bit RGB PNG", id="JPEG"),
        pytest.param(saved("BMP"), "is BMP RGB; .* 8-bit RGB PNG", id="BMP"),
        pytest.param(saved("PNG", "P"), "is PNG P; .* 8-bit RGB PNG", id="palette"),
        pytest.param(saved("PNG", "L"), "is PNG L; .* 8-bit RGB PNG", id="grey"),
        pytest.param(saved("PNG", "RGBA"), "is PNG RGBA; .* 8-bit RGB PNG", id="RGBA"),
        pytest.param(png(8, 8, 16, 2, b"\x5a\xff" * 3), "is PNG RGB of 16 bits; .* 8-bit RGB PNG", id="16 bits"),
        pytest.param(b"no picture", "is not a whole picture", id="no picture"),
        pytest.param(b"", "is not a whole picture", id="empty"),
        pytest.param(saved("PNG")[:50], "is not a whole picture", id="cut short"),
        pytest.param(png(60_000, 60_000, 8, 2, b"")[:60], "is not a whole picture", id="bomb"),
    ],
)
def test_what_is_no_exact_picture_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"file\.png {message}"):
        certify(lowering(), path)
    good = save_png(picture(1.0), tmp_path / "good.png")
    with pytest.raises(ValueError, match=rf"file\.png {message}"):
        certify(lowering(), good, path)


def test_the_hand_made_png_is_well_formed() -> None:
    """So that the refusals above are not for another reason."""
    assert (levels(exact_pixels(png(8, 8, 8, 2, b"\x5a\x5a\x5a"), "plain")) == 90).all()


@given(st.binary(max_size=8), st.integers(0, 80), st.integers(0, 80))
def test_damaged_files_give_exact_pixels_or_a_value_error(patch: bytes, start: int, length: int) -> None:
    content = saved("PNG")
    content = content[:start] + patch + content[start + length :]
    try:
        pixels = exact_pixels(content, "file.png")
    except ValueError as error:
        assert str(error).startswith("file.png ")
    else:
        assert pixels.shape[1] == 3 and pixels.min() >= 0 and pixels.max() <= 1


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
    with pytest.raises(ValueError, match=r"cannot read tiny\.png of 8 x 8 pixels; give one of 224 x 224"):
        certify(vgg, tiny)


# --- the command line -----------------------------------------------------------------------------


def test_the_command_line_tells_blind_from_not_blind_from_bad(
    blinded: tuple[Result, Path],
    tmp_path: Path,
    vgg: Base,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, path = blinded
    bad, certificate = tmp_path / "bad.png", tmp_path / "certificate.json"
    bad.write_bytes(b"no picture")
    line = [sys.executable, "-m", "helpers.attack", "certify", path, "--original", ALBATROSS, "--json", certificate]
    blind = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (blind.returncode, blind.stderr) == (0, "")
    assert blind.stdout.startswith("albatross.png: blind: every output is exactly zero")

    monkeypatch.setattr("helpers.certificate.NETWORKS", {"vgg16": lambda: vgg})
    assert main(["certify", str(ALBATROSS)]) == 1
    seeing = capsys.readouterr()
    assert seeing.out.startswith("albatross.png: not blind") and seeing.err == ""
    assert main(["certify", str(bad)]) == 2
    nothing, complaint = capsys.readouterr()
    assert nothing == ""
    assert complaint.count("\n") == 1 and complaint.startswith("error: bad.png is not a whole picture")
    content = strictly(certificate.read_text(encoding="utf-8"))
    assert content["zero"] is True and content["nonzero"] == 0 and content["outputs"] == 25_088
    assert content["weights_sha256"] == VGG16_BASE.digest
    assert content["picture_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 1 <= content["linf"] <= 16


@pytest.mark.parametrize("what", ["missing", "folder", "unwritable", "too small"])
def test_bad_input_on_the_command_line_gives_one_line(
    what: str, tmp_path: Path, vgg: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("helpers.certificate.NETWORKS", {"vgg16": lambda: vgg})
    tiny = save_png(picture(10.0), tmp_path / "tiny.png")
    paths = {"missing": tmp_path / "nowhere.png", "folder": tmp_path, "unwritable": ALBATROSS, "too small": tiny}
    more = ["--json", f"{tiny}/certificate.json"] if what == "unwritable" else []
    assert main(["certify", str(paths[what]), *more]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ") and output.err.count("\n") == 1


def test_the_command_line_certifies_the_other_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "helpers.certificate.NETWORKS", {"vgg16": wakeful, "efficientnet_lite0": lambda: lowering(90.5)}
    )
    path = str(save_png(picture(90.0), tmp_path / "dark.png"))
    assert main(["certify", path]) == 1
    assert main(["certify", path, "--network", "efficientnet_lite0"]) == 0
    assert "0 of 64 outputs left" in capsys.readouterr().out


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["certify"], ["certify", "file.png", "--network", "alexnet"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
        assert "usage: python -m helpers.attack" in capsys.readouterr().err
