"""Several bases as one: what is zero for the ensemble is zero for each."""

import pytest
import torch
from nets import corridor, lowering, picture, random_net, red_reader
from torch import nn

from helpers.attack import zero_out
from helpers.base import Base
from helpers.ensemble import ensemble


def test_an_ensemble_has_the_features_of_all() -> None:
    bases, image = (lowering(90.5), random_net()), picture(100.0)
    both = ensemble(*bases, scales=(1, 8))
    assert torch.equal(both.features(image), torch.cat([base.features(image).flatten(1) for base in bases], 1))


def test_an_image_that_zeroes_an_ensemble_zeroes_each_of_them() -> None:
    """One base wants red at 90 or less, the other between 80 and 110."""
    bases = lowering(90.5), corridor(79.5, 110.5)
    result = zero_out(ensemble(*bases), picture(130.0, 60.0), eps=60 / 255)
    assert result.nonzero == [0, 0] and not any(base.features(result.images).any() for base in bases)
    red = (result.images[:, 0] * 255).round()
    assert red.min() >= 80 and red.max() <= 90


def test_thresholds_and_scales_are_those_of_each_base() -> None:
    hard = Base(nn.Conv2d(3, 2, 1), nn.Hardswish(), size=8)
    both = ensemble(lowering(90.5), hard, scales=(1, 2))
    z = both.pre_activations(picture(100.0)).flatten(1)
    assert both.threshold == 0 and hard.threshold == -3
    assert torch.equal(z[:, -128:], 2 * (hard.pre_activations(picture(100.0)) + 3).flatten(1))


@pytest.mark.parametrize(
    "bases, scales, message",
    [
        ((lowering(), lowering()), (1,), r"scales are \[1.0\] for 2 bases; give one number above 0 for each"),
        ((lowering(), lowering()), (1, 0), "give one number above 0"),
        ((lowering(), Base(nn.Conv2d(3, 1, 1), nn.ReLU(), size=16)), None, r"images of \[8, 16\] pixels"),
        ((lowering(), Base(nn.Conv2d(3, 1, 1), nn.Tanh(), size=8)), None, "does not end in an activation"),
        ((), None, "bases of one size"),
    ],
)
def test_what_cannot_be_joined_is_named(bases, scales, message) -> None:
    with pytest.raises(ValueError, match=message):
        ensemble(*bases, scales=scales)


def test_its_name_and_hash_are_those_of_all() -> None:
    both = ensemble(lowering(), red_reader((2.0, 1.0)))
    assert both.name == "tiny and tiny" and len(both.sha256) == 64
