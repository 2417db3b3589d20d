"""Sweeps on tiny networks whose answer is known, and a sample of the stored ones computed again."""

import csv
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier, get_ident
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
from nets import Fuse, lowering, noise, picture, random_net
from torch import nn

from helpers import sliders, sweeps
from helpers.attack import zero_out
from helpers.base import Base, Classifier
from helpers.images import DATA, load_image
from helpers.networks import efficientnet_lite0
from helpers.sweeps import LOSSES, bisect, grid, pick, read, smallest_budget, sweep

EIGHT = {"eps": 8 / 255, "steps": 12}


def far() -> Base:
    """Made anew in each worker: silent when red is at most 90."""
    return lowering(90.5)


STEADY = {"steps": 40, "step_size": 4 / 255}


def without_seconds(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns="seconds")


def fused() -> tuple[Base, Fuse]:
    base = lowering(90.5)
    base.body = Fuse(base.body)
    return base, base.body


def test_a_grid_is_every_combination_in_order() -> None:
    cells = grid(eps=[1, 2], steps=5, margin=(0.0, 1.0))
    assert [(c["eps"], c["margin"]) for c in cells] == [(1, 0.0), (1, 1.0), (2, 0.0), (2, 1.0)]
    assert {c["steps"] for c in cells} == {5}
    assert grid() == [{}]
    assert grid(eps=[]) == []
    assert grid(steps=np.arange(2), eps=range(2)) == grid(steps=(0, 1), eps=[0, 1])
    assert len(grid(eps=np.linspace(0, 1, 5), loss="norm", steps=np.array(3))) == 5


def test_a_row_says_what_the_attack_says() -> None:
    image = noise(seed=3)
    row = sweep({"net": random_net(1)}, {"noise": image}, [EIGHT]).iloc[0]
    result = zero_out(random_net(1), image, **EIGHT)
    assert [row.left] == result.nonzero and [row.taken] == result.steps and row.outputs == result.outputs
    assert row.room == pytest.approx(result.margin[0], rel=1e-6)
    assert row.linf == 8 and row.psnr > 20 and 0 < row.ssim <= 1
    assert (row.network, row.picture, row["size"], row.eps, row.loss) == (
        "net",
        "noise",
        8,
        pytest.approx(8 / 255),
        "hinge",
    )
    assert pd.isna(row.variation) and pd.isna(row.error) and row.weights == random_net(1).sha256[:12]


def test_known_answers() -> None:
    """Red of 96 and 120 must fall to 90: 8 levels are enough for the first, not for the second."""
    pictures = {"near": picture(96.0), "far": picture(120.0)}
    table = sweep({"net": far}, pictures, grid(eps=[4 / 255, 8 / 255], steps=40, step_size=4 / 255))
    assert (table.left == 0).tolist() == [False, False, True, False]
    assert table.norm_ratio[2] == 0 and table.room[2] > 0 > table.room[3]


def test_a_classifier_adds_the_distance_to_its_blank_prediction() -> None:
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    base = far()
    head(torch.zeros(1, *base.feature_shape))
    classifier = Classifier(base, head, "abc")
    table = sweep({"net": classifier}, {"near": picture(96.0), "far": picture(255.0)}, [STEADY])
    assert table.variation[0] == 0 < table.variation[1] <= 1


def test_pictures_of_one_size_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def counting(base: Base, images: torch.Tensor, **settings: object) -> object:
        sizes.append(len(images))
        return zero_out(base, images, **settings)

    monkeypatch.setattr(sweeps, "zero_out", counting)
    pictures = {f"p{i}": noise(seed=i) for i in range(5)} | {"wide": noise(size=16)}
    table = sweep({"net": far}, pictures, [{"steps": 1}], batch=3)
    assert sizes == [3, 2, 1] and len(table) == 6
    assert table["size"].tolist() == [8] * 5 + [16]


