"""Detectors on clouds of vectors that can be checked by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from helpers.base import Base
from helpers.defences import Reading, fit_head
from helpers.detectors import (
    SQUEEZERS,
    Detectors,
    Shape,
    every_place,
    exact_interval,
    judge,
    most_alike,
    refused,
    thresholds,
)


def reading(features: torch.Tensor) -> Reading:
    return Reading(features * 0 + 1, features - 1, features, features.norm(dim=1))


def cloud(seed: int, number: int = 60) -> tuple[Reading, list[str]]:
    """Two classes of vectors around (9, 1) and (1, 9)."""
    centres = torch.tensor([[9.0, 1.0], [1.0, 9.0]]).repeat(number // 2, 1)
    spread = torch.randn(number, 2, generator=torch.Generator().manual_seed(seed))
    return reading(centres + spread), ["a", "b"] * (number // 2)


def detect(seen: Reading, detectors: Detectors) -> pd.DataFrame:
    return detectors.scores(dict.fromkeys(("no filter", *SQUEEZERS), seen))


@pytest.fixture
def detectors() -> Detectors:
    clean, labels = cloud(0)
    return Detectors(clean, labels, fit_head(clean.features, labels))


def test_detectors_find_nothing_and_outliers_each_in_its_way(detectors: Detectors) -> None:
    limits = thresholds(detect(cloud(1)[0], detectors))
    nothing = refused(detect(reading(torch.zeros(1, 2)), detectors), limits).iloc[0]
    assert nothing[["largest probability", "entropy", "length of features"]].all()
    far = refused(detect(reading(torch.tensor([[99.0, 9.0]])), detectors), limits).iloc[0]
    assert far[["Mahalanobis", "raw distance", "Mahalanobis under ReLU"]].all()
    assert not far[["length of features", "largest probability", "feature squeezing"]].any()


def test_nearest_neighbours_look_at_directions_and_count_to_the_k_th() -> None:
    """Seven known directions, 0 to 60 degrees; the fifth nearest to 0 lies at 40, whatever the lengths."""
    angles = torch.deg2rad(torch.arange(0, 70, 10.0))
    known = reading(torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 8.0)[:, None])
    labels = ["a", "b"] * 3 + ["a"]
    detectors = Detectors(known, labels, fit_head(known.features, labels))
    scores = detect(reading(torch.tensor([[100.0, 0.0], [0.01, 0.0]])), detectors)
    chord = 2 * np.sin(np.deg2rad(40) / 2)
    assert scores["nearest neighbours"].tolist() == pytest.approx([chord, chord], rel=1e-4)
    assert scores["raw distance"].is_monotonic_decreasing
    nothing = detect(reading(torch.zeros(1, 2)), detectors)
    assert nothing["nearest neighbours"].item() == pytest.approx(1)


def test_a_copy_of_a_known_picture_is_too_near(detectors: Detectors) -> None:
    clean, _ = cloud(0)
    given = detect(reading(torch.cat([clean.features[:1] * 3, torch.tensor([[5.0, 5.0]])])), detectors)
    assert given["copy of a photo"].iloc[0] == pytest.approx(1, abs=1e-6) and given["copy of a photo"].iloc[1] < 0.99


def test_feature_squeezing_sees_an_answer_that_wavers(detectors: Detectors) -> None:
    steady, moved = reading(torch.tensor([[9.0, 1.0]])), reading(torch.tensor([[1.0, 9.0]]))
    seen = {"no filter": steady, SQUEEZERS[0]: steady, SQUEEZERS[1]: moved}
    assert detectors.scores(seen)["feature squeezing"].item() > 1.5
    assert detect(steady, detectors)["feature squeezing"].item() == 0


def test_mahalanobis_counts_in_units_of_the_spread() -> None:
    spread = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0])
    shape = Shape(spread, ["a"] * 4000)
    one, other = shape.distance(torch.tensor([[3.0, 0.0], [0.0, 30.0]]))
    assert one == pytest.approx(3, rel=0.15) and other == pytest.approx(3, rel=0.15)


def test_thresholds_keep_the_promise_on_calibration_pictures() -> None:
    scores = pd.DataFrame({"a": np.arange(100.0), "b": -np.arange(100.0)})
    for share in (0, 0.05, 0.5):
        assert refused(scores, thresholds(scores, share)).mean().max() <= share


@pytest.mark.parametrize("share", [-0.1, 1, 5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"false_alarms is {share}; give a share"):
        thresholds(pd.DataFrame({"a": [1.0]}), share)


def test_judge_on_separated_equal_and_reversed_scores() -> None:
    clean = pd.DataFrame({"apart": [0.0] * 40, "same": np.arange(40.0), "reversed": [1.0] * 40})
    attacked = pd.DataFrame({"apart": [1.0] * 40, "same": np.arange(40.0), "reversed": [0.0] * 40})
    verdict = judge(clean, attacked, thresholds(clean))
    assert verdict.AUROC.round(3).tolist() == [1, 0.5, 0] and verdict.caught.round(3).tolist() == [1, 0.025, 0]
    assert verdict["false alarms"].max() <= 0.05
    for what in ("AUROC", "caught", "false alarms"):
        assert verdict[what].between(verdict[f"{what} low"], verdict[f"{what} high"]).all()
    assert verdict["caught low"]["apart"] == pytest.approx(0.0250 ** (1 / 40), abs=1e-3)
    assert 0.3 < verdict["AUROC low"]["same"] < 0.45 and verdict["AUROC high"]["apart"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 42, 0, 0.084), (42, 42, 0.916, 1), (1, 42, 0.001, 0.126), (8, 42, 0.086, 0.341)]
)
def test_exact_intervals_are_those_of_the_tables(hits: int, of: int, low: float, high: float) -> None:
    assert exact_interval(hits, of) == pytest.approx((low, high), abs=6e-4)


def test_a_memory_knows_pictures_of_one_origin_but_no_zeros() -> None:
    """Likeness counts direction alone, never a picture against itself, and nothing is like nothing."""
    vectors = torch.tensor([[3.0, 4.0], [6.0, 8.0], [4.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    assert most_alike(reading(vectors)).tolist() == pytest.approx([1, 1, 24 / 25, 0, 0])
    assert most_alike(reading(vectors[:1])).tolist() == [0]
    assert most_alike(reading(vectors[:1]), reading(vectors[2:])).tolist() == pytest.approx([24 / 25]), "and kept ones"


def test_every_place_is_read() -> None:
    """Two channels at two places; nothing at all has no direction, and is at distance one from everything."""
    base = Base(nn.Conv2d(3, 2, 1), nn.Identity(), size=2)
    base.feature_shape = torch.Size([2, 1, 2])
    features = torch.tensor([[3.0, 0.0, 4.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    table = every_place(base, features, features[:1].expand(5, 4))
    assert table.awake.tolist() == [0.5, 1, 0]
    # spread over two places: 3 / sqrt 2 and 4 / sqrt 2, beside means of 3 / 2 and 4 / 2
    assert table.uneven.tolist() == pytest.approx([2**0.5, 0, 0])
    cosine = (3 + 4) / 5 / 2
    assert table.far.tolist() == pytest.approx([0, (2 - 2 * cosine) ** 0.5, 1], abs=1e-3)
