"""Detectors: scores of how unlike a clean picture one is, their thresholds, and how well they do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from helpers.base import Base
from helpers.defences import READERS, Reading

SQUEEZERS = ("4 bits", "median 3 x 3")  # the filters of feature squeezing


class Detectors:
    """Eleven scores; the larger, the more suspicious.

    clean: a reading of clean pictures with their labels; head: the head to be protected, a classifier of
    scikit-learn on READERS["as it was"]. Mahalanobis distance: Lee et al. 2018; nearest neighbours, the
    distance to the k-th of them with all features brought to length one: Sun et al. 2022; energy: Liu et al.
    2020; length: Park et al. 2023; feature squeezing: Xu et al. 2018. Two more of distance: "raw distance" is
    the mean to the k nearest without that length, and "copy of a photo" the cosine to the nearest, so
    that it grows where a picture is too near.
    """

    def __init__(self, clean: Reading, labels: Sequence[str], head: LogisticRegression, neighbours: int = 5) -> None:
        self.head, self.neighbours = head, neighbours
        self.shapes = {name: Shape(getattr(clean, name), labels) for name in ("features", "under")}
        self.known, self.units = clean.features, READERS["unit length"](clean)

    def scores(self, seen: Mapping[str, Reading]) -> pd.DataFrame:
        """One row per picture, one column per detector; seen: "no filter" and the two SQUEEZERS."""
        plain = seen["no filter"]
        logits = self.head.decision_function(plain.features.numpy())
        if logits.ndim == 1:  # two classes: scikit-learn keeps one column, the difference of ours
            logits = np.stack([-logits, logits], 1) / 2
        logits = torch.from_numpy(logits)
        p, *squeezed = (self.head.predict_proba(seen[name].features.numpy()) for name in ("no filter", *SQUEEZERS))
        raw = torch.cdist(plain.features, self.known).topk(self.neighbours, largest=False).values
        unit = READERS["unit length"](plain)  # all zeros stay zeros, at a distance of 1 from everything
        cosines = (unit @ self.units.T).topk(self.neighbours).values
        squares = unit.square().sum(1) + 1 - 2 * cosines[:, -1]
        return pd.DataFrame(
            {
                "largest probability": -p.max(1),
                "entropy": torch.special.entr(torch.from_numpy(p)).sum(1),
                "largest logit": -logits.amax(1),
                "energy": -logits.logsumexp(1),
                "length of features": -plain.length,
                "Mahalanobis": self.shapes["features"].distance(plain.features),
                "raw distance": raw.mean(1),
                "nearest neighbours": squares.clamp(min=0).sqrt(),
                "copy of a photo": cosines[:, 0],
                "Mahalanobis under ReLU": self.shapes["under"].distance(plain.under),
                "feature squeezing": np.max([np.abs(p - other).sum(1) for other in squeezed], axis=0),
            }
        ).astype(float)


def most_alike(seen: Reading, *kept: Reading) -> Tensor:
    """The largest cosine of each picture's features to those of another picture seen or kept (N,), at least 0.

    What a defender with a memory can compare (stateful detection, Chen et al. 2020): pictures of one origin.
    """
    unit = READERS["unit length"](seen)
    others = [unit @ READERS["unit length"](other).T for other in kept]
    return torch.cat([(unit @ unit.T).fill_diagonal_(0), *others], 1).amax(1)


def every_place(base: Base, features: Tensor, known: Tensor) -> pd.DataFrame:
    """Three numbers that read all features (N, C * H * W) of a base, not their means over places: one row each.

    awake: the share that is not zero. uneven: the spread over the places beside the mean, both as lengths over the
    channels. far: the distance to the fifth nearest of known (M, C * H * W), all at length one.
    """
    places = features.unflatten(1, base.feature_shape).flatten(2)
    mean = places.mean(2).norm(dim=1).clamp(min=1e-12)
    unit, other = (nn.functional.normalize(x) for x in (features, known))
    numbers = {
        "awake": features.ne(0).float().mean(1),
        "uneven": places.std(2).norm(dim=1) / mean,
        "far": torch.cdist(unit, other).kthvalue(5).values,
    }
    return pd.DataFrame(numbers)


class Shape:
    """The clouds of vectors (N, C) of each class: their means, and one covariance for all."""

    def __init__(self, vectors: Tensor, labels: Sequence[str]) -> None:
        x, names = vectors.double().numpy(), np.array(labels)
        self.means = {name: x[names == name].mean(0) for name in sorted(set(labels))}
        self.covariance = LedoitWolf(assume_centered=True).fit(x - np.stack([self.means[name] for name in names]))

    def distance(self, vectors: Tensor) -> np.ndarray:
        """Mahalanobis distance to the nearest class (N,)."""
        x = vectors.double().numpy()
        return np.min([self.covariance.mahalanobis(x - mean) for mean in self.means.values()], axis=0) ** 0.5


def thresholds(clean: pd.DataFrame, false_alarms: float = 0.05) -> pd.Series:
    """The score of each detector above which a picture is refused.

    At most the given share of the clean calibration pictures lies above it.
    """
    if not 0 <= false_alarms < 1:
        raise ValueError(f"false_alarms is {false_alarms}; give a share from 0 up to, but below, 1")
    return clean.quantile(1 - false_alarms, interpolation="higher")


def refused(scores: pd.DataFrame, limits: pd.Series) -> pd.DataFrame:
    """Which pictures each detector refuses: a table of True and False."""
    return scores.gt(limits)


def exact_interval(hits: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of which `hits` of `of` were seen (Clopper & Pearson 1934)."""
    ends = binomtest(int(hits), int(of)).proportion_ci(method="exact")
    return float(ends.low), float(ends.high)


def judge(clean: pd.DataFrame, attacked: pd.DataFrame, limits: pd.Series, seed: int = 0) -> pd.DataFrame:
    """One row per detector: AUROC, share of attacked (caught) and of clean pictures (false alarms) refused.

    Each with the ends of a 95 % interval (low, high): of the AUROC by bootstrap, over 2,000 draws of clean and
    attacked pictures, of the shares exact.
    """
    chance = np.random.default_rng(seed)
    drawn = [chance.multinomial(n, np.full(n, 1 / n), 2000) / n for n in map(len, (clean, attacked))]
    refusals = {"caught": refused(attacked, limits), "false alarms": refused(clean, limits)}
    rows = {}
    for name in clean:
        c, a = clean[name].to_numpy()[:, None], attacked[name].to_numpy()[None, :]
        won = (a > c) + 0.5 * (a == c)  # the AUROC is the mean of these
        area = np.einsum("dc,ca,da->d", drawn[0], won, drawn[1], optimize=True)
        row = {"AUROC": won.mean(), "AUROC low": np.quantile(area, 0.025), "AUROC high": np.quantile(area, 0.975)}
        for what, table in refusals.items():
            low, high = exact_interval(table[name].sum(), len(table))
            row |= {what: table[name].mean(), f"{what} low": low, f"{what} high": high}
        rows[name] = row
    return pd.DataFrame(rows).T
