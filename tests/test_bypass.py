"""Steering pictures: within the budget, through views, towards a donor, and past what it may not touch."""

import math

import pandas as pd
import pytest
import torch
from nets import SIZE, levels, lowering, noise, picture, random_net
from torch import nn

from helpers.base import Base
from helpers.bypass import as_it_is, like, silent, steer, straight_through
from helpers.defences import fewer_bits, look
from helpers.images import DATA, load_folder, load_image, load_photos, on_grid
from helpers.networks import vgg16_base


def to_black(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).sum(1)


def test_a_plain_loss_is_met_at_the_edge_of_the_budget() -> None:
    moved = steer(lowering(), to_black, picture(100, 3), eps=8 / 255, steps=20)
    assert levels(moved[0]).eq(92).all() and levels(moved[1]).eq(0).all() and on_grid(moved)


def test_eps_zero_and_no_steps_change_nothing() -> None:
    image = noise()
    assert torch.equal(steer(random_net(), to_black, image, eps=0), image)
    assert torch.equal(steer(random_net(), to_black, image, steps=0), image)


def test_the_picture_given_is_not_modified() -> None:
    image = noise()
    before = image.clone()
    steer(random_net(), to_black, image, steps=3)
    assert torch.equal(image, before)


@pytest.mark.parametrize("eps", [1, 4, 16])
def test_the_budget_is_kept(eps: int) -> None:
    base, image = random_net(), noise(2)
    moved = steer(base, silent(base), image, eps=eps / 255, steps=15)
    assert (levels(moved) - levels(image)).abs().max() <= eps and moved.min() >= 0 and moved.max() <= 1


def test_a_larger_budget_comes_nearer_to_the_donor() -> None:
    base, images, donor = random_net(), noise(3), noise(seed=9)
    loss = like(base, donor, ends=(2,))
    reached = [loss(steer(base, loss, images, eps=eps, steps=60)).mean().item() for eps in (0, 8 / 255, 32 / 255, 1)]
    assert reached == sorted(reached, reverse=True) and reached[-1] < reached[0] / 10


def test_the_donor_is_at_no_distance_from_itself() -> None:
    base, donor = random_net(), noise()
    assert like(base, donor, ends=(2,))(donor).item() == pytest.approx(0, abs=1e-9)


def test_like_is_the_distance_of_the_readings() -> None:
    base, image, donor = random_net(), noise(), noise(seed=1)
    one, other = (look(base, x, ends=(2,), autocast=False) for x in (image, donor))
    wanted = sum(
        ((a - b).square().sum() / b.square().sum()).item()
        for a, b in ((getattr(one, n), getattr(other, n)) for n in ("middle", "under", "features", "length"))
    )
    assert like(base, donor, ends=(2,))(image).item() == pytest.approx(wanted, rel=1e-4)


def test_as_many_awake_is_one_part_more() -> None:
    base, image, donor = random_net(), noise(), noise(seed=1)
    plain, more = (like(base, donor, ends=(2,), awake=awake)(image).item() for awake in (False, True))
    share, aim = (base.rest(base.pre_activations(x).sigmoid()).mean().item() for x in (image, donor))
    assert more - plain == pytest.approx((share / aim - 1) ** 2, rel=1e-3) and more > plain


