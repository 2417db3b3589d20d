"""The attack, mostly on networks for which the answer is known in closed form."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import (
    SIZE,
    Counting,
    Fuse,
    corridor,
    levels,
    lowering,
    noise,
    picture,
    ramp,
    random_net,
    red_reader,
    wakeful,
)
from torch import Tensor, nn

from helpers.attack import Result, _Search, certify, cosine, hinge, zero_out
from helpers.base import Base, Classifier
from helpers.certificate import nonzero_and_margin
from helpers.images import on_grid
from helpers.networks import vgg16_base

PIXELS = SIZE * SIZE


def attack(base: Base, images: Tensor, eps: int = 8, **settings: object) -> Result:
    """zero_out with eps in grey levels and a search in float32, so that counts are exact."""
    return zero_out(base, images, **{"eps": eps / 255, "autocast": False, "steps": 40, **settings})


# --- what can be reached, and what cannot ---------------------------------------------------------


@pytest.mark.parametrize("eps", range(13))
def test_zero_is_reached_exactly_from_the_known_budget_on(eps: int) -> None:
    """From red level 100 down to 90 it takes 10 levels: 9 leave all pixels awake, 10 none."""
    result = attack(lowering(90.5), picture(100.0), eps)
    assert result.nonzero == [0 if eps >= 10 else PIXELS]
    assert result.margin[0] == pytest.approx(90.5 - (100 - eps), abs=1e-3) or eps > 10
    assert result.outputs == PIXELS


@pytest.mark.parametrize("eps", [0, 1, 7, 30, 90, 164, 165])
def test_where_zero_is_out_of_reach_the_known_number_is_left(eps: int) -> None:
    """A ramp of grey levels: awake stays what even after eps lies above the level."""
    result = attack(lowering(90.5), ramp(), eps)
    left = int((levels(ramp())[0, 0] - eps > 90.5).sum())
    assert result.nonzero == [left]
    assert (left == 0) == (eps == 165)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 60), st.integers(20, 230), st.booleans())
def test_the_number_left_is_the_known_one_for_any_picture(seed: int, eps: int, level: int, random_start: bool) -> None:
    image = noise(seed=seed)
    result = attack(lowering(level + 0.5), image, eps, random_start=random_start, seed=seed)
    assert result.nonzero == [int((levels(image)[0, 0] - eps > level).sum())]


@pytest.mark.parametrize("eps, zeroed", [(27, False), (28, True), (40, True)])
def test_a_narrow_corridor_is_found(eps: int, zeroed: bool) -> None:
    """Zero only between red 101 and 103; from 130 that is 27 to 29 levels away, from 75 26 to 28."""
    images = picture(131.0, 75.0)
    result = attack(corridor(100.5, 103.5), images, eps, steps=100)
    assert result.nonzero == [0 if zeroed else PIXELS, 0]
    if zeroed:
        red = levels(result.images)[:, 0]
        assert red.min() >= 101 and red.max() <= 103


@pytest.mark.parametrize("eps", [5, 60])
def test_an_empty_corridor_leaves_one_of_two_outputs(eps: int) -> None:
    """Silence would need red above 140 and below 120 at once: no budget helps, and none is claimed."""
    result = attack(corridor(140.5, 119.5), picture(100.0, 130.0, 160.0), eps)
    assert result.nonzero[0] == PIXELS and result.nonzero[2] == PIXELS
    assert PIXELS <= result.nonzero[1] <= 2 * PIXELS
    assert all(margin < 0 for margin in result.margin)


def test_outputs_that_never_sleep_are_counted() -> None:
    result = attack(wakeful(), picture(100.0), 20)
    assert result.nonzero == [PIXELS]
    assert result.outputs == 2 * PIXELS
    assert result.margin == [pytest.approx(-3)]


def test_pooled_outputs_are_counted_after_the_pooling() -> None:
    image = picture(50.0)
    image[0, 0, 0, 0] = image[0, 0, 0, 1] = image[0, 0, 7, 7] = 1  # two pools of four pixels
    result = attack(lowering(90.5, pool=True), image, 10)
    assert result.outputs == PIXELS // 4
    assert result.nonzero == [2]


def test_a_flat_part_below_zero_is_reached() -> None:
    """A Hardswish is exactly zero from -3 down: red level 97 and a margin beyond."""
    base = Base(red_reader((1.0, -100.0)).body, nn.Hardswish(), size=SIZE)
    assert attack(base, picture(110.0), 12).nonzero == [PIXELS]
    result = attack(base, picture(110.0), 14)
    assert result.nonzero == [0] and result.margin[0] >= 0
    assert levels(result.images)[:, 0].max() <= 97


def test_pixels_that_do_not_matter_stay() -> None:
    result = attack(lowering(90.5), picture(100.0), 20)
    assert torch.equal(result.images[:, 1:], picture(100.0)[:, 1:])


# --- properties ---------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(0, 40), st.integers(0, 12), st.booleans(), st.sampled_from([1, 4, 64, 400]))
def test_every_result_keeps_the_rules(seed: int, eps: int, steps: int, random_start: bool, rate: int) -> None:
    images = noise(2, seed=seed)
    images[0, :, :2] = torch.tensor([0.0, 1.0]).repeat(3, 2, SIZE // 2)  # where the budget leaves [0, 1]
    before = images.clone()
    base = random_net(seed % 5)
    options = {"steps": steps, "random_start": random_start, "seed": seed, "step_size": rate / 255}
    result = attack(base, images, eps, **options)
    assert torch.equal(images, before) and not images.requires_grad, "the input is never modified"
    assert torch.equal(result.original, before)
    assert result.images.shape == images.shape and result.images.dtype == torch.float32
    assert result.images.min() >= 0 and result.images.max() <= 1
    assert on_grid(result.images)
    assert (levels(result.images) - levels(images)).abs().max() <= eps
    count, margin = nonzero_and_margin(base, result.images)
    assert result.nonzero == count.tolist()
    assert result.margin == pytest.approx(margin.tolist(), abs=1e-5)
    again = attack(base, images, eps, **options)
    assert torch.equal(again.images, result.images) and again.history == result.history, "repeatable"


@pytest.mark.parametrize("eps", [2.5 / 255, 2.99 / 255, 0.01])
def test_a_budget_between_two_levels_is_rounded_down(eps: float) -> None:
    result = zero_out(lowering(90.5), picture(100.0), eps=eps, steps=20, autocast=False)
    assert levels(result.images)[0, 0].unique().tolist() == [98]


@pytest.mark.parametrize("eps", [k / 255 for k in range(1, 256, 7)])
def test_a_whole_budget_is_never_rounded_away(eps: float) -> None:
    """k/255 * 255 may fall just below k in floating point."""
    for inexact in (eps, eps * (1 - 1e-7), float(torch.tensor(eps))):
        result = zero_out(lowering(0.5), picture(255.0), eps=inexact, steps=60, step_size=1, autocast=False)
        assert levels(result.images)[0, 0].unique().tolist() == [255 - round(eps * 255)]


@pytest.mark.parametrize("random_start", [False, True])
def test_without_a_budget_nothing_changes(random_start: bool) -> None:
    images = noise(2)
    result = attack(random_net(), images, 0, random_start=random_start)
    assert torch.equal(result.images, images)


def test_without_steps_the_picture_is_judged_as_it_is() -> None:
    result = attack(lowering(90.5), picture(100.0, 80.0), 20, steps=0)
    assert torch.equal(result.images, picture(100.0, 80.0))
    assert (result.nonzero, result.steps, result.history) == ([PIXELS, 0], [0, 0], [[PIXELS], [0]])


def test_more_steps_never_leave_more() -> None:
    counts = [attack(lowering(90.5), ramp(), 60, steps=n, step_size=8 / 255).nonzero[0] for n in range(0, 16)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_more_budget_never_leaves_more() -> None:
    counts = [attack(corridor(90.5, 160.5), ramp(), eps).nonzero[0] for eps in range(0, 104, 8)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 0


def test_a_random_start_depends_on_the_seed_and_on_nothing_else() -> None:
    base = lowering(0.5)

    def start(seed: int) -> Tensor:
        return attack(base, picture(100.0), 20, random_start=True, steps=0, seed=seed).images

    torch.manual_seed(1)
    first = start(0)
    state = torch.get_rng_state()
    assert torch.equal(start(0), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert not torch.equal(start(1), first)
    change = levels(first) - 100
    assert change.min() < -15 and change.max() > 15 and change.abs().max() <= 20


def test_a_batch_gives_what_single_runs_give() -> None:
    images = torch.cat([ramp(), picture(100.0, 95.0, 20.0, 91.0), noise()])
    together = attack(lowering(90.5), images, 12)
    for i, image in enumerate(images):
        alone = attack(lowering(90.5), image[None], 12)
        assert torch.equal(together.images[i : i + 1], alone.images)
        assert together.nonzero[i : i + 1] == alone.nonzero
        assert together.steps[i : i + 1] == alone.steps
        assert together.history[i : i + 1] == alone.history


def test_weights_and_switches_stay_as_they_are() -> None:
    base = random_net()
    before = {name: value.clone() for name, value in base.state_dict().items()}
    result = attack(base, noise(), 8, steps=5)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in base.parameters())
    assert torch.is_grad_enabled()
    assert not result.images.requires_grad


def test_gradients_never_reach_weights_that_want_them() -> None:
    base = random_net().requires_grad_(True)
    attack(base, noise(), 8, steps=3)
    assert all(p.grad is None for p in base.parameters())


def test_it_works_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert attack(lowering(90.5), picture(100.0), 10).nonzero == [0]


# --- stopping -----------------------------------------------------------------------------------


def test_a_picture_that_is_zero_already_takes_no_step() -> None:
    image = noise() * 0 + picture(3.0)
    result = attack(lowering(90.5), image, 8)
    assert (result.steps, result.history, result.nonzero) == ([0], [[0]], [0])
    assert torch.equal(result.images, image)


def test_finished_pictures_leave_the_batch() -> None:
    """Black is zero at once, 100 after some steps, 120 never within 12 levels."""
    base = lowering(90.5, body=Counting)
    result = attack(base, picture(120.0, 0.0, 100.0), 12, steps=20, step_size=4 / 255)
    sizes = base.body.sizes
    assert sizes[:2] == [3, 2] and sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 20, "one pass with a gradient for each step"
    assert result.nonzero == [PIXELS, 0, 0]
    assert result.steps[0] == 20 and result.steps[1] == 0 and 0 < result.steps[2] < 20
    assert sizes.count(2) == result.steps[2], "the third picture is searched until its last step"
    assert result.steps == [len(counts) - 1 for counts in result.history]
    assert [counts[-1] for counts in result.history] == result.nonzero


def test_the_attack_ends_when_every_picture_is_zero() -> None:
    seen = []
    result = attack(lowering(90.5), picture(95.0, 99.0), 20, steps=1000, on_step=lambda step, *_: seen.append(step))
    assert result.nonzero == [0, 0]
    assert seen == list(range(max(result.steps) + 1)) and len(seen) < 30


def observed(base: Base, images: Tensor, **settings: object) -> tuple[Result, list[tuple[int, Tensor, list[int]]]]:
    seen: list[tuple[int, Tensor, list[int]]] = []
    result = attack(base, images, on_step=lambda s, x, n: seen.append((s, x.clone(), n.tolist())), **settings)
    return result, seen


@pytest.mark.parametrize("seed", range(4))
def test_the_best_picture_on_the_way_is_returned(seed: int) -> None:
    """Fewest outputs first, then the largest margin, wherever on the way that was."""
    base = random_net(seed)
    result, seen = observed(base, noise(2, seed), eps=6, steps=25, step_size=40 / 255)
    for i in range(2):
        judged = [nonzero_and_margin(base, images)[1][i].item() for _, images, _ in seen]
        best = min(range(len(seen)), key=lambda k: (seen[k][2][i], -judged[k]))
        assert result.nonzero[i] == seen[best][2][i] == min(result.history[i])
        assert torch.equal(result.images[i], seen[best][1][i])
    assert any(counts[-1] > min(counts) for counts in result.history), "the last would have been worse"


def test_on_step_sees_rounded_pictures_within_the_budget_and_their_counts() -> None:
    base, images = random_net(2), noise(2)
    result, seen = observed(base, images, eps=5, steps=9)
    assert [step for step, *_ in seen] == list(range(10))
    assert torch.equal(seen[0][1], images)
    for step, now, counts in seen:
        assert on_grid(now) and (levels(now) - levels(images)).abs().max() <= 5
        assert counts == nonzero_and_margin(base, now)[0].tolist()
        assert counts == [result.history[i][step] for i in range(2)]


def test_on_step_keeps_showing_finished_pictures_as_they_finished() -> None:
    result, seen = observed(lowering(90.5), picture(0.0, 120.0), eps=12, steps=6)
    assert all(torch.equal(now[:1], picture(0.0)) and counts[0] == 0 for _, now, counts in seen)
    assert result.steps == [0, 6]


def test_on_step_cannot_disturb_the_attack() -> None:
    def vandal(step: int, images: Tensor, nonzero: Tensor) -> None:
        images.zero_()
        nonzero.zero_()

    assert torch.equal(attack(random_net(), noise(), on_step=vandal).images, attack(random_net(), noise()).images)


@pytest.mark.parametrize("at", [0, 3])
def test_stopping_by_hand_keeps_the_best_so_far(at: int) -> None:
    def stop(step: int, *_: Tensor) -> None:
        if step == at:
            raise KeyboardInterrupt

    base = random_net()
    result = attack(base, noise(), 8, on_step=stop)
    assert result.steps == [at] and len(result.history[0]) == at + 1
    assert result.nonzero == [min(result.history[0])] == nonzero_and_margin(base, result.images)[0].tolist()


def test_stopping_by_hand_before_the_first_look_gives_back_the_picture() -> None:
    base = lowering(90.5, body=Fuse)

    def once(x: Tensor) -> Tensor:
        base.body.forward = type(base.body).forward.__get__(base.body)
        raise KeyboardInterrupt

    base.body.forward = once
    result = attack(base, picture(100.0), 20)
    assert torch.equal(result.images, picture(100.0))
    assert (result.nonzero, result.steps, result.history) == ([PIXELS], [0], [[]])


def test_other_exceptions_of_on_step_come_through() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        attack(random_net(), noise(), on_step=fail)


# --- settings that change one thing ---------------------------------------------------------------


def test_the_hinge_in_closed_form() -> None:
    z = torch.tensor([-2.0, -1.0, -0.5, 0.0, 3.0], requires_grad=True)
    assert hinge(z, 1.0).tolist() == [0, 0, 0.5, 1, 4]
    slope = torch.autograd.grad(hinge(z, 1.0).sum(), z)[0]
    assert slope.tolist() == [0, 0, 1, 1, 1], "a slope also where a ReLU's output is flat"


def test_the_margin_is_what_is_aimed_at() -> None:
    """A small one is soon reached; one beyond the budget is pursued to the budget's edge, red 60."""
    narrow = attack(lowering(90.5), picture(100.0), 40, margin=0.5, step_size=4 / 255)
    wide = attack(lowering(90.5), picture(100.0), 40, margin=1000.0, step_size=4 / 255)
    assert narrow.nonzero == wide.nonzero == [0]
    assert narrow.steps[0] < wide.steps[0] == 40
    assert narrow.margin[0] < wide.margin[0] == pytest.approx(30.5, abs=1e-3)


