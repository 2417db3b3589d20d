"""Steps within a budget."""

import pytest
import torch
from nets import levels, noise, picture

from helpers.optimizer import PixelAdam, half_cosine


def test_a_budget_is_rounded_down_to_whole_levels_and_a_whole_one_kept() -> None:
    """k/255 * 255 may fall just below k in floating point."""
    for level in range(256):
        for eps in (level / 255, level / 255 * (1 - 1e-7), float(torch.tensor(level / 255)), (level + 0.9) / 255):
            low = PixelAdam(picture(255.0), min(eps, 1.0)).low
            assert (levels(low) == 255 - level).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_that_are_dropped_leave_the_others_as_they_were(norm: str) -> None:
    images, grad = noise(3), noise(3, seed=1) - 0.5
    kept = torch.tensor([True, False, True])
    together, alone = PixelAdam(images, 20 / 255, norm), PixelAdam(images[kept], 20 / 255, norm)
    together.step(grad, 4 / 255)
    together.keep(kept)
    alone.step(grad[kept], 4 / 255)
    for adam in (together, alone):
        adam.step(grad[kept], 9 / 255)
    assert torch.equal(together.quantized(), alone.quantized())


def test_half_a_cosine() -> None:
    assert [half_cosine(step, 4) for step in (-1, 0, 2, 4, 5)] == pytest.approx([1, 1, 0.5, 0, 0])
