"""Linear heads on frozen features."""

from collections.abc import Sequence

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from helpers.base import Base, Classifier


def fit_head(vectors: Tensor, labels: Sequence[str], c: float = 10.0) -> LogisticRegression:
    """Train a linear head (multinomial logistic regression).

    vectors: (N, C), on any device. labels: N class names.
    c: inverse regularisation for vectors in units of their mean norm. (Default: 10)
    Returns a scikit-learn classifier for vectors in their original units. It is trained in float64, to a tolerance
    below the differences between processors.
    """
    x = vectors.detach().cpu().double()
    # One unit for all: if each vector had length 1, nearly zero features would count as much as those of a photo.
    unit = x.norm(dim=1).mean().clamp(min=1e-12).item()
    head = LogisticRegression(C=c, max_iter=5000, tol=1e-6).fit((x / unit).numpy(), list(labels))
    head.coef_ /= unit
    return head


def as_linear(head: LogisticRegression) -> nn.Linear:
    """The same head as a torch layer: vectors (N, C) -> logits (N, K), one for each class."""
    weight, bias = torch.from_numpy(head.coef_), torch.from_numpy(head.intercept_)
    if len(bias) == 1:  # two classes: scikit-learn keeps one row, the difference of the two
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    linear = nn.utils.skip_init(nn.Linear, weight.shape[1], len(bias))  # draws no random numbers
    linear.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return linear.requires_grad_(False)


def with_head(base: Base, head: LogisticRegression) -> Classifier:
    """A base and a head of fit_head, which reads features averaged over positions."""
    linear = as_linear(head).to(base.mean.device)
    return Classifier(base, nn.Sequential(*average_over_positions(base), linear), head.classes_.tolist())


def average_over_positions(base: Base) -> nn.Sequential:
    """Layers that turn the features of a base into vectors (N, C): the mean over the positions of maps (C, H, W)."""
    shape = base.feature_shape
    if len(shape) == 1:
        return nn.Sequential()
    if len(shape) == 3 and shape[1] == shape[2]:  # images are square, and so are maps
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    raise ValueError(
        f"features of {base.name} have shape {shape}; a head is trained on square maps (C, H, W) or on (C,), "
        "so give a base that ends in such a layer"
    )