def test_what_is_stored_is_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, pictures = tmp_path / "new" / "table.csv", {"a": noise(seed=1), "b": noise(seed=2)}
    cells = grid(eps=[2 / 255, 1 / 3], steps=[0, 3])
    first = sweep({"net": far}, pictures, cells, path=path)
    monkeypatch.setattr(sweeps, "zero_out", lambda *_, **__: pytest.fail("computed again"))
    again = sweep({"net": far}, pictures, cells, path=path)
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(first, read(path))
    backwards = sweep({"net": far}, pictures, cells[::-1], path=path)
    assert backwards.eps.tolist() == [e for c in cells[::-1] for e in [pytest.approx(c["eps"])] * 2]
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["torch"] == torch.__version__


def test_a_stopped_sweep_goes_on(tmp_path: Path) -> None:
    """Stopped in its third cell: two rows are in the file, and the next call computes the other two."""
    path, cells = tmp_path / "table.csv", grid(eps=[k / 255 for k in (1, 2, 3, 4)], steps=2)
    base, fuse = fused()
    whole = sweep({"net": far}, {"a": noise()}, cells)
    calls: list[int] = []

    def stop_in_third(module: nn.Module, inputs: tuple) -> None:
        calls.append(1)
        fuse.error = KeyboardInterrupt() if len(calls) == 12 else None

    fuse.register_forward_pre_hook(stop_in_third)
    with pytest.raises(KeyboardInterrupt):
        sweep({"net": base}, {"a": noise()}, cells, path=path)
    done = len(read(path))
    assert 0 < done < 4
    fuse._forward_pre_hooks.clear()
    fuse.error = None
    calls.clear()
    fuse.register_forward_pre_hook(lambda *_: calls.append(1))
    table = sweep({"net": base}, {"a": noise()}, cells, path=path)
    assert table.left.tolist() == whole.left.tolist() and table.linf.tolist() == [1, 2, 3, 4]
    only = len(calls)
    calls.clear()
    sweep({"net": base}, {"a": noise()}, cells)
    assert only * 4 == len(calls) * (4 - done)


def test_an_interrupted_attack_is_not_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """zero_out hands back the best so far on KeyboardInterrupt; the sweep must not take it for the result."""

    def interrupted(base: Base, images: torch.Tensor, **settings: object) -> object:
        return zero_out(base, images, **{**settings, "steps": 1})

    monkeypatch.setattr(sweeps, "zero_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep({"net": far}, {"a": picture(255.0)}, [{"steps": 5}], path=tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()


def test_a_failing_cell_is_recorded_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    table = sweep({"net": far}, {"a": noise()}, grid(eps=[8 / 255, -1.0, 4 / 255], steps=1), path=path)
    assert table.error.isna().tolist() == [True, False, True]
    assert table.error[1].startswith("ValueError: eps is -1") and pd.isna(table.left[1])
    base, fuse = fused()
    fuse.error = RuntimeError("no memory\nlong story")
    table = sweep({"net": base}, {"b": noise()}, [{"steps": 1}], path=path)
    assert table.error.tolist() == ["RuntimeError: no memory"]
    fuse.error = None
    table = sweep({"net": base}, {"b": noise()}, [{"steps": 1}], path=path)
    assert table.error.isna().all() and len(read(path)) == 4


def test_one_bad_picture_does_not_take_its_batch_along() -> None:
    off_grid = torch.full((1, 3, 8, 8), 0.5)
    table = sweep({"net": far}, {"a": noise(), "bad": off_grid, "c": noise(seed=1)}, [{"steps": 1}])
    assert table.error.isna().tolist() == [True, False, True]
    assert "8-bit grid" in table.error[1]


def test_another_picture_under_the_same_name_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    sweep({"net": far}, {"mine": picture(96.0)}, [STEADY], path=path)
    table = sweep({"net": far}, {"mine": picture(255.0)}, [STEADY], path=path)
    assert table.left[0] > 0 and len(read(path)) == 2


def test_rows_of_other_weights_are_computed_again(tmp_path: Path) -> None:
    path, pictures, base = tmp_path / "table.csv", {"a": noise()}, random_net(1)
    first = sweep({"net": base}, pictures, [{"steps": 1}], path=path)
    with torch.no_grad():
        next(base.parameters()).mul_(2)
    # A function's network is not there yet when rows are looked up: its name is trusted.
    made = sweep({"net": lambda: base}, pictures, [{"steps": 1}], path=path)
    pd.testing.assert_frame_equal(made, first)
    table = sweep({"net": base}, pictures, [{"steps": 1}], path=path)
    assert table.weights[0] != first.weights[0] and len(read(path)) == 1
    failed = sweep({"net": random_net(2)}, pictures, [{"steps": 1, "eps": -1.0}, {"steps": 1}], path=path)
    assert failed.error.isna().tolist() == [False, True] and failed.weights[1] not in set(table.weights)


def processes() -> Executor:
    return ProcessPoolExecutor(2, mp_context=get_context("spawn"))


def dask() -> Executor:
    distributed = pytest.importorskip("dask.distributed", reason="pip install distributed")
    client = distributed.Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None)
    return client.get_executor()


