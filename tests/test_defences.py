"""Readings, filters and detectors on networks and numbers that can be checked by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import SIZE, lowering, noise, picture, random_net
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import nn

from helpers import runtime
from helpers.base import Base
from helpers.defences import (
    FILTERS,
    READERS,
    Reading,
    fewer_bits,
    fit_head,
    fit_readers,
    fit_second_look,
    jpeg,
    look,
    median,
    probe,
    ridge,
    shrink_and_pad,
    smaller,
    views,
)
from helpers.images import on_grid
from helpers.networks import train_head


def plain_body() -> Base:
    """relu(red level - 90.5), read as a sequence of two layers."""
    base = lowering()
    return Base(nn.Sequential(nn.Identity(), base.body), nn.ReLU(), size=SIZE, name="tiny")


def test_a_reading_holds_the_means_of_each_layer() -> None:
    seen = look(plain_body(), picture(80, 100.5), ends=(1,), autocast=False)
    assert torch.allclose(seen.under[:, 0], torch.tensor([-10.5, 10.0]), atol=1e-3)
    assert torch.allclose(seen.features[:, 0], torch.tensor([0.0, 10.0]), atol=1e-3)
    assert torch.allclose(seen.length, torch.tensor([0.0, 10.0 * SIZE]), atol=1e-2)
    assert torch.allclose(seen.middle.norm(dim=1), torch.ones(2))


def test_batches_do_not_change_a_reading() -> None:
    images = noise(5)
    one, many = (look(random_net(), images, ends=(2,), batch=batch, autocast=False) for batch in (1, 5))
    for name in ("middle", "under", "features", "length"):
        assert torch.allclose(getattr(one, name), getattr(many, name), atol=1e-5)


def test_a_reading_has_the_features_of_the_base() -> None:
    base, images = random_net(), noise(3)
    features = base.features(images)
    seen = look(base, images, ends=(), autocast=False)
    assert torch.allclose(seen.features, features.mean((2, 3)), atol=1e-5)
    assert torch.allclose(seen.length, features.flatten(1).norm(dim=1), atol=1e-4)


def test_bfloat16_reads_nearly_the_same_and_is_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZERO_OUT_OUT", str(tmp_path))
    base, images = random_net(), noise(4)
    exact, coarse = (look(base, images, ends=(2,), keep=True, autocast=way) for way in (False, True))
    assert len(list((tmp_path / "kept").iterdir())) == 2
    assert torch.allclose(exact.features, coarse.features, rtol=0.05, atol=0.05)
    assert not torch.equal(exact.features, coarse.features) and coarse.features.dtype == torch.float32
    again = look(base, images, ends=(2,), keep=True, autocast=False)
    assert torch.equal(again.under, exact.under)


@pytest.mark.parametrize("native", [True, False])
def test_by_default_the_machine_decides_on_bfloat16(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "native_bfloat16", lambda _: native)
    base, images = random_net(), noise(4)
    wanted = look(base, images, ends=(2,), autocast=native)
    assert torch.equal(look(base, images, ends=(2,)).features, wanted.features)


@pytest.mark.parametrize("ends", [(0,), (4,), (17, 24)])
def test_a_layer_that_is_not_there_is_named(ends: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has no layers .*; give vgg16_base\(\)"):
        look(random_net(), noise(), ends=ends)


def test_a_base_that_is_no_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="no layers"):
        look(lowering(), noise(), ends=())


def test_pictures_are_checked_before_any_work() -> None:
    with pytest.raises(ValueError, match="before normalisation"):
        look(random_net(), noise() * 255, ends=())


def reading(features: torch.Tensor) -> Reading:
    return Reading(features * 0 + 1, features - 1, features, features.norm(dim=1))


def test_readers_keep_zero_at_zero() -> None:
    nothing = reading(torch.zeros(2, 4))
    assert READERS["unit length"](nothing).eq(0).all() and READERS["as it was"](nothing).eq(0).all()
    assert READERS["under the ReLU"](nothing).norm(dim=1).allclose(torch.ones(2))
    assert READERS["several depths"](nothing).shape == (2, 8)
    assert READERS["pool3 and pool4"](nothing) is nothing.middle


def test_unit_length_makes_the_faintest_rest_as_loud_as_a_picture() -> None:
    faint = reading(torch.tensor([[3.0, 4.0], [3e-9, 4e-9]]))
    assert READERS["unit length"](faint).allclose(torch.tensor([[0.6, 0.8], [0.6, 0.8]]))


def test_fit_head_is_the_head_that_train_head_trains() -> None:
    base, images, labels = random_net(), noise(12), ["a", "b", "c"] * 4
    trained = train_head(base, images, labels)
    features = look(base, images, ends=(), autocast=False).features
    given = fit_head(features, labels).predict_proba(features.numpy())
    assert np.allclose(trained.probabilities(images).numpy(), given, atol=0.02)


def test_the_second_look_is_taken_only_where_features_are_short() -> None:
    """The photos say "b" behind the filter, and "a" without it."""
    plain = reading(torch.tensor([[5.0, 1.0], [0.05, 0.01], [1.0, 5.0]]))
    behind = reading(torch.tensor([[1.0, 5.0], [1.0, 5.0], [1.0, 5.0]]))
    clean, labels = cloud(0)
    first = fit_head(clean.features, labels)
    second = fit_second_look("4 bits", first, clean, clean, labels, least=1.0)
    assert second.answers({"no filter": plain, "4 bits": behind}).tolist() == ["a", "b", "b"]
    never = fit_second_look("4 bits", first, clean, clean, labels, least=0.0)
    assert never.answers({"no filter": plain, "4 bits": behind})[1] == "a"


def test_the_head_of_the_second_look_learns_from_both() -> None:
    """Behind the filter "a" points to (4, 6), nearer to "b": only who learnt from there knows."""
    clean, labels = cloud(0)
    moved = reading(torch.tensor([[4.0, 6.0], [1.0, 9.0]]).repeat(30, 1))
    first = fit_head(clean.features, labels)
    seen = {"no filter": clean, "4 bits": moved}
    said = [fit_second_look("4 bits", first, clean, x, labels, least=99.0).answers(seen) for x in (clean, moved)]
    assert said[0].tolist() == ["b"] * 60 and said[1].tolist() == labels


def test_every_reader_gets_a_head() -> None:
    clean, labels = cloud(0)
    heads = fit_readers(clean, labels)
    assert list(heads) == list(READERS)
    for name in ("as it was", "unit length", "under the ReLU"):
        assert (heads[name].predict(READERS[name](clean).numpy()) == np.array(labels)).mean() > 0.95


def test_a_ridge_counts_in_units_of_the_spread() -> None:
    """The second number decides, though it is a millionth of the first."""
    wide = torch.randn(40, generator=torch.Generator().manual_seed(0)) * 1e3
    narrow = torch.tensor([1e-3, -1e-3]).repeat(20)
    head = ridge().fit(torch.stack([wide, narrow], 1).numpy(), ["a", "b"] * 20)
    assert head.predict([[0.0, 1e-3], [0.0, -1e-3]]).tolist() == ["a", "b"]


@pytest.mark.parametrize("name", FILTERS)
def test_filters_give_pictures_and_leave_theirs_alone(name: str) -> None:
    images = noise(2, size=32)
    before = images.clone()
    filtered = FILTERS[name](images)
    assert torch.equal(images, before) and filtered.shape[:2] == (2, 3)
    assert filtered.dtype == torch.float32 and filtered.min() >= 0 and filtered.max() <= 1
    assert torch.equal(filtered, FILTERS[name](images))  # the same again, also the random one


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "shrink and pad"])
def test_filters_leave_plain_pictures_nearly_alone(name: str) -> None:
    images = picture(0, 119, 255, size=32)
    filtered = FILTERS[name](images)
    assert (filtered.mean((2, 3)) - images.mean((2, 3))).abs().max() <= 1 / 255


def test_jpeg_is_that_of_a_file() -> None:
    image = noise(size=32)
    stream = io.BytesIO()
    Image.fromarray((image[0] * 255).byte().permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=50)
    stored = torch.from_numpy(np.asarray(Image.open(stream)).copy()).permute(2, 0, 1) / 255
    assert torch.equal(jpeg(image, 50)[0], stored) and on_grid(jpeg(image, 50))


def test_fewer_bits_leaves_that_many_levels() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    assert len(fewer_bits(levels, 4).unique()) == 16 and len(fewer_bits(levels, 1).unique()) == 2


def test_the_median_removes_single_pixels() -> None:
    image = picture(100, size=9)
    image[0, :, 4, 4] = 1
    assert torch.equal(median(image), picture(100, size=9))


def test_smaller_gives_fewer_pixels() -> None:
    assert smaller(noise(size=32), 20).shape == (1, 3, 20, 20)


def test_shrink_and_pad_is_random_without_a_seed() -> None:
    torch.manual_seed(0)
    image = noise(size=64)
    drawn = [shrink_and_pad(image) for _ in range(5)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])
    assert all(one.shape == image.shape for one in drawn)


def test_views_begin_with_the_picture_as_it_is() -> None:
    images = noise(size=32)
    given = dict(views(images, ["4 bits"]))
    assert list(given) == ["no filter", "4 bits"] and given["no filter"] is images


def cloud(seed: int, number: int = 60) -> tuple[Reading, list[str]]:
    """Two classes of vectors around (9, 1) and (1, 9)."""
    centres = torch.tensor([[9.0, 1.0], [1.0, 9.0]]).repeat(number // 2, 1)
    spread = torch.randn(number, 2, generator=torch.Generator().manual_seed(seed))
    return reading(centres + spread), ["a", "b"] * (number // 2)


def test_a_head_on_zeros_has_one_answer() -> None:
    seen, labels = cloud(0)
    head = fit_head(torch.cat([seen.features, seen.features * 0]), labels * 2)
    assert isinstance(head, LogisticRegression)
    assert len(np.unique(head.predict_proba(np.zeros((9, 2))), axis=0)) == 1


def test_a_probe_finds_what_is_there_and_the_majority_where_nothing_is() -> None:
    labels = ["a"] * 12 + ["b"] * 8
    there = torch.tensor([[1.0, 0.0]] * 12 + [[0.0, 1.0]] * 8)
    assert probe(there, labels) == 20 and probe(there * 0, labels) == 12
