"""Sweeps on tiny networks whose answer is known, and a sample of the stored ones computed again."""

import json
import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from nets import fused, lowering, noise, picture, random_net
from torch import nn

from helpers import sweeps
from helpers.attack import zero_out
from helpers.base import Base, Classifier
from helpers.images import DATA, load_image
from helpers.sweeps import LOSSES, bisect, grid, pick, read, sweep
from helpers.tables import read_record

EIGHT = {"eps": 8 / 255, "steps": 12}
STEADY = {"steps": 40, "step_size": 4 / 255}


def far() -> Base:
    """Inactive where red is at most 90; a module-level function, so that each worker can call it."""
    return lowering(90.5)


def test_a_grid_is_every_combination_in_order() -> None:
    cells = grid(steps=range(1, 3), margin=(0.0, 1.0), eps=np.array([0.5]), loss="norm")
    assert [(c["steps"], c["margin"]) for c in cells] == [(1, 0.0), (1, 1.0), (2, 0.0), (2, 1.0)]
    assert {(c["eps"], c["loss"]) for c in cells} == {(0.5, "norm")}
    assert grid() == [{}] and grid(eps=[]) == []


def test_a_row_says_what_the_attack_says() -> None:
    image, net = noise(seed=3), random_net(1)
    row = sweep({"net": net}, {"noise": image}, [EIGHT]).iloc[0]
    result = zero_out(net, image, **EIGHT)
    assert [row.left] == result.nonzero and [row.steps_taken] == result.steps and row.outputs == result.outputs
    assert row.margin_reached == pytest.approx(result.margin[0], rel=1e-6)
    assert row.linf == 8 and row.psnr > 20 and 0 < row.ssim <= 1 and row.seconds > 0
    assert (row.network, row.weights, row.picture, row["size"]) == ("net", net.sha256[:12], "noise", 8)
    assert (row.eps, row.loss, row.random_start) == (pytest.approx(8 / 255), "hinge", False)
    assert pd.isna(row.variation) and pd.isna(row.error)


def test_known_answers() -> None:
    """Red of 96 and 120 must fall to 90: 8 levels are enough for the first, not for the second."""
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    head(torch.zeros(1, *far().feature_shape))
    net, images = Classifier(far(), head, "abc"), {"near": picture(96.0), "far": picture(120.0)}
    table = sweep({"net": net}, images, grid(eps=[4 / 255, 8 / 255], **STEADY))
    assert (table.left == 0).tolist() == [False, False, True, False]
    assert table.norm_ratio[2] == 0 and table.margin_reached[2] > 0 > table.margin_reached[3]
    assert table.variation[2] == 0 < table.variation[3] <= 1, "the distance to the blank prediction"


# --- the file ----------------------------------------------------------------------------------------


def test_what_is_stored_is_not_computed_again(tmp_path: Path) -> None:
    path, images = tmp_path / "new" / "table.csv", {"a": noise(seed=1), "b": noise(seed=2)}
    cells, base = grid(eps=[2 / 255, 1 / 3], steps=[0, 3]), fused()
    first = sweep({"net": base}, images, cells, path=path)
    path.write_bytes("\ufeff".encode() + path.read_bytes())  # as Excel saves it
    base.body.error = AssertionError("computed again")
    pd.testing.assert_frame_equal(first, sweep({"net": base}, images, cells, path=path))
    pd.testing.assert_frame_equal(first, read(path))
    assert sweep({"net": base}, images, cells[::-1], path=path).steps.tolist() == [3, 3, 0, 0] * 2
    (made,) = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert made["torch"] == torch.__version__ and made["rows"] == 8 and made["device"]


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    """One Ctrl-C inside the third attack: it is not a row, and the next call computes what is missing."""
    path, cells, base = tmp_path / "table.csv", grid(eps=[k / 255 for k in (1, 2, 3, 4)], steps=2), far()
    pressed = []

    def stop_in_third(module: nn.Module, inputs: tuple) -> None:
        if not pressed and path.exists() and len(read(path)) == 2:
            pressed.append(True)
            raise KeyboardInterrupt

    base.body.register_forward_pre_hook(stop_in_third)
    with pytest.raises(KeyboardInterrupt):
        sweep({"net": base}, {"a": noise()}, cells, path=path)
    assert read(path).linf.tolist() == [1, 2]
    assert sweep({"net": base}, {"a": noise()}, cells, path=path).linf.tolist() == [1, 2, 3, 4]


