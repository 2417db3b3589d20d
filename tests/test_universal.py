"""One pattern for all images: known budgets on tiny networks, whole levels, and one clear error."""

import pytest
import torch
from nets import SIZE, fused, levels, lowering, noise, picture, random_net
from torch import Tensor, nn

from experiments.universal import add, universal
from helpers.base import Base
from helpers.images import DATA, load_image, on_grid


def made(base: Base, images: Tensor, **changes: object) -> Tensor:
    return universal(base, images, **{"steps": 40, "batch": 2, "margin": 0.1, **changes})


@pytest.mark.parametrize("eps, left", [(14, 0), (13, SIZE * SIZE)])
def test_all_images_are_zeroed_from_the_known_budget_on(eps: int, left: int) -> None:
    """The brightest, red 104, has to go down by 14 levels; 13 leave it, and it alone, active."""
    base, images = lowering(90.5), picture(92, 97, 104)
    with torch.inference_mode():  # gradients are switched on where they are needed
        pattern = made(base, images, eps=eps / 255)
    assert base.verdict(add(images, pattern))[0].tolist() == [0, 0, left]
    assert not pattern[:, 1:].any(), "what the network does not read stays"
    assert base.verdict(add(picture(95, 120), pattern))[0].tolist() == [0, SIZE * SIZE], "images it never saw"


@pytest.mark.parametrize("eps", [0, 1, 127])
def test_the_pattern_is_within_its_budget_on_whole_levels(eps: int) -> None:
    pattern = made(random_net(), noise(4), eps=(eps + 0.5) / 255 if eps else 0.0, steps=20)  # rounded down
    assert levels(pattern).abs().max() == eps
    saved = (levels(pattern) + 128).byte()
    assert torch.equal((saved.float() - 128) / 255, pattern)


def test_the_seed_repeats_and_the_images_stay() -> None:
    images = noise(5)
    one, same, other = (made(random_net(), images, seed=seed, steps=7) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(images, noise(5))


def test_each_image_is_seen_once_before_any_is_seen_again() -> None:
    seen: list[int] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.extend(levels(x)[:, 0, 0, 0].tolist() if x.requires_grad else [])
            return x

    made(Base(Watching(), nn.ReLU(), size=SIZE), picture(10, 20, 30, 40, 50), eps=0.0, steps=6)
    assert sorted(seen[:5]) == sorted(seen[5:]) == [10, 20, 30, 40, 50] and seen[:5] != seen[5:]


def test_added_images_are_clamped_and_on_the_grid() -> None:
    pattern = torch.full((1, 3, SIZE, SIZE), 20 / 255)
    assert levels(add(picture(0, 100, 250), pattern))[:, 0, 0, 0].tolist() == [20, 120, 255]
    assert levels(add(picture(0, 100, 250), -pattern))[:, 0, 0, 0].tolist() == [0, 80, 230]
    assert on_grid(add(noise(3), pattern))


def test_bad_input_gets_one_clear_error_before_any_work() -> None:
    base = fused(AssertionError("the network ran"))
    with pytest.raises(ValueError, match="eps is 16"):
        made(base, picture(100), eps=16)
    smooth = Base(nn.Conv2d(3, 2, 1), nn.SiLU(), size=SIZE, name="smooth")
    with pytest.raises(ValueError, match="smooth does not end in an activation with a flat part"):
        made(smooth, picture(100))


def test_the_stored_pattern_is_within_the_budget_of_its_name() -> None:
    """universal_<photos>_<eps>.png holds a pattern + 128."""
    pattern = levels(load_image(DATA / "bench" / "universal_126_16.png")) - 128
    assert pattern.abs().max() == 16