def test_a_custom_loss_sees_pre_activations_relative_to_the_threshold() -> None:
    seen = []

    def loss(z: Tensor, margin: float) -> Tensor:
        seen.append((z.detach(), margin))
        return hinge(z, margin)

    base = Base(red_reader((1.0, -100.0)).body, nn.Hardswish(), size=SIZE)
    result = attack(base, picture(110.0), 14, loss=loss, margin=0.7)
    assert torch.allclose(seen[0][0], torch.full((1, 1, SIZE, SIZE), 13.0), atol=1e-3)  # 110 - 100 - (-3)
    assert {margin for _, margin in seen} == {0.7}
    assert torch.equal(result.images, attack(base, picture(110.0), 14, margin=0.7).images)


def test_a_network_without_a_flat_part_needs_a_loss_of_its_own() -> None:
    """SiLU crosses zero at red 100.5 and is nowhere flat: a whole level comes as near as half a level."""
    base = Base(red_reader((0.01, -1.005)).body, nn.SiLU(), size=SIZE, name="smooth")
    images = picture(160.0, 110.0, 70.0)
    with pytest.raises(ValueError, match=r"smooth does not end in .*; to come near, give loss=lambda"):
        attack(base, images)
    result = attack(base, images, 30, loss=lambda z, margin: z**2, steps=100)
    assert result.nonzero == [PIXELS] * 3, "near is not zero"
    assert result.margin == pytest.approx([-0.295, -0.005, -0.005], abs=1e-4)


