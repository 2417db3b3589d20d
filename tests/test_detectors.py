"""Detectors on clouds of vectors that can be checked by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_defences import cloud, readout
from torch import nn

from helpers.base import Base
from helpers.defence.detectors import (
    SQUEEZERS,
    ClassGaussians,
    Detectors,
    evaluate_detectors,
    flagged,
    joint_flags,
    max_cosine,
    mcnemar,
    spatial_statistics,
    thresholds,
)
from helpers.defence.readouts import Readout
from helpers.heads import fit_head


def detect(found: Readout, detectors: Detectors) -> pd.DataFrame:
    return detectors.scores(dict.fromkeys(("no filter", *SQUEEZERS), found))


@pytest.fixture
def detectors() -> Detectors:
    clean, labels = cloud(0)
    return Detectors(clean, labels, fit_head(clean.features, labels))


def test_detectors_flag_zeros_and_outliers_each_in_its_way(detectors: Detectors) -> None:
    limits = thresholds(detect(cloud(1)[0], detectors))
    zeros = flagged(detect(readout(torch.zeros(1, 2)), detectors), limits).iloc[0]
    assert zeros[["largest probability", "entropy", "feature norm"]].all()
    far = flagged(detect(readout(torch.tensor([[99.0, 9.0]])), detectors), limits).iloc[0]
    assert far[["Mahalanobis", "raw distance", "Mahalanobis of pre-activations"]].all()
    assert not far[["feature norm", "largest probability", "feature squeezing"]].any()


def test_logits_of_two_classes_agree_with_the_head(detectors: Detectors) -> None:
    scores = detect(readout(torch.tensor([[9.0, 1.0]])), detectors)
    gap = abs(detectors.head.decision_function([[9.0, 1.0]])[0])
    assert scores["largest logit"].item() == pytest.approx(-gap / 2, rel=1e-4)
    assert scores["energy"].item() == pytest.approx(-np.log(2 * np.cosh(gap / 2)), rel=1e-4)


def test_nearest_neighbours_look_at_directions_and_count_to_the_fifth() -> None:
    """Seven known directions, 0 to 60 degrees; the fifth nearest to 0 lies at 40, at any norm."""
    angles = torch.deg2rad(torch.arange(0, 70, 10.0))
    known = readout(torch.stack([angles.cos(), angles.sin()], 1) * torch.arange(1, 8.0)[:, None])
    labels = ["a", "b"] * 3 + ["a"]
    detectors = Detectors(known, labels, fit_head(known.features, labels))
    scores = detect(readout(torch.tensor([[100.0, 0.0], [0.01, 0.0], [0.0, 0.0]])), detectors)
    chord = 2 * np.sin(np.deg2rad(40) / 2)
    assert scores["nearest neighbours"].tolist() == pytest.approx([chord, chord, 1], rel=1e-4)


def test_a_copy_of_a_known_image_is_too_near(detectors: Detectors) -> None:
    clean, _ = cloud(0)
    copy = detect(readout(torch.cat([clean.features[:1] * 3, torch.tensor([[5.0, 5.0]])])), detectors)
    assert copy["copy of a photo"].iloc[0] == pytest.approx(1, abs=1e-6) and copy["copy of a photo"].iloc[1] < 0.99


def test_feature_squeezing_sees_an_answer_that_changes(detectors: Detectors) -> None:
    steady, moved = readout(torch.tensor([[9.0, 1.0]])), readout(torch.tensor([[1.0, 9.0]]))
    found = {"no filter": steady, SQUEEZERS[0]: steady, SQUEEZERS[1]: moved}
    assert detectors.scores(found)["feature squeezing"].item() > 1.5
    assert detect(steady, detectors)["feature squeezing"].item() == 0


def test_an_attacker_gets_the_gradients_of_the_scores_that_the_defender_sees(detectors: Detectors) -> None:
    point = torch.tensor([[9.0, 1.0]], requires_grad=True)
    with_gradients, seen = detectors.without_filters(readout(point)), detect(readout(point.detach()), detectors)
    assert [*with_gradients, "feature squeezing"] == [*seen]
    for name, score in with_gradients.items():
        assert score.item() == seen[name].item(), name
        (grad,) = torch.autograd.grad(score, point, retain_graph=True)
        assert grad.isfinite().all() and grad.any(), name


def test_mahalanobis_counts_in_standard_deviations() -> None:
    spread = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 10.0])
    distances = ClassGaussians(spread, ["a"] * 4000).distance(torch.tensor([[3.0, 0.0], [0.0, 30.0]]))
    assert distances.tolist() == pytest.approx([3, 3], rel=0.15)


def test_thresholds_keep_the_false_positive_rate_on_calibration_images() -> None:
    scores = pd.DataFrame({"a": np.arange(100.0), "b": -np.arange(100.0)})
    for share in (0, 0.05, 0.5):
        assert flagged(scores, thresholds(scores, share)).mean().max() <= share


def test_mcnemar_looks_only_at_the_images_on_which_two_counts_differ() -> None:
    one = pd.Series([True] * 5 + [False] * 3 + [True] * 9, index=range(17))
    other = pd.Series([False] * 5 + [True] + [False] * 2 + [True] * 9, index=range(17))
    assert mcnemar(one, other) == (5, 1, pytest.approx(2 * (1 + 6) / 2**6))
    assert mcnemar(other[::-1], one)[:2] == (1, 5), "by image, in any order"
    assert mcnemar(one, one) == (0, 0, 1)


def clean_scores(detectors: int = 8, images: int = 600) -> pd.DataFrame:
    """Independent noise, of another scale for each detector."""
    noise = np.random.default_rng(0).standard_normal((images, detectors)) * 10.0 ** np.arange(detectors)
    return pd.DataFrame(noise, columns=[f"detector {i}" for i in range(detectors)])


def test_one_threshold_for_all_detectors_keeps_the_joint_rate() -> None:
    """With a threshold of its own for each, a third would be flagged; the clean images are judged cross-fitted."""
    clean, groups = clean_scores(), ["a", "b", "c", "d"] * 150
    assert flagged(clean, thresholds(clean, 0.05)).any(axis=1).mean() > 0.25
    for rate in (0.05, 0.2, 0.5):
        assert joint_flags(clean, groups, clean, groups, rate).mean() == pytest.approx(rate, abs=0.04)


def test_joint_flags_see_either_side_of_any_detector_and_ignore_its_scale() -> None:
    clean, usual = clean_scores(), np.zeros(8)
    low, high = usual.copy(), usual.copy()
    low[0], high[7] = -9.0, 9.0e7
    odd = pd.DataFrame([usual, low, high], columns=clean.columns)
    groups = ["a", "b"] * 300
    assert joint_flags(odd, ["a", "b", "new"], clean, groups).tolist() == [False, True, True]


def test_an_image_is_not_judged_by_clean_images_of_its_own_group() -> None:
    """Group b is far from all others: alone it defines what is usual, and cross-fitted it is flagged whole."""
    clean = pd.DataFrame({"norm": [*np.linspace(0, 1, 40), *np.linspace(50, 51, 40)]})
    groups = ["a"] * 40 + ["b"] * 40
    assert joint_flags(clean, groups, clean, groups).all()
    assert not joint_flags(clean, ["other"] * 80, clean, groups, 0).any()


def test_separated_equal_and_reversed_scores_are_evaluated() -> None:
    clean = pd.DataFrame({"apart": [0.0] * 40, "same": np.arange(40.0), "reversed": [1.0] * 40})
    attacked = pd.DataFrame({"apart": [1.0] * 40, "same": np.arange(40.0), "reversed": [0.0] * 40})
    table = evaluate_detectors(clean, attacked, thresholds(clean))
    assert table.AUROC.tolist() == pytest.approx([1, 0.5, 0]) and table.TPR.tolist() == pytest.approx([1, 0.025, 0])
    assert table.FPR.max() <= 0.05 and table["TPR low"]["apart"] == pytest.approx(0.025 ** (1 / 40), abs=1e-3)
    for rate in ("TPR", "FPR"):
        assert table[rate].between(table[f"{rate} low"], table[f"{rate} high"]).all()


def test_a_memory_knows_images_of_one_origin_but_no_zeros() -> None:
    """It counts direction alone, and never an image against itself."""
    vectors = torch.tensor([[3.0, 4.0], [6.0, 8.0], [4.0, 3.0], [0.0, 0.0], [0.0, 0.0]])
    assert max_cosine(readout(vectors)).tolist() == pytest.approx([1, 1, 24 / 25, 0, 0])
    assert max_cosine(readout(vectors[:1])).tolist() == [0]
    assert max_cosine(readout(vectors[:1]), readout(vectors[2:])).tolist() == pytest.approx([24 / 25])


def test_spatial_statistics_read_every_position() -> None:
    """Two channels at two positions; zeros have no direction, and are at distance one from everything."""
    base = Base(nn.Conv2d(3, 2, 1), nn.Identity(), size=2)
    base.feature_shape = torch.Size([2, 1, 2])
    features = torch.tensor([[3.0, 0.0, 4.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    table = spatial_statistics(base, features, features[:1].expand(5, 4))
    assert table.active.tolist() == [0.5, 1, 0]
    # standard deviations over two positions: 3 / sqrt 2 and 4 / sqrt 2; means: 3 / 2 and 4 / 2
    assert table.dispersion.tolist() == pytest.approx([2**0.5, 0, 0])
    cosine = (3 + 4) / 5 / 2
    assert table.knn_distance.tolist() == pytest.approx([0, (2 - 2 * cosine) ** 0.5, 1], abs=1e-3)
