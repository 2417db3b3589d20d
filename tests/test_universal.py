"""One pattern for all images: known budgets on tiny networks, whole levels, and one clear error."""

from pathlib import Path

import pytest
import torch
from nets import SIZE, Counting, Fuse, levels, lowering, noise, picture, random_net
from torch import Tensor, nn

from helpers.base import Base
from helpers.images import DATA, load_image, on_grid
from helpers.universal import add, universal


def made(base: Base, images: Tensor, **changes: object) -> Tensor:
    return universal(base, images, **{"steps": 40, "batch": 2, "margin": 0.1, **changes})


@pytest.mark.parametrize("eps, left", [(14, 0), (13, SIZE * SIZE)])
def test_all_images_are_zeroed_from_the_known_budget_on(eps: int, left: int) -> None:
    """The brightest, red 104, has to go down by 14 levels; 13 leave it, and it alone, active."""
    base, images = lowering(90.5), picture(92, 97, 104)
    pattern = made(base, images, eps=eps / 255)
    assert base.verdict(add(images, pattern))[0].tolist() == [0, 0, left]
    assert not pattern[:, 1:].any(), "what the network does not read stays"
    assert base.verdict(add(picture(95, 120), pattern))[0].tolist() == [0, SIZE * SIZE], "images it never saw"


@pytest.mark.parametrize("changes", [{"eps": 0.0}, {"steps": 0}, {"step_size": 0.0}])
def test_no_budget_or_no_steps_give_the_zero_pattern(changes: dict[str, float]) -> None:
    images = noise(3)
    pattern = made(random_net(), images, **changes)
    assert torch.equal(pattern, torch.zeros(1, 3, SIZE, SIZE)) and torch.equal(add(images, pattern), images)


@pytest.mark.parametrize("eps", [1, 16, 127])
def test_the_pattern_is_within_its_budget_on_whole_levels(eps: int) -> None:
    pattern = made(random_net(), noise(4), eps=(eps + 0.5) / 255, steps=20)  # rounded down, as in zero_out
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

    made(Base(Watching(), nn.ReLU(), size=SIZE), picture(10, 20, 30, 40, 50, 60), eps=0.0, steps=6)
    assert sorted(seen[:6]) == sorted(seen[6:]) == [10, 20, 30, 40, 50, 60] and seen[:6] != seen[6:]


def test_a_batch_larger_than_the_images_takes_them_all() -> None:
    base = lowering(90.5, body=Counting)
    made(base, picture(95, 104, 99), batch=8, steps=3)
    assert base.body.sizes == [3, 3, 3]


def test_added_images_are_clamped_and_on_the_grid() -> None:
    pattern = torch.full((1, 3, SIZE, SIZE), 20 / 255)
    assert levels(add(picture(0, 100, 250), pattern))[:, 0, 0, 0].tolist() == [20, 120, 255]
    assert levels(add(picture(0, 100, 250), -pattern))[:, 0, 0, 0].tolist() == [0, 80, 230]
    assert on_grid(add(noise(3), pattern))


def test_steps_are_told_and_an_interrupt_keeps_the_pattern() -> None:
    told = []

    def on_step(step: int, pattern: Tensor, nonzero: Tensor) -> None:
        told.append((step, levels(pattern).abs().max().item(), nonzero.tolist()))
        if step == 2:
            raise KeyboardInterrupt

    pattern = made(lowering(90.5), picture(104), step_size=4 / 255, on_step=on_step)
    assert [step for step, _, _ in told] == [0, 1, 2] and told[0][1:] == (0, [SIZE * SIZE])
    assert levels(pattern).abs().max() == told[2][1] > told[1][1] > 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(context: type) -> None:
    base = lowering(90.5)
    with context():
        assert levels(made(base, picture(104)))[:, 0].max() <= -14


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eps": 16}, "eps is 16"),
        ({"steps": -1}, "steps is -1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"batch": 0}, "batch is 0; give a whole number"),
        ({"batch": 1.5}, "batch is 1.5; give a whole number"),
        ({"images": picture(100.5)}, "not on the 8-bit grid"),
    ],
)
def test_bad_input_gets_one_clear_error_before_any_work(changes: dict[str, object], message: str) -> None:
    base = lowering(body=Fuse)
    base.body.error = AssertionError("the network ran")
    with pytest.raises(ValueError, match=message):
        made(base, **{"images": picture(100), **changes})


def test_a_network_without_a_flat_part_is_refused() -> None:
    base = Base(nn.Conv2d(3, 2, 1), nn.SiLU(), size=SIZE, name="smooth")
    with pytest.raises(ValueError, match="smooth does not end in an activation with a flat part"):
        made(base, picture(100))


@pytest.mark.parametrize("pattern", [torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, SIZE, SIZE), 0.1])
def test_a_pattern_of_another_size_is_refused(pattern: object) -> None:
    with pytest.raises(ValueError, match=r"the pattern is .*; for these images give a tensor \(1, 3, 8, 8\)"):
        add(picture(100, 120), pattern)


@pytest.mark.parametrize("path", sorted((DATA / "bench").glob("universal_*.png")), ids=lambda path: path.stem)
def test_stored_patterns_are_within_the_budget_of_their_name(path: Path) -> None:
    """universal_<photos>_<eps>.png holds a pattern + 128."""
    pattern = levels(load_image(path)) - 128
    assert pattern.abs().max() == int(path.stem.split("_")[2]) and pattern.shape == (1, 3, 224, 224)
