"""Detectors: nine scores of how unlike a clean picture one is, their thresholds, and how well they do."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from helpers.defences import Reading

SQUEEZERS = ("4 bits", "median 3 x 3")  # the filters of feature squeezing


class Detectors:
    """Nine scores of how unlike a clean picture one is; the larger, the more suspicious.

    clean: a reading of clean pictures with their labels; head: the head to be protected, a classifier of
    scikit-learn on READERS["as it was"]. Mahalanobis distance: Lee et al. 2018; nearest neighbours:
    Sun et al. 2022; energy: Liu et al. 2020; length: Park et al. 2023; feature squeezing: Xu et al. 2018.
    """

    def __init__(self, clean: Reading, labels: Sequence[str], head: LogisticRegression, neighbours: int = 5) -> None:
        self.head = head
        self.shapes = {name: Shape(getattr(clean, name), labels) for name in ("features", "under")}
        self.near = NearestNeighbors(n_neighbors=neighbours).fit(clean.features.numpy())

    def scores(self, seen: Mapping[str, Reading]) -> pd.DataFrame:
        """One row per picture, one column per detector; seen: "no filter" and the two SQUEEZERS."""
        plain = seen["no filter"]
        logits = self.head.decision_function(plain.features.numpy())
        if logits.ndim == 1:  # two classes: scikit-learn keeps one column, the difference of ours
            logits = np.stack([-logits, logits], 1) / 2
        logits = torch.from_numpy(logits)
        p, *squeezed = (self.head.predict_proba(seen[name].features.numpy()) for name in ("no filter", *SQUEEZERS))
        distances, _ = self.near.kneighbors(plain.features.numpy())
        return pd.DataFrame(
            {
                "largest probability": -p.max(1),
                "entropy": torch.special.entr(torch.from_numpy(p)).sum(1),
                "largest logit": -logits.amax(1),
                "energy": -logits.logsumexp(1),
                "length of features": -plain.length,
                "Mahalanobis": self.shapes["features"].distance(plain.features),
                "nearest neighbours": distances.mean(1),
                "Mahalanobis under ReLU": self.shapes["under"].distance(plain.under),
                "feature squeezing": np.max([np.abs(p - other).sum(1) for other in squeezed], axis=0),
            }
        ).astype(float)


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


def judge(clean: pd.DataFrame, attacked: pd.DataFrame, limits: pd.Series, seed: int = 0) -> pd.DataFrame:
    """One row per detector: AUROC, share of attacked (caught) and of clean pictures (false alarms) refused.

    low and high: a 95 % bootstrap interval of caught, over 2,000 draws of the attacked pictures.
    """
    caught, alarms = refused(attacked, limits), refused(clean, limits)
    draws = np.random.default_rng(seed).integers(0, len(attacked), (2000, len(attacked)))
    truth = np.r_[np.zeros(len(clean)), np.ones(len(attacked))]
    rows = {}
    for name in clean:
        shares = caught[name].to_numpy()[draws].mean(1)
        rows[name] = {
            "AUROC": roc_auc_score(truth, np.r_[clean[name], attacked[name]]),
            "caught": caught[name].mean(),
            "low": np.quantile(shares, 0.025),
            "high": np.quantile(shares, 0.975),
            "false alarms": alarms[name].mean(),
        }
    return pd.DataFrame(rows).T
