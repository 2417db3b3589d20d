"""What a network gave once is read again, and only for the same pictures, weights and question."""

from pathlib import Path

import pytest
import torch
from nets import lowering, picture, random_net

from helpers.cache import kept
from helpers.networks import embed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZERO_OUT_OUT", str(tmp_path))
    return tmp_path


class Asked:
    """A computation that counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.times += 1
        return {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.full((2,), float(self.times))}


def test_the_second_time_nothing_is_computed() -> None:
    base, images, asked = lowering(90.5), picture(92, 97), Asked()
    first, second = (kept(base, images, "x", asked) for _ in range(2))
    assert asked.times == 1
    assert all(torch.equal(first[name], second[name]) for name in ("a", "b"))


def test_pictures_that_require_a_gradient_are_the_same_pictures() -> None:
    asked = Asked()
    kept(lowering(90.5), picture(92), "x", asked)
    kept(lowering(90.5), picture(92).requires_grad_(), "x", asked)
    assert asked.times == 1


@pytest.mark.parametrize("what", ["pixels", "order", "weights", "training", "layers", "question"])
def test_anything_else_is_computed(what: str) -> None:
    base, images, asked = lowering(90.5), picture(92, 97), Asked()
    kept(base, images, "x", asked)
    if what == "pixels":
        images = picture(92, 98)
    elif what == "order":
        images = images.flip(0)
    elif what == "weights":
        base = lowering(91.5)
    elif what == "training":
        next(base.parameters()).add_(1)
    elif what == "layers":
        base.body.padding_mode = "reflect"  # as many weights, the same shape
    kept(base, images, "y" if what == "question" else "x", asked)
    assert asked.times == 2


@pytest.mark.parametrize("damage", [b"", b"no tensors", "half"])
def test_a_damaged_file_is_made_again(folder: Path, damage: bytes | str) -> None:
    base, images, asked = lowering(90.5), picture(92, 97), Asked()
    kept(base, images, "x", asked)
    (path,) = (folder / "kept").iterdir()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if damage == "half" else damage)
    assert kept(base, images, "x", asked)["b"].tolist() == [2, 2]
    assert kept(base, images, "x", asked)["b"].tolist() == [2, 2] and asked.times == 2


@pytest.mark.parametrize("blocked", ["kept", "out"])
def test_where_nothing_can_be_written_it_is_computed(
    folder: Path, blocked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / blocked).write_text("a file is in the way")
    if blocked == "out":
        monkeypatch.setenv("ZERO_OUT_OUT", str(folder / blocked))
    asked = Asked()
    for _ in range(2):
        assert kept(lowering(90.5), picture(92), "x", asked)["b"].shape == (2,)
    assert asked.times == 2


def test_features_are_kept_only_when_asked_for(folder: Path) -> None:
    base, images = random_net(), picture(92, 97)
    live = embed(base, images)
    assert not list(folder.iterdir())
    assert torch.equal(embed(base, images, keep=True), live)
    assert torch.equal(embed(base, images, keep=True), live)
    assert len(list((folder / "kept").iterdir())) == 1
