"""Heads that read a Readout, and linear probes."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from helpers.base import best_labels
from helpers.defence.readouts import READERS, Readout
from helpers.heads import fit_head

Head = LogisticRegression | Pipeline


def ridge() -> Pipeline:
    """An untrained ridge classifier that first scales each value to unit variance.

    In 6-fold cross-validation on the training photos it was as good as shrinkage discriminants, and better than
    `fit_head` wherever a head reads more than the features.
    """
    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=100))


def fit_readers(readout: Readout, labels: Sequence[str]) -> dict[str, Head]:
    """One head for each of READERS: `fit_head` on features, `ridge` on other layers."""
    heads: dict[str, Head] = {}
    for name, read in READERS.items():
        x = read(readout)
        plain = name in ("features", "unit length")
        heads[name] = fit_head(x, labels) if plain else ridge().fit(x.double().numpy(), list(labels))
    return heads


def top_labels(head: LogisticRegression, vectors: Tensor, top: int = 3) -> list[list[tuple[str, float]]]:
    """The `top` most probable (label, probability) of each row of vectors (N, C)."""
    probabilities = torch.from_numpy(head.predict_proba(vectors.numpy()))
    return [best_labels(row, head.classes_.tolist(), top) for row in probabilities]


def probe(vectors: Tensor, labels: Sequence[str], head: Head | None = None) -> np.ndarray:
    """Predictions of a linear probe in 4-fold cross-validation, (N,). vectors: (N, C). labels: N names.

    head: the kind of probe, not modified. (Default: `ridge`)
    """
    return cross_val_predict(head or ridge(), vectors.double().numpy(), list(labels), cv=4)
