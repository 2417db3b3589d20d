"""Detectors: scores for how unlike clean images an image is, thresholds, and how well they work."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import Tensor

from helpers.base import Base
from helpers.defence.readouts import Readout, unit_length
from helpers.heads import as_linear

SQUEEZERS = ("4 bits", "median 3 x 3")  # the filters of feature squeezing
NEIGHBOURS = 5  # how many clean images the distances look at


class Detectors:
    """Eleven scores; a larger one is more suspicious.

    Energy: Liu et al. 2020. Feature norm: Park et al. 2023. Mahalanobis: Lee et al. 2018. Nearest neighbours, at
    unit length: Sun et al. 2022. Feature squeezing: Xu et al. 2018.
    """

    def __init__(self, clean: Readout, labels: Sequence[str], head: LogisticRegression) -> None:
        """clean: the readout of N clean images, with N labels. head: the protected head, on features."""
        self.head, self.linear, self.clean = head, as_linear(head).double(), clean
        self.features = ClassGaussians(clean.features, labels)
        self.pre_activation = ClassGaussians(clean.pre_activation, labels)

    def scores(self, readouts: Mapping[str, Readout]) -> pd.DataFrame:
        """One row per image and one column per detector. readouts: of "no filter" and the two SQUEEZERS."""
        p, *squeezed = (self.head.predict_proba(readouts[n].features.numpy()) for n in ("no filter", *SQUEEZERS))
        squeezing = np.max([np.abs(p - other).sum(1) for other in squeezed], axis=0)
        return pd.DataFrame(self.without_filters(readouts["no filter"])).assign(**{"feature squeezing": squeezing})

    def without_filters(self, readout: Readout) -> dict[str, Tensor]:
        """All scores but feature squeezing, each (N,) in float64, with gradients."""
        logits = self.linear(readout.features.double())
        p = logits.softmax(1)
        raw = torch.cdist(readout.features, self.clean.features).topk(NEIGHBOURS, largest=False).values
        # Zeros stay zeros at unit length, at a distance of 1 from everything.
        unit = unit_length(readout.features)
        cosines = (unit @ unit_length(self.clean.features).T).topk(NEIGHBOURS).values
        squares = unit.square().sum(1) + 1 - 2 * cosines[:, -1]
        scores = {
            "largest probability": -p.amax(1),
            "entropy": torch.special.entr(p).sum(1),
            "largest logit": -logits.amax(1),
            "energy": -logits.logsumexp(1),
            "feature norm": -readout.feature_norm,
            "Mahalanobis": self.features.distance(readout.features),
            "Mahalanobis of pre-activations": self.pre_activation.distance(readout.pre_activation),
            "raw distance": raw.mean(1),
            "nearest neighbours": squares.clamp(min=0).sqrt(),
            "copy of a photo": cosines[:, 0],
        }
        return {name: score.double() for name, score in scores.items()}


class ClassGaussians:
    """One Gaussian per class of vectors (N, C), all with the same covariance."""

    def __init__(self, vectors: Tensor, labels: Sequence[str]) -> None:
        x, (names, places) = vectors.double(), np.unique(labels, return_inverse=True)
        self.means = torch.stack([x[torch.from_numpy(places == i)].mean(0) for i in range(len(names))])
        apart = x - self.means[torch.from_numpy(places)]
        self.precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(apart.numpy()).get_precision())

    def distance(self, vectors: Tensor) -> Tensor:
        """The Mahalanobis distance of each vector to the nearest class, (N,), with gradients."""
        apart = vectors.double() - self.means[:, None]  # (classes, N, C)
        return (apart @ self.precision * apart).sum(2).amin(0).sqrt()


def max_cosine(readout: Readout, *others: Readout) -> Tensor:
    """The largest cosine of each image's features to those of another image, at least 0: (N,).

    A defender with a memory compares these (stateful detection, Chen et al. 2020).
    readout: of the N images.
    others: of more images in the memory.
    """
    unit = unit_length(readout.features)
    memory = torch.cat([unit, *(unit_length(other.features) for other in others)])
    return (unit @ memory.T).fill_diagonal_(0).amax(1)


def spatial_statistics(base: Base, features: Tensor, known: Tensor) -> pd.DataFrame:
    """Three numbers per image that use all features, not their channel means.

    features: (N, C * H * W). known: of clean images, (M, C * H * W).
    Returns the columns active (share of active features), dispersion (norm over channels of the standard deviation
    over positions, divided by that of the mean) and knn_distance (to the fifth nearest of known, at unit length).
    """
    positions = features.unflatten(1, base.feature_shape).flatten(2)  # (N, C, H * W)
    return pd.DataFrame(
        {
            "active": features.ne(0).float().mean(1),
            "dispersion": positions.std(2).norm(dim=1) / positions.mean(2).norm(dim=1).clamp(min=1e-12),
            "knn_distance": torch.cdist(unit_length(features), unit_length(known)).kthvalue(5).values,
        }
    )


def thresholds(clean: pd.DataFrame, false_positive_rate: float = 0.05) -> pd.Series:
    """For each detector, the score that at most this share of the clean calibration images exceeds."""
    return clean.quantile(1 - false_positive_rate, interpolation="higher")


def flagged(scores: pd.DataFrame, limits: pd.Series) -> pd.DataFrame:
    """Which images each detector flags, as a table of True and False. limits: see thresholds."""
    return scores.gt(limits)


def joint_flags(
    scores: pd.DataFrame,
    groups: Sequence[str],
    clean: pd.DataFrame,
    clean_groups: Sequence[str],
    false_positive_rate: float = 0.05,
) -> np.ndarray:
    """Which images a defender flags who runs all detectors with one threshold, cross-fitted: (N,).

    The joint score of an image is its largest distance from the mean of clean images over the detectors, on either
    side, in standard deviations. It is judged by clean images of other groups only.
    scores, clean: one row per image, one column per detector.
    groups, clean_groups: one per image, for example its background.
    false_positive_rate: at most this share of the clean images lies above the threshold. (Default: 0.05)
    To measure the rate that is reached, give the clean images as scores, too.
    """
    groups, clean_groups, flags = np.array(groups), np.array(clean_groups), np.zeros(len(scores), dtype=bool)
    for group in np.unique(groups):
        known, tested = clean[clean_groups != group], groups == group
        usual, judged = (
            ((table - known.mean()) / known.std()).abs().max(axis=1)
            for table in (known, scores.loc[tested, clean.columns])
        )
        flags[tested] = judged > usual.quantile(1 - false_positive_rate, interpolation="higher")
    return flags


def exact_interval(hits: int, of: int) -> tuple[float, float]:
    """The exact 95 % confidence interval of the share `hits` / `of` (Clopper & Pearson 1934)."""
    ends = binomtest(int(hits), int(of)).proportion_ci()
    return float(ends.low), float(ends.high)


def mcnemar(one: pd.Series, other: pd.Series) -> tuple[int, int, float]:
    """McNemar's exact test of two counts on the same images (McNemar 1947).

    one, other: True or False, by image.
    Returns how many images count in one only, how many in the other only, and the p-value of so uneven a split.
    """
    only = int((one & ~other).sum()), int((other & ~one).sum())
    return *only, float(binomtest(only[0], sum(only)).pvalue) if any(only) else 1.0


def evaluate_detectors(clean: pd.DataFrame, attacked: pd.DataFrame, limits: pd.Series) -> pd.DataFrame:
    """One row per detector: AUROC, TPR (attacked images flagged) and FPR (clean images flagged).

    "TPR low", "TPR high" and so on are the ends of exact 95 % intervals.
    """
    truth = [0] * len(clean) + [1] * len(attacked)
    table = pd.DataFrame({"AUROC": {name: roc_auc_score(truth, [*clean[name], *attacked[name]]) for name in clean}})
    for rate, scores in {"TPR": attacked, "FPR": clean}.items():
        hits = flagged(scores, limits).sum()
        table[rate] = hits / len(scores)
        table[[f"{rate} low", f"{rate} high"]] = [exact_interval(count, len(scores)) for count in hits]
    return table