def test_the_verdict_is_float32_even_where_the_search_is_not() -> None:
    base = random_net(1)
    result = zero_out(base, noise(3), eps=10 / 255, steps=10, autocast=True)
    count, margin = nonzero_and_margin(base, result.images)
    assert result.nonzero == count.tolist() and result.margin == margin.tolist()


def test_a_rough_search_claims_no_zero_that_is_not_there() -> None:
    """bfloat16 has 8 bits: beside 180 a quarter is lost. The search sees silence, in float32 all is awake."""
    base, image = red_reader((-1.0, 180.25)), picture(180.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert base.pre_activations(image).max() < -0.1
    result = zero_out(base, image, eps=0, steps=3, autocast=True)
    assert result.nonzero == [PIXELS]
    assert result.steps == [3], "it does not stop for a zero that is none"
    assert result.margin == [pytest.approx(-0.25, abs=1e-3)]


def test_zero_by_a_hair_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 must confirm some room, since a search in bfloat16 may have seen more than there is."""
    calls = []

    def narrow(base: Base, images: Tensor) -> tuple[Tensor, Tensor]:
        count, margin = nonzero_and_margin(base, images)
        calls.append(margin)
        return count, margin if len(calls) > 1 else 0 * margin

    usual = attack(lowering(90.5), picture(100.0), 20)
    monkeypatch.setattr("helpers.attack.nonzero_and_margin", narrow)
    result = attack(lowering(90.5), picture(100.0), 20)
    assert usual.nonzero == result.nonzero == [0]
    assert result.steps[0] > usual.steps[0] and result.margin[0] >= 0.01


@pytest.mark.parametrize("setting", [{"momentum": 0.0}, {"focus": 0.0}, {"margin": 0.0}, {"step_size": 1.0}])
def test_settings_at_their_bounds_are_allowed(setting: dict[str, float]) -> None:
    assert attack(lowering(90.5), picture(100.0), 12, **setting).nonzero == [0]


@pytest.mark.parametrize("steps", [1, 2, 49, 50, 51, 150, 777])
def test_step_sizes_stay_between_nothing_and_the_whole(steps: int) -> None:
    shares = [cosine(step, steps) for step in range(steps)]
    assert shares[0] == 1
    assert all(0 < share <= 1 for share in shares)
    restarts = sum(b > a for a, b in itertools.pairwise(shares))
    assert restarts <= math.log2(steps), "each cycle is twice as long as the one before"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_step_stays_on_its_device(norm: str) -> None:
    """On torch's meta device, which holds no numbers, a tensor of the CPU or a copy to it raises."""
    base = vgg16_base().to("meta")
    images = torch.empty(2, 3, 224, 224, device="meta")
    search = _Search(base, images, 8 / 255, norm, 1.0, hinge, autocast=False)
    search.device = "cpu"  # autocast, which is off, does not know the meta device
    for _ in range(2):
        z, slope = search.look(need_slope=True)
        search.move(z, slope, 0.1, 0.9, 1.0)
    rounded, counts = search.now()
    assert slope.device.type == rounded.device.type == counts.device.type == "meta"
    assert slope.shape == images.shape
    with pytest.raises((RuntimeError, NotImplementedError)):
        slope.cpu()  # so a hidden copy would have been seen


def test_a_step_of_no_size_goes_nowhere() -> None:
    assert torch.equal(attack(lowering(90.5), ramp(), 12, step_size=0.0).images, ramp())


def test_a_result_says_what_was_reached() -> None:
    text = str(attack(lowering(90.5), picture(100.0, 200.0), 12))
    assert text == "1 of 2 pictures zeroed; outputs left of 64: 0, 64"


# --- bad input gives one clear error, before any work ---------------------------------------------


@pytest.fixture
def fused() -> Base:
    """A network that raises on every pass: another error than the expected one means work was done."""
    base = lowering(90.5, body=Fuse)
    base.body.error = AssertionError("the network ran before its input was checked")
    return base


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"eps": 8}, r"eps is 8; .* 8/255"),
        ({"eps": -0.1}, r"eps is -0\.1; it is a share of \[0, 1\]"),
        ({"eps": math.nan}, "eps is nan"),
        ({"eps": math.inf}, "eps is inf"),
        ({"eps": 0.5 / 255}, "less than one of 255 grey levels"),
        ({"steps": -1}, "steps is -1; give a whole number"),
        ({"steps": 10.0}, r"steps is 10\.0; give a whole number"),
        ({"steps": "10"}, "steps is '10'; give a whole number"),
        ({"steps": True}, "steps is True; give a whole number"),
        ({"eps": "8/255"}, "eps is '8/255'; give one number, without quotes or brackets"),
        ({"eps": None}, "eps is None; give one number"),
        ({"momentum": [0.5, 0.9]}, r"momentum is \[0\.5, 0\.9\]; give one number"),
        ({"margin": np.array([1.0, 2.0])}, r"margin is array.*; give one number"),
        ({"step_size": -1 / 255}, r"step_size is -0\.0.*at least 0"),
        ({"step_size": math.nan}, "step_size is nan"),
        ({"step_size": math.inf}, "step_size is inf"),
        ({"margin": -1.0}, r"margin is -1\.0"),
        ({"margin": math.nan}, "margin is nan"),
        ({"focus": -0.5}, r"focus is -0\.5"),
        ({"momentum": 1.0}, r"momentum is 1\.0; give a number from 0"),
        ({"momentum": -0.1}, r"momentum is -0\.1"),
        ({"momentum": math.nan}, "momentum is nan"),
    ],
)
def test_bad_settings_are_named(setting: dict[str, object], message: str, fused: Base) -> None:
    with pytest.raises(ValueError, match=message):
        zero_out(fused, noise(), **setting)