def test_a_failing_attack_is_recorded_and_tried_again(tmp_path: Path) -> None:
    path, base = tmp_path / "table.csv", fused(RuntimeError("no luck\nlong story"))
    table = sweep({"net": base, "other": far}, {"a": noise()}, [{"steps": 1}], path=path)
    assert table.error[0] == "RuntimeError: no luck" and pd.isna(table.left[0]) and pd.isna(table.error[1])
    base.body.error = None
    table = sweep({"net": base}, {"a": noise()}, [{"steps": 1}], path=path)
    assert table.error.isna().all() and len(read(path)) == sum(entry["rows"] for entry in read_record(path)) == 2


def test_other_pixels_or_weights_under_the_same_name_are_computed(tmp_path: Path) -> None:
    path, base = tmp_path / "table.csv", far()
    first = sweep({"net": base}, {"mine": picture(96.0)}, [STEADY], path=path)
    table = sweep({"net": base}, {"mine": picture(255.0)}, [STEADY], path=path)
    assert table.left[0] > first.left[0] == 0
    with torch.no_grad():
        base.body.bias.add_(50)
    assert sweep({"net": base}, {"mine": picture(96.0)}, [STEADY], path=path).left[0] > 0
    assert len(read(path)) == 3


def test_names_come_back_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    sweep({"1e5": far}, {"001": noise(), "NA": noise()}, [{"steps": 0}], path="~/t.csv")
    table = read(tmp_path / "t.csv")
    assert table.picture.tolist() == ["001", "NA"] and set(table.network) == {"1e5"}


# --- workers -----------------------------------------------------------------------------------------


class Elsewhere(Executor):
    """Sends its jobs and their results through pickle, as other processes and machines get them."""

    def submit(self, function: Callable, /, *args: object) -> Future:
        future: Future = Future()
        function, args = pickle.loads(pickle.dumps((function, args)))
        future.set_result(pickle.loads(pickle.dumps(function(*args))))
        return future


def dask() -> Executor:
    distributed = pytest.importorskip("dask.distributed", reason="pip install distributed")
    client = distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None)
    return client.get_executor()


@pytest.mark.parametrize("make", [lambda: ThreadPoolExecutor(2), Elsewhere, dask], ids=["threads", "pickled", "dask"])
def test_any_executor_gives_the_same_table(make: Callable[[], Any], tmp_path: Path) -> None:
    images = {"a": noise(seed=1), "b": noise(seed=2)}
    cells = grid(eps=[4 / 255, 8 / 255], steps=3, loss=["hinge", LOSSES["norm"]])
    with make() as executor:
        table = sweep({"net": far}, images, cells, executor=executor, path=tmp_path / "t.csv")
    here = sweep({"net": far}, images, cells)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), here.drop(columns="seconds"))
    assert table.error.isna().all()


def test_a_worker_that_dies_is_recorded() -> None:
    """One that was interrupted is not: the sweep ends."""

    class Dead(Executor):
        def __init__(self, error: BaseException) -> None:
            self.error = error

        def submit(self, *_: object, **__: object) -> Future:
            future: Future = Future()
            future.set_exception(self.error)
            return future

    table = sweep({"net": far}, {"a": noise()}, [{}], executor=Dead(MemoryError("killed")))
    assert table.error.tolist() == ["MemoryError: killed"]
    with pytest.raises(KeyboardInterrupt):
        sweep({"net": far}, {"a": noise()}, [{}], executor=Dead(KeyboardInterrupt()))


# --- losses, pick, bisect ----------------------------------------------------------------------------


def test_every_loss_has_a_finite_gradient_for_active_and_inactive_units() -> None:
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for name, loss in LOSSES.items():
        for start in (z, -z.abs()):
            maps = start.clone().requires_grad_()
            found = loss(maps, 0.5)
            assert torch.isfinite(torch.autograd.grad(found.sum(), maps)[0]).all(), name
            assert torch.allclose(loss(start.flatten(1), 0.5), found.flatten(1)), f"{name} of outputs of any shape"


def test_every_loss_lowers_the_features() -> None:
    names = set(LOSSES) - {"dispersion"}  # a network that reads each pixel alone has none to reduce
    table = sweep({"net": far}, {"a": noise()}, grid(loss=names, steps=[0, 20], eps=16 / 255))
    left = table.pivot(index="loss", columns="steps", values="left")
    assert len(left) == len(LOSSES) - 1 and (left[20] < left[0]).all(), left