def threads() -> Executor:
    return ThreadPoolExecutor(2)


@pytest.mark.parametrize("make", [threads, processes, dask], ids=lambda make: make.__name__)
def test_any_executor_gives_the_same_table(make: Callable[[], Any], tmp_path: Path) -> None:
    pictures = {"a": noise(seed=1), "b": noise(seed=2)}
    cells = grid(eps=[-1.0, 4 / 255, 8 / 255], steps=3, loss=["hinge", LOSSES["norm"]])
    with make() as executor:
        table = sweep({"net": lowering(90.5)}, pictures, cells, executor=executor, path=tmp_path / "t.csv")
    here = sweep({"net": lowering(90.5)}, pictures, cells)
    pd.testing.assert_frame_equal(without_seconds(table), without_seconds(here))
    assert table.error.notna().sum() == 4


def test_threads_do_not_disturb_each_other_in_a_network_with_hooks(lite0: Classifier) -> None:
    image = {"cat": load_image(DATA / "images" / "cat.png", size=64)}
    cells = grid(eps=8 / 255, steps=6, seed=list(range(4)), random_start=True)
    with ThreadPoolExecutor(2) as workers:
        table = sweep({"shared": lite0, "made": efficientnet_lite0}, image, cells, executor=workers)
    assert table.error.isna().all() and len(table) == 8


def test_each_thread_makes_a_network_once_however_many_there_are() -> None:
    threads, made = 6, []
    together = Barrier(threads, timeout=60)

    def source() -> Base:
        made.append(get_ident())
        return far()

    def work(_: int) -> set[Base]:
        found = set()
        for _ in range(3):
            together.wait()
            found.add(sweeps.own(source))
        return found

    with ThreadPoolExecutor(threads) as workers:
        found = list(workers.map(work, range(threads)))
    assert len(made) == len(set(made)) == len(set.union(*found)) == threads


def test_a_worker_that_dies_is_recorded() -> None:
    class Dead(Executor):
        def submit(self, *_: object, **__: object) -> Future:
            future: Future = Future()
            future.set_exception(MemoryError("killed"))
            return future

    table = sweep({"net": far}, {"a": noise(), "b": noise(seed=1)}, [{}], executor=Dead())
    assert table.error.tolist() == ["MemoryError: killed"] * 2


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_has_a_finite_slope_and_lowers_outputs(name: str) -> None:
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for start in (z, -z.abs()):  # the second: nothing awake
        z1 = start.clone().requires_grad_()
        loss = LOSSES[name](z1, 0.5)
        assert loss.shape in (z.shape, (2, 1, 1, 1))
        assert torch.isfinite(torch.autograd.grad(loss.sum(), z1)[0]).all()
    table = sweep({"net": far}, {"a": noise()}, grid(steps=[0, 20], loss=name, focus=0.0, eps=16 / 255))
    assert table.norm_ratio[0] == 1
    # Equal outputs have no dispersion, so that loss need not silence any.
    assert table.left[1] < table.left[0] or name == "dispersion"


@pytest.mark.parametrize("name", list(LOSSES))
def test_every_loss_takes_outputs_of_any_shape(name: str) -> None:
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    flat = LOSSES[name](maps.flatten(1), 0.5)
    assert flat.shape in ((2, 48), (2, 1))
    assert torch.allclose(flat, LOSSES[name](maps, 0.5).flatten(1))


