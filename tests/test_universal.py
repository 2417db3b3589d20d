"""One pattern for all pictures: known budgets on tiny networks, whole levels, and one clear error."""

import math
from pathlib import Path

import pytest
import torch
from nets import SIZE, Counting, Fuse, levels, lowering, noise, picture, random_net
from torch import nn

from helpers.base import Base
from helpers.images import DATA, load_image, on_grid
from helpers.universal import add, universal

SETTINGS = {"steps": 40, "batch": 2, "margin": 0.1, "autocast": False}


def made(base: Base, images: torch.Tensor, **changes: object) -> torch.Tensor:
    return universal(base, images, **{**SETTINGS, **changes})


@pytest.mark.parametrize("eps, awake", [(14, 0), (13, 1)])
def test_all_pictures_are_silent_from_the_known_budget_on(eps: int, awake: int) -> None:
    """The brightest, red 104, has to go down by 14 levels; 13 leave it, and it alone, awake."""
    base, images = lowering(90.5), picture(92, 97, 104)
    left = base.features(add(images, made(base, images, eps=eps / 255))).flatten(1).ne(0).sum(1)
    assert left.tolist() == [0, 0, awake * SIZE * SIZE]


def test_it_holds_for_a_picture_that_it_never_saw() -> None:
    base = lowering(90.5)
    pattern = made(base, picture(95, 104), eps=16 / 255)
    assert base.features(add(picture(100), pattern)).eq(0).all()
    assert base.features(add(picture(120), pattern)).gt(0).all()


def test_only_what_the_network_reads_is_changed() -> None:
    pattern = levels(made(lowering(90.5), picture(95, 104)))
    assert (pattern[:, 0] <= -14).all() and pattern[:, 1:].eq(0).all()


@pytest.mark.parametrize("changes", [{"eps": 0.0}, {"steps": 0}, {"step_size": 0.0}])
def test_no_budget_or_no_steps_give_the_zero_pattern(changes: dict[str, float]) -> None:
    images = noise(3)
    pattern = made(random_net(), images, **changes)
    assert pattern.eq(0).all() and pattern.shape == (1, 3, SIZE, SIZE)
    assert torch.equal(add(images, pattern), images)


@pytest.mark.parametrize("eps", [1, 5, 16, 127])
def test_the_pattern_is_within_its_budget_on_whole_levels(eps: int) -> None:
    pattern = made(random_net(), noise(4), eps=(eps + 0.5) / 255)  # rounded down, as in zero_out
    assert torch.equal(pattern, (pattern * 255).round() / 255)
    assert levels(pattern).abs().max() == eps
    saved = (levels(pattern) + 128).byte()
    assert torch.equal((saved.float() - 128) / 255, pattern)


def test_the_seed_repeats_and_counts() -> None:
    one, same, other = (made(random_net(), noise(5), seed=seed, steps=7) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_each_picture_is_seen_once_before_any_is_seen_again() -> None:
    sums: list[float] = []

    class Watching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.requires_grad:
                sums.extend(x.detach().mean((1, 2, 3)).mul(255).round().tolist())
            return x

    base = Base(Watching(), nn.ReLU(), size=SIZE)
    made(base, picture(10, 20, 30, 40, 50, 60), eps=0.0, steps=6)
    assert sorted(sums[:6]) == sorted(sums[6:]) == [10, 20, 30, 40, 50, 60] and sums[:6] != sums[6:]


def test_a_batch_larger_than_the_pictures_takes_them_all() -> None:
    base = lowering(90.5, body=Counting)
    made(base, picture(95, 104, 99), batch=8, steps=3)
    assert base.body.sizes == [3, 3, 3]


def test_what_is_given_is_not_modified() -> None:
    base, images = random_net(), noise(3)
    before, pattern = images.clone(), made(base, images, steps=3)
    kept = pattern.clone()
    add(images, pattern)
    assert torch.equal(images, before) and torch.equal(pattern, kept)


def test_added_pictures_are_clamped_and_on_the_grid() -> None:
    pattern = torch.full((1, 3, SIZE, SIZE), 20 / 255)
    assert levels(add(picture(0, 100, 250), pattern))[:, 0, 0, 0].tolist() == [20, 120, 255]
    assert levels(add(picture(0, 100, 250), -pattern))[:, 0, 0, 0].tolist() == [0, 80, 230]
    assert on_grid(add(noise(3), pattern))


def test_steps_are_told_and_an_interrupt_keeps_the_pattern() -> None:
    told = []

    def on_step(step: int, pattern: torch.Tensor, nonzero: torch.Tensor) -> None:
        told.append((step, levels(pattern).abs().max().item(), nonzero.tolist()))
        if step == 2:
            raise KeyboardInterrupt

    pattern = made(lowering(90.5), picture(104), step_size=4 / 255, on_step=on_step)
    assert [step for step, _, _ in told] == [0, 1, 2] and told[0][1:] == (0, [SIZE * SIZE])
    assert levels(pattern).abs().max() == told[2][1] > told[1][1] > 0


def test_it_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert levels(made(lowering(90.5), picture(104)))[:, 0].max() <= -14


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"eps": 16}, "eps is 16"),
        ({"eps": 0.001}, "less than one of 255 grey levels"),
        ({"steps": -1}, "steps is -1"),
        ({"step_size": math.inf}, "step_size is inf"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"margin": -1.0}, "margin is -1.0"),
        ({"batch": 0}, "batch is 0; give a whole number"),
        ({"batch": 1.5}, "batch is 1.5; give a whole number"),
    ],
)
def test_bad_settings_get_one_clear_error_before_any_work(changes: dict[str, float], message: str) -> None:
    base = lowering(body=Fuse)
    base.body.error = AssertionError("the network ran")
    with pytest.raises(ValueError, match=message):
        made(base, picture(100), **changes)


def test_bad_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="not on the 8-bit grid"):
        made(lowering(), picture(100.5))
    with pytest.raises(ValueError, match=r"give \(N, 3, H, W\)"):
        made(lowering(), picture(100)[0])
    with pytest.raises(TypeError, match="not a Base"):
        made(nn.ReLU(), picture(100))


def test_a_network_without_a_flat_part_is_refused() -> None:
    base = Base(nn.Conv2d(3, 2, 1), nn.SiLU(), size=SIZE, name="smooth")
    with pytest.raises(ValueError, match="smooth does not end in an activation with a flat part"):
        made(base, picture(100))


@pytest.mark.parametrize("pattern", [torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, SIZE, SIZE), 0.1])
def test_a_pattern_of_another_size_is_refused(pattern: object) -> None:
    with pytest.raises(ValueError, match=r"the pattern is .*; for these pictures give a tensor \(1, 3, 8, 8\)"):
        add(picture(100, 120), pattern)


@pytest.mark.parametrize("path", sorted((DATA / "bench").glob("universal_*.png")), ids=lambda path: path.stem)
def test_stored_patterns_are_within_the_budget_of_their_name(path: Path) -> None:
    """universal_<photos>_<eps>.png holds a pattern + 128."""
    pattern = levels(load_image(path)) - 128
    assert pattern.abs().max() == int(path.stem.split("_")[2]) and pattern.shape == (1, 3, 224, 224)
