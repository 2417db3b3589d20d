"""Steps within a budget, and the loop of zero_out written out."""

import pytest
import torch
from nets import levels, noise, picture, random_net
from torch import Tensor

from helpers.attack import POWER, STOP_FRACTION, schedule, zero_out
from helpers.base import Base
from helpers.images import to_grid
from helpers.optimizer import BETA2, PixelAdam, half_cosine

SIZE, MARGIN = 16 / 255, 1.0


def plain_loop(base: Base, image: Tensor, eps: float, steps: int) -> tuple[Tensor, list[int]]:
    """The attack on one image as one would first write it: the last image, and the features left at each step."""
    x = image.clone(memory_format=torch.channels_last)
    low, high = (x - eps).clamp(min=0), (x + eps).clamp(max=1)
    adam = torch.optim.Adam([x], betas=(0.9, BETA2), eps=1e-12)
    active_steps, counts = 0, []
    for step in range(steps + 1):
        quantized = to_grid(x).requires_grad_()
        z = base.pre_activations(quantized)
        counts.append(int(base.rest(z).count_nonzero()))
        if step == steps or z.max() <= -STOP_FRACTION * MARGIN:
            return quantized.detach(), counts
        loss = (1 + active_steps) ** POWER * torch.relu(z + MARGIN)
        (x.grad,) = torch.autograd.grad(loss.sum(), quantized)
        adam.param_groups[0]["lr"] = SIZE * schedule(step)
        adam.step()
        x.clamp_(low, high)
        active_steps = active_steps + (z.detach() > 0)


@pytest.mark.parametrize("seed, eps", [(0, 8), (1, 30), (3, 60)])
def test_zero_out_is_the_plain_loop_step_by_step(seed: int, eps: int) -> None:
    base, image = random_net(seed), noise(seed=seed)
    last, counts = plain_loop(base, image, eps / 255, 60)
    seen: list[Tensor] = []
    result = zero_out(base, image, eps=eps / 255, steps=60, on_step=lambda step, images, _: seen.append(images))
    assert result.history == [counts] and torch.equal(seen[-1], last)


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
    assert [half_cosine(step, 4) for step in (0, 2, 4)] == pytest.approx([1, 0.5, 0])