@pytest.mark.parametrize(
    ("donor", "message"), [(noise(2), "the donor is 2 pictures"), (noise() * 255, "before normalisation")]
)
def test_a_donor_is_one_picture(donor: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        like(random_net(), donor, ends=(2,))


def test_a_silent_donor_is_refused() -> None:
    base = Base(nn.Sequential(nn.Identity(), lowering(90.5).body), nn.ReLU(), size=SIZE)
    with pytest.raises(ValueError, match="only zeros in features"):
        like(base, picture(50), ends=())
    assert like(base, picture(100), ends=())(picture(100)).item() == pytest.approx(0)


def test_silent_is_zero_exactly_where_the_margin_is_kept() -> None:
    base = lowering(90.5)
    assert silent(base, margin=1)(picture(89, 90, 91)).tolist()[0] == pytest.approx(0, abs=1e-2)
    assert silent(base, margin=1)(picture(92)).item() > 0


def test_silent_counts_from_where_the_activation_is_flat() -> None:
    """A Hardswish is exactly zero from -3 down: red level 97 with no margin."""
    base = Base(lowering(100).body, nn.Hardswish(), size=SIZE)
    assert silent(base, margin=0)(picture(97, 98)).tolist() == pytest.approx([0, SIZE * SIZE], abs=1e-2)
    with pytest.raises(ValueError, match="does not end in an activation with a flat part"):
        silent(Base(lowering(100).body, nn.SiLU(), size=SIZE))


def test_views_are_taken_in_turn() -> None:
    seen = []

    def watching(name: str):
        def view(x: torch.Tensor) -> torch.Tensor:
            seen.append(name)
            return x

        return view

    steer(lowering(), to_black, picture(100), views=[watching("a"), watching("b")], steps=5)
    assert seen == ["a", "b", "a", "b", "a"]


def test_a_view_without_a_slope_lends_that_of_the_picture() -> None:
    x = noise().requires_grad_()
    y = straight_through(fewer_bits)(x)
    assert torch.allclose(y, fewer_bits(x.detach()), atol=1e-6)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


def test_attacking_through_a_filter_silences_behind_it() -> None:
    def brighter(x: torch.Tensor) -> torch.Tensor:
        return (x + 6 / 255).clamp(max=1)

    base, image = lowering(90.5), picture(94)
    blind = steer(base, silent(base), image, steps=30)
    proof = steer(base, silent(base), image, views=[as_it_is, brighter], eps=12 / 255, steps=60)
    assert base.features(blind).eq(0).all() and base.features(brighter(proof)).eq(0).all()


def test_it_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert levels(steer(lowering(), to_black, picture(100), steps=20)).eq(92).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"eps": 8}, "eps is 8"),
        ({"steps": -1}, "steps is -1"),
        ({"step_size": math.inf}, "step_size is inf"),
        ({"views": []}, "views is empty"),
    ],
)
def test_bad_settings_get_one_clear_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steer(lowering(), to_black, picture(100), **settings)


def test_pictures_off_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="8-bit grid"):
        steer(lowering(), to_black, picture(100.5))


STORED = DATA / "defences"
PHOTOS = load_photos("test")[0][1::2]


@pytest.mark.parametrize(("folder", "every"), [("alike", 1), ("zero", 1), ("zero_filtered", 9)])
def test_stored_photos_stay_within_the_budget(folder: str, every: int) -> None:
    stored = load_folder(STORED / folder)
    assert on_grid(stored) and (levels(stored) - levels(PHOTOS[::every])).abs().max() == 8


def test_the_stored_tables_are_complete() -> None:
    sanity, sizes = pd.read_csv(STORED / "sanity.csv"), pd.read_csv(STORED / "sizes.csv")
    assert not sanity.duplicated(["eps", "steps", "photo"]).any()
    assert sanity.groupby(["eps", "steps"]).photo.nunique().eq(6).all() and {0, 8, 255} <= set(sanity.eps)
    assert not sizes.duplicated(["seed", "photo"]).any() and len(sizes) == 10 * 42
    donors, left = pd.read_csv(STORED / "donors.csv"), pd.read_csv(STORED / "left.csv")
    assert donors.groupby(["donor", "view"]).photo.nunique().eq(5).all() and len(donors) == 3 * 7 * 5
    for name in ("own_donors.csv", "own_donors_awake.csv"):
        own = pd.read_csv(STORED / name)
        assert sorted(own.photo) == sorted(own.donor) == list(range(42)) and (own.photo != own.donor).all()
        assert own.notna().all(axis=None) and own.alike.between(0, 1).all()
    awake = pd.read_csv(STORED / "awake.csv")
    assert list(awake.photo) == list(range(42)) and awake.notna().all(axis=None) and awake.awake.between(0, 1).all()
    assert left.groupby(["attack", "view"]).photo.nunique().eq(5).all() and len(left) == 2 * 10 * 5


def test_a_part_of_the_stored_tables_is_true() -> None:
    base = vgg16_base()
    loss = like(base, load_image(DATA / "images" / "albatross.png"))
    sanity = pd.read_csv(STORED / "sanity.csv").set_index(["eps", "steps", "photo"]).loss
    with torch.no_grad():
        assert loss(PHOTOS[:1]).item() == pytest.approx(sanity[0, 0, 0], rel=1e-2)
        proof = base.features(load_folder(STORED / "zero_filtered")[:1]).count_nonzero().item()
    left = pd.read_csv(STORED / "left.csv").set_index(["attack", "view", "photo"]).left
    assert proof == pytest.approx(left["through filters", "no filter", 0], abs=2)