def test_pick_finds_rows_by_settings() -> None:
    cells = grid(eps=[4 / 255, 8 / 255], margin=[0.1, 1.0], steps=2, random_start=[False, True])
    table = sweep({"net": far}, {"a": noise()}, cells)
    tiny = {"steps": 2, "size": 8}
    assert len(pick(table, **tiny)) == 1
    assert pick(table, **tiny, eps=[4 / 255, 8 / 255], margin=0.1).eps.round(4).tolist() == [0.0157, 0.0314]
    assert len(pick(table, **tiny, random_start=[True, False])) == 2
    assert len(pick(table, **tiny, eps=(4 / 255, 8 / 255))) == len(pick(table, **tiny, eps=np.array([4, 8]) / 255)) == 2
    assert len(pick(table, size=8, steps=range(3))) == 1
    assert pick(table, steps=2).empty and pick(table, size=8).empty
    assert pick(table, **tiny, autocast=True).empty and len(pick(table, **tiny, autocast=[None, True])) == 1


@pytest.mark.parametrize("needed", [1, 5, 16, 17])
def test_bisection_finds_the_smallest_budget(needed: int) -> None:
    asked: list[int] = []
    found, tried = bisect(lambda k: asked.append(k) or max(0, needed - k), 16)
    assert found == (needed if needed <= 16 else None)
    assert len(asked) == len(tried) <= 5 and all(tried[k] == max(0, needed - k) for k in asked)


def test_the_smallest_budget_of_a_network_with_a_known_answer() -> None:
    """Red of 96 must fall to 90: six levels."""
    found, tried = smallest_budget(far(), picture(96.0), steps=40, step_size=2 / 255)
    assert found == 6 and tried[6] == 0 and tried[5] > 0


def test_bad_input_is_one_clear_error(tmp_path: Path) -> None:
    one = {"a": noise()}
    with pytest.raises(ValueError, match="no setting 'epsilon'"):
        sweep({"net": far}, one, [{"epsilon": 1}])
    with pytest.raises(ValueError, match="eps is '8/255'; give one number"):
        sweep({"net": far}, one, [{"eps": "8/255"}])
    with pytest.raises(ValueError, match="give one of hinge"):
        sweep({"net": far}, one, [{"loss": "hing"}])
    with pytest.raises(ValueError, match="lambda"):
        sweep({"net": far}, one, [{"loss": lambda z, margin: z}])
    with pytest.raises(ValueError, match="loss is a partial, which has no name for the table"):
        sweep({"net": far}, one, [{"loss": partial(LOSSES["hinge"], margin=2.0)}])
    with pytest.raises(ValueError, match="2 pictures"):
        sweep({"net": far}, {"a": noise(2)}, [{}])
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        sweep({"net": far}, one, [{}], path=tmp_path / "other.csv")


def test_a_loss_named_like_one_of_ours_does_not_get_its_rows() -> None:
    def norm(z: torch.Tensor, margin: float) -> torch.Tensor:
        return torch.relu(z)

    one = {"a": noise()}
    with pytest.raises(ValueError, match="named 'norm' like one of LOSSES, and would get its rows; rename it"):
        sweep({"net": far}, one, [{"loss": norm}])
    norm.__name__ = "my_norm"
    cells = grid(steps=1, loss=["norm", LOSSES["norm"], norm])
    assert sweep({"net": far}, one, cells).loss.tolist() == ["norm", "my_norm"]


# --- the laboratory --------------------------------------------------------------------------------


def tiny_classifier() -> Classifier:
    base = far()
    head = nn.Sequential(nn.Flatten(), nn.LazyLinear(6))
    head(torch.zeros(1, *base.feature_shape))
    return Classifier(base, head, "abcdef")


def test_a_trial_is_picture_text_and_certificate(tmp_path: Path) -> None:
    one = sliders.trial(tiny_classifier(), picture(96.0), **STEADY)
    assert one.picture.startswith(b"\x89PNG") and one.certificate.zero and "exactly zero" in one.text
    assert one.save(tmp_path) == "laboratory.png and laboratory.json"
    assert json.loads((tmp_path / "laboratory.json").read_text(encoding="utf-8"))["zero"]
    assert torch.equal(load_image(tmp_path / "laboratory.png", size=8), one.result.images)


