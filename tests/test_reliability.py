"""When things go wrong: the cases of docs/reliability.md that no other test covers, and that page itself."""

import errno
import inspect
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SIZE, levels, lowering, noise, picture

from helpers.attack import zero_out
from helpers.images import on_grid, write_file
from helpers.sweeps import grid, read, sweep
from helpers.tables import read_rows, write_table

ROOT = Path(__file__).resolve().parents[1]
FLOATS = [name for name, p in inspect.signature(zero_out).parameters.items() if isinstance(p.default, float)]
NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.floats(0, 1), st.sampled_from([-2, 3, math.nan, math.inf, 1e-300]))


@settings(max_examples=60)
@given(st.sampled_from(FLOATS), NUMBERS, st.integers(0, 3))
def test_any_number_in_any_setting_gives_a_result_or_one_sentence(name: str, value: float, steps: int) -> None:
    base, image = lowering(90.5), noise(1)
    options = {"eps": 8 / 255, "steps": steps, name: value}
    try:
        result = zero_out(base, image, **options)
    except ValueError as error:
        assert re.match(rf"{name} is .*; .+|eps is .*, less than one of 255", str(error)), error
        return
    assert on_grid(result.images) and result.images.min() >= 0 and result.images.max() <= 1
    assert (levels(result.images) - levels(image)).abs().max() <= math.floor(options["eps"] * 255 + 1e-3)
    assert result.nonzero == [int(base.features(result.images).ne(0).sum())]


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


def test_two_that_write_one_file_at_once_leave_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second begins and ends just before the first renames its part."""
    path, rename, second = tmp_path / "shared.bin", Path.replace, [b"of the second"]

    def replace(self: Path, target: Path) -> Path:
        if second:
            write_file(path, second.pop())
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_file(path, b"of the first")
    assert path.read_bytes() == b"of the first" and list(tmp_path.iterdir()) == [path]


def test_two_sweeps_into_one_table_keep_it_whole_and_the_next_adds_what_is_lost(tmp_path: Path) -> None:
    """Each knows its own rows only, and the last that writes wins."""
    path, base = tmp_path / "table.csv", lowering(90.5)
    cells = grid(eps=[8 / 255, 16 / 255], steps=0)
    sweep({"net": base}, {"a": picture(80.0)}, cells, path=path)
    write_table(path, read_rows(path)[1:], 0)  # the other one, which began with an empty table
    table = sweep({"net": base}, {"a": picture(80.0)}, cells, path=path)
    assert len(table) == len(read(path)) == 2 and table.error.isna().all()


def test_a_sweep_without_enough_memory_says_so_in_its_row_and_goes_on() -> None:
    base = lowering(90.5)

    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.shape[-1] > SIZE:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
            return x

    base.body = torch.nn.Sequential(Small(), base.body).eval()
    images = {"large": picture(80.0, size=2 * SIZE), "a": picture(80.0)}
    table = sweep({"net": base}, images, grid(steps=1)).set_index("picture")
    assert table.error["large"].startswith("OutOfMemoryError: ") and table.left["a"] == 0


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