def test_pick_finds_rows_by_settings() -> None:
    cells = grid(eps=[4 / 255, 8 / 255], margin=[0.1, 1.0], steps=2, random_start=[False, True])
    table, tiny = sweep({"net": far}, {"a": noise()}, cells), {"steps": 2, "size": 8}
    assert len(pick(table, **tiny)) == 1
    assert pick(table, **tiny, eps=[4 / 255, 8 / 255], margin=0.1).eps.round(4).tolist() == [0.0157, 0.0314]
    assert len(pick(table, **tiny, random_start=[True, False], eps=np.array([4, 8]) / 255)) == 4
    assert pick(table, steps=2).empty and pick(table, size=8).empty
    assert len(pick(sweep({"net": far}, {"a": noise()}, [{}]), size=8)) == 1, "what has no number has its default"


@pytest.mark.parametrize("needed", [1, 5, 16, 17])
def test_bisection_finds_the_smallest_budget(needed: int) -> None:
    found, tried = bisect(lambda k: max(0, needed - k), 16)
    assert found == (needed if needed <= 16 else None)
    assert len(tried) <= 5 and all(tried[k] == max(0, needed - k) for k in tried)


# --- bad input ---------------------------------------------------------------------------------------


def my_norm(z: torch.Tensor, margin: float) -> torch.Tensor:
    return torch.relu(z)


my_norm.__name__ = "norm"  # would get the rows of LOSSES["norm"]


@pytest.mark.parametrize(
    "cell, message",
    [
        ({"epsilon": 1}, "no setting 'epsilon'"),
        ({"eps": -1}, "eps is -1"),
        ({"eps": 0.001, "norm": "l2"}, "too short to move"),
        ({"loss": "hing"}, "loss is 'hing'; give one of hinge"),
        ({"loss": lambda z, margin: z}, "a name of its own"),
        ({"loss": my_norm}, "a name of its own"),
    ],
)
def test_bad_settings_are_one_error_before_any_work(cell: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sweep({"net": fused(AssertionError("computed"))}, {"a": noise()}, [{}, cell])


def test_a_sweep_without_a_budget_may_have_any_loss() -> None:
    table = sweep({"net": far}, {"a": picture(96.0)}, [{"eps": None, "loss": "total", "steps": 2}])
    assert table.error.isna().all() and table.eps.isna().all() and table.steps_taken.tolist() == [2]


def test_bad_images_and_paths_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a holds 2 images"):
        sweep({"net": far}, {"a": noise(2)}, [{}])
    with pytest.raises(ValueError, match="half is not on the 8-bit grid"):
        sweep({"net": far}, {"half": torch.full((1, 3, 8, 8), 0.5)}, [{}])
    with pytest.raises(ValueError, match=r"'r.json'; give a name that ends in .csv"):
        sweep({"net": far}, {"a": noise()}, [{}], path=tmp_path / "r.json")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        sweep({"net": far}, {"a": noise()}, [{}], path=tmp_path / "other.csv")


# --- the stored sweeps -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vgg16", "lite0"])
def test_stored_sweeps_are_whole(name: str) -> None:
    path = DATA / "sweeps" / f"{name}.csv"
    table = read(path)
    assert len(table) > 15 and not table.duplicated(sweeps.KEY).any() and table.error.isna().all()
    assert (table.linf <= (table.eps * 255).round()).all()
    assert ((table.left == 0) == (table.margin_reached >= 0)).all()
    assert (table.norm_ratio[table.left == 0] == 0).all()
    assert (table.variation[table.left == 0].dropna() < 1e-6).all()
    made = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert sum(entry["rows"] for entry in made) == len(table)


@pytest.mark.slow
def test_a_sample_of_the_stored_rows_computed_again(lite0: Classifier) -> None:
    """Another processor rounds otherwise, so counts agree within 40 of 62,720 features."""
    settings = {"eps": 4 / 255, "steps": 60, "margin": 0.3}
    table = read(DATA / "sweeps" / "lite0.csv")
    (stored,) = pick(table[table.picture == "coffee"], **settings).itertuples()
    image = {"coffee": load_image(DATA / "images" / "coffee.png")}
    (now,) = sweep({"efficientnet_lite0": lite0}, image, [settings]).itertuples()
    assert (now.pixels, now.weights) == (stored.pixels, stored.weights)
    assert abs(now.left - stored.left) <= 40
    assert now.ssim == pytest.approx(stored.ssim, abs=0.03)
    assert now.variation == pytest.approx(stored.variation, abs=0.005)