def test_a_whole_number_may_be_of_numpys_kind() -> None:
    wanted = attack(lowering(90.5), ramp(), steps=np.int64(5))
    assert torch.equal(wanted.images, attack(lowering(90.5), ramp(), steps=5).images) and wanted.steps == [5]


@pytest.mark.parametrize(
    "images, error, message",
    [
        (noise() * 0.9, ValueError, "not on the 8-bit grid; round them with to_grid"),
        (noise()[0], ValueError, r"shape \(3, 8, 8\); .*image\[None\]"),
        (noise()[:0], ValueError, r"shape \(0, 3, 8, 8\)"),
        (levels(noise()).byte(), TypeError, "uint8; give float32"),
        (noise().double(), TypeError, "float64; give float32"),
        (noise() * 255, ValueError, "before normalisation"),
        (noise() * math.nan, ValueError, "NaN"),
        (noise().numpy(), TypeError, "ndarray; give a tensor"),
        ("albatross.png", TypeError, "str; give a tensor, for example load_image"),
    ],
)
def test_bad_pictures_are_named(images: object, error: type[Exception], message: str, fused: Base) -> None:
    with pytest.raises(error, match=message):
        zero_out(fused, images)


def test_a_classifier_in_place_of_its_base_gets_a_hint(fused: Base) -> None:
    classifier = Classifier(fused, nn.Flatten(), ["a"])
    with pytest.raises(TypeError, match=r"base is a Classifier, not a Base; give its \.base"):
        zero_out(classifier, noise())
    with pytest.raises(TypeError, match="base is a Conv2d, not a Base; make one with"):
        zero_out(nn.Conv2d(3, 1, 1), noise())


