"""When things go wrong: the cases of docs/reliability.md that no other test covers, and that page itself."""

import errno
import math
import re
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SIZE, levels, lowering, noise, picture

from helpers import images
from helpers.attack import zero_out
from helpers.certificate import certify
from helpers.images import load_image, on_grid, save_png, write_file
from helpers.sweeps import Job, Store, attack, complete, grid, read, sweep

ROOT = Path(__file__).resolve().parents[1]


# --- settings ---------------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.floats(-1e6, 1e6), st.floats(0, 1), st.integers(-2, 5), st.sampled_from([math.nan, math.inf, -math.inf, 1e-300])
)


@settings(max_examples=60)
@given(st.sampled_from(["eps", "step_size", "momentum", "margin", "focus"]), NUMBERS, st.integers(0, 3))
def test_any_number_in_any_setting_gives_a_result_or_one_sentence(name: str, value: float, steps: int) -> None:
    base, image = lowering(90.5), noise(1)
    options = {"eps": 8 / 255, "autocast": False, "steps": steps, name: value}
    try:
        result = zero_out(base, image, **options)
    except ValueError as error:
        assert re.match(rf"{name} is .*; .+|eps is .*, less than one of 255", str(error)), error
        return
    assert on_grid(result.images) and result.images.min() >= 0 and result.images.max() <= 1
    assert (levels(result.images) - levels(image)).abs().max() <= math.floor(options["eps"] * 255 + 1e-3)
    assert result.nonzero == [int(base.features(result.images).ne(0).sum())]


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.booleans(), st.integers(1, 48))
def test_arrays_of_any_shape_load(height: int, width: int, channels: int, floats: bool, size: int) -> None:
    shape = (height, width) if channels == 2 else (height, width, channels)
    array = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(height)).byte().numpy()
    loaded = load_image(array / 255 if floats else array, max(size, 1)) if min(height, width) * 2 >= size else None
    if loaded is None:
        with pytest.warns(UserWarning, match="it is a blur"):
            loaded = load_image(array, size)
    assert loaded.shape == (1, 3, size, size) and on_grid(loaded)


# --- disks ------------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """A real one: the system refuses to write more than half of the file."""
    resource = pytest.importorskip("resource", reason="POSIX limits")
    path = write_file(tmp_path / "kept.bin", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
        with pytest.raises(OSError) as failed:
            write_file(path, bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("what", ["picture", "certificate", "sweep"])
def test_a_full_disk_is_an_error_for_every_kind_of_result(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, image = lowering(90.5), picture(80.0)
    certificate = certify(base, save_png(image, tmp_path / "a.png"))
    before = sorted(tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(images.os, "fdopen", full)
    with pytest.raises(OSError, match="No space left on device"):
        if what == "picture":
            save_png(image, tmp_path / "b.png")
        elif what == "certificate":
            certificate.save(tmp_path / "b.json")
        else:
            sweep({"net": base}, {"a": image}, grid(steps=0), path=tmp_path / "b.csv")
    assert sorted(tmp_path.iterdir()) == before


# --- two at once ------------------------------------------------------------------------------------


def test_two_that_write_one_file_at_once_leave_it_whole(tmp_path: Path) -> None:
    path, contents = tmp_path / "shared.bin", (b"a" * 300_000, b"b" * 200_000)
    write_file(path, contents[0])
    failed: list[BaseException] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(30):
                write_file(path, content)
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        seen.add(path.read_bytes())
    for writer in writers:
        writer.join()
    assert not failed and seen <= set(contents) and path.read_bytes() in contents
    assert list(tmp_path.iterdir()) == [path]


def test_two_sweeps_into_one_table_keep_it_whole_and_the_next_adds_what_is_lost(tmp_path: Path) -> None:
    """Each knows its own rows only, and the last that writes wins."""
    path, base = tmp_path / "table.csv", lowering(90.5)
    cells = grid(eps=[8 / 255, 16 / 255], steps=0)
    first, second = Store(path), Store(path)
    rows = [attack(Job("net", base, ("a",), picture(80.0), complete(cell))) for cell in cells]
    first.add(rows[0])
    second.add(rows[1])
    assert read(path).eps.tolist() == pytest.approx([16 / 255])
    table = sweep({"net": base}, {"a": picture(80.0)}, cells, path=path)
    assert len(table) == len(read(path)) == 2 and table.error.isna().all()


# --- memory -----------------------------------------------------------------------------------------


def test_a_sweep_without_enough_memory_says_so_in_its_row_and_goes_on() -> None:
    """A batch that does not fit is tried picture by picture; what does not fit alone is recorded."""
    base, limit = lowering(90.5), 1

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > limit or x.shape[-1] > SIZE:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
            return x

    base.body = torch.nn.Sequential(Small(), base.body)
    pictures = {"a": picture(80.0), "b": picture(80.0), "large": picture(80.0, size=2 * SIZE)}
    table = sweep({"net": base}, pictures, grid(steps=1)).set_index("picture")
    assert table.left[["a", "b"]].tolist() == [0, 0]
    assert table.error["large"].startswith("OutOfMemoryError: 1 pictures of 16 x 16 do not fit")


# --- the page ---------------------------------------------------------------------------------------


def test_every_row_of_the_page_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = [row for row in page.splitlines() if row.startswith("| ") and "---" not in row][1:]
    assert len(rows) >= 15
    for row in (row for row in rows if not row.startswith("| **")):
        named = re.findall(r"`(test_\w+)::(test_\w+)`", row)
        assert named, row
        for module, test in named:
            text = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", text, flags=re.M), f"{module}::{test}"