def test_the_laboratory_runs_saves_and_survives_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict] = []
    monkeypatch.setattr(sliders, "display", lambda data, **_: shown.append(data))
    seen: list[widgets.Widget] = []
    widgets.Widget.on_widget_constructed(seen.append)
    net = tiny_classifier()
    first = sliders.trial(net, picture(96.0), **STEADY)

    def run(eps: float, on_step: Callable) -> sliders.Trial:
        return sliders.trial(net, picture(120.0), eps=eps, steps=20, on_step=on_step)

    choices = {"eps": [4 / 255, -1.0]}
    stored = "stored: {}".format
    sliders.laboratory(
        choices, run, first, folder=tmp_path, alt="A test", stored=lambda eps: stored(eps), start={"eps": 4 / 255}
    )
    widgets.Widget.on_widget_constructed(None)
    menu = next(w for w in seen if isinstance(w, widgets.Dropdown))
    go, keep = (w for w in seen if isinstance(w, widgets.Button))
    image, words = (next(w for w in seen if isinstance(w, kind)) for kind in (widgets.Image, widgets.HTML))
    kind, still = sliders.as_still(first.picture)
    assert shown[0][kind] == still and shown[0]["text/plain"] == "A test"
    assert bytes(image.value) == first.picture
    go.click()
    assert bytes(image.value) != first.picture and "not blind" in words.value and not go.disabled
    keep.click()
    assert "written: laboratory.png" in words.value and (tmp_path / "laboratory.png").is_file()
    menu.value = -1.0
    assert words.value == "<pre>stored: -1.0</pre>"
    go.click()
    assert "ValueError: eps is -1.0" in words.value and not go.disabled


# --- the stored sweeps ----------------------------------------------------------------------------

STORED = sorted((DATA / "sweeps").glob("*.csv"))


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_sweeps_are_whole(path: Path) -> None:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({sweeps.key_of(row) for row in rows}) == len(rows) > 20
    table = read(path)
    assert table.error.isna().all()
    assert (table.linf <= (table.eps * 255).round()).all()
    assert ((table.left == 0) == (table.room >= 0)).all()
    assert (table.norm_ratio[table.left == 0] == 0).all()
    assert (table.variation[table.left == 0].dropna() < 1e-6).all()
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["rows"] == len(rows) and about["seeds"]


def test_stored_sweeps_are_of_the_bundled_files(vgg: Base) -> None:
    table = read(DATA / "sweeps" / "vgg16.csv")
    assert set(table.weights[table.network == "vgg16"]) == {vgg.sha256[:12]}
    here = sweep({"x": far}, {"cat": load_image(DATA / "images" / "cat.png")}, [{"eps": -1.0}])
    assert set(table.pixels[(table.picture == "cat") & (table["size"] == 224)]) == {here.pixels[0]}


@pytest.mark.parametrize("eps, slack", [(16, 3), (4, 40)])
def test_a_sample_of_the_stored_rows_computed_again(lite0: Classifier, eps: int, slack: int) -> None:
    """Another processor rounds otherwise, so counts agree within `slack` of 62,720 outputs."""
    settings = {"eps": eps / 255, "steps": 60, "margin": 0.3}
    stored = pick(read(DATA / "sweeps" / "lite0.csv"), **settings).set_index("picture")
    names = ["albatross", "coffee"]
    pictures = {name: load_image(DATA / "images" / f"{name}.png") for name in names}
    now = sweep({"efficientnet_lite0": lite0}, pictures, [settings]).set_index("picture")
    for name in names:
        assert abs(now.left[name] - stored.left[name]) <= slack
        assert now.pixels[name] == stored.pixels[name] and now.weights[name] == stored.weights[name]
        assert now.ssim[name] == pytest.approx(stored.ssim[name], abs=0.03)
        assert now.variation[name] == pytest.approx(stored.variation[name], abs=0.005)