def test_a_network_in_training_mode_is_refused(fused: Base) -> None:
    fused.train()
    with pytest.raises(ValueError, match=r"training mode.*base\.eval\(\)"):
        zero_out(fused, noise())


def test_a_missing_flat_part_is_noticed_before_any_work(fused: Base) -> None:
    fused.threshold = None
    with pytest.raises(ValueError, match="loss=lambda"):
        zero_out(fused, noise())


def test_pictures_that_require_a_gradient_are_attacked_like_others() -> None:
    image = noise()
    result = attack(lowering(90.5), image.clone().requires_grad_(), steps=3)
    assert torch.equal(result.images, attack(lowering(90.5), image, steps=3).images)
    assert not result.images.requires_grad and not result.original.requires_grad


def test_settings_are_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        zero_out(lowering(), noise(), 8 / 255)


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_follow_the_network_to_its_device(device: str) -> None:
    base = lowering(90.5).to(device)
    result = attack(base, picture(100.0), 12)
    assert result.images.device.type == result.original.device.type == base.mean.device.type == device
    assert result.nonzero == [0]


# --- the real thing, once -------------------------------------------------------------------------


def test_vgg16_goes_blind_on_the_albatross(blinded: tuple[Result, object], vgg: Base, albatross: Tensor) -> None:
    result, path = blinded
    assert result.nonzero == [0] and result.outputs == 25_088
    assert (levels(result.images) - levels(albatross)).abs().max() <= 16
    assert 1 <= result.steps[0] < 80, "it stops by itself"
    assert result.history[0][0] > 1000 and result.history[0][-1] == 0
    certificate = certify(vgg, path, albatross)
    assert certificate.zero and certificate.nonzero == certificate.nonzero_float64 == 0
    assert 1 <= certificate.linf <= 16
    assert certificate.margin > certificate.gap, "what rounding of sums can do is less than what is spare"


def test_outputs_are_counted_for_the_size_of_the_pictures() -> None:
    base = vgg16_base("pool3")
    result = zero_out(base, torch.zeros(1, 3, 64, 64), steps=0)
    assert result.outputs == 256 * 8 * 8


def test_the_verdict_is_in_full_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    base, allowed = lowering(90.5), []
    look = base.pre_activations
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(
        base, "pre_activations", lambda x: allowed.append(torch.backends.cudnn.allow_tf32) or look(x), raising=False
    )
    nonzero_and_margin(base, picture(92))
    assert allowed == [False] and torch.backends.cudnn.allow_tf32


def test_a_step_beyond_all_pictures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"step_size is 1e\+37; a step of 1 already crosses"):
        zero_out(lowering(), picture(100), step_size=1e37)


def test_too_little_memory_gets_one_sentence_with_the_remedy() -> None:
    base = lowering()
    base.body = Fuse(base.body)
    base.body.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError, match=r"2 pictures of 8 x 8 do not fit .*; give fewer at a time"):
        zero_out(base, picture(100, 101))
