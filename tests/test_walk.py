"""Steps within a budget."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import SIZE, levels, lowering, noise, picture, random_net

from helpers.attack import zero_out
from helpers.images import on_grid
from helpers.walk import Walk

PIXELS = SIZE * SIZE
ENOUGH = 10 * math.sqrt(PIXELS) / 255  # red from 100 to 90 in every pixel


def length(change: torch.Tensor) -> list[float]:
    return torch.linalg.vector_norm(change.double(), dim=(1, 2, 3)).tolist()


def test_a_pixel_that_runs_into_the_edge_of_its_budget_is_braked() -> None:
    """Else what it gathers there would hold it when the slope turns."""
    free, stopped = Walk(picture(100.0), 40 / 255), Walk(picture(100.0), 4 / 255)
    slope = torch.ones_like(free.x)
    for _ in range(8):  # 0.9 levels a step, so that the fifth runs into the edge
        for walk in (free, stopped):
            walk.move(slope, 0.9 / 255, 0.5)
    assert torch.equal(levels(free.x), levels(picture(92.8)))
    assert torch.equal(levels(stopped.x), levels(picture(96.0)))
    braked = 1 - 0.5**4
    for _ in range(4):
        braked = 0.5 * (0.5 * braked + 0.5)
    assert stopped.first.unique().tolist() == pytest.approx([braked])
    assert free.first.unique().tolist() == pytest.approx([1 - 0.5**8])
    assert braked < 0.4


@pytest.mark.parametrize("share, left", [(1.01, 0), (0.9, None)])
def test_zero_is_reached_from_the_known_length_on(share: float, left: int | None) -> None:
    result = zero_out(lowering(90.5), picture(100.0), eps=share * ENOUGH, norm="l2", steps=150, autocast=False)
    assert (result.nonzero == [0]) == (left == 0)
    assert length(result.images - result.original)[0] <= share * ENOUGH


def test_a_length_may_be_spent_on_few_pixels() -> None:
    """What no budget per pixel of 60 levels reaches: one pixel that has to go down by 160."""
    image = picture(50.0)
    image[0, 0, 3, 3] = 250 / 255
    near = zero_out(lowering(90.5), image, eps=60 / 255, steps=150, autocast=False)
    far = zero_out(lowering(90.5), image, eps=165 / 255, norm="l2", steps=150, autocast=False)
    assert near.nonzero == [1] and far.nonzero == [0]
    assert (levels(far.images) != levels(image)).any(1).sum() == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 6), st.booleans())
def test_the_rounded_pictures_stay_within_the_length(seed: int, eps: float, random_start: bool) -> None:
    images = noise(2, seed=seed)
    result = zero_out(
        random_net(seed % 3), images, eps=eps, norm="l2", steps=5, random_start=random_start, autocast=False
    )
    assert on_grid(result.images)
    assert max(length(result.images - images)) <= eps + 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pictures_that_are_dropped_leave_the_others_as_they_were(norm: str) -> None:
    images, slope = noise(3), noise(3, seed=1) - 0.5
    together, alone = Walk(images, 20 / 255, norm), Walk(images[[0, 2]], 20 / 255, norm)
    together.move(slope, 4 / 255, 0.9)
    together.keep([0, 2])
    alone.move(slope[[0, 2]], 4 / 255, 0.9)
    for walk in (together, alone):
        walk.move(slope[[0, 2]], 9 / 255, 0.9)
    assert torch.equal(together.rounded(), alone.rounded())


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm is 'l1'; give one of linf, l2"):
        zero_out(lowering(), picture(100.0), norm="l1")


@pytest.mark.parametrize("eps", [-1.0, math.inf, math.nan])
def test_a_length_that_is_none_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match=f"eps is {eps}; in the norm l2 give a length"):
        zero_out(lowering(), picture(100.0), eps=eps, norm="l2")
