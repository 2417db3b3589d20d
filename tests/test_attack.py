"""The attack on networks for which the answer is known in closed form. Budgets are in grey levels, 1/255."""

import math
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import (
    SIZE,
    Counting,
    corridor,
    fused,
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

from helpers.attack import Result, hinge, schedule, zero_out
from helpers.base import Base, Classifier
from helpers.images import on_grid

PIXELS = SIZE * SIZE


def attack(base: Base, images: Tensor, eps: float | None = 8, **options: object) -> Result:
    return zero_out(base, images, **{"eps": eps and eps / 255, "steps": 40, **options})


def observed(base: Base, images: Tensor, eps: float, **options: object) -> tuple[Result, list[tuple]]:
    """The result, and what on_step saw: (step, images, nonzero)."""
    seen: list[tuple[int, Tensor, list[int]]] = []
    options["on_step"] = lambda step, now, nonzero: seen.append((step, now, nonzero.tolist()))
    return attack(base, images, eps, **options), seen


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# --- what can be reached, and what cannot ---------------------------------------------------------


@pytest.mark.parametrize("eps, left", [(0, PIXELS), (9, PIXELS), (10, 0), (12, 0)])
def test_zero_is_reached_from_the_known_budget_on(eps: int, left: int) -> None:
    """From red level 100 down to 90 it takes 10 levels."""
    result = attack(lowering(90.5), picture(100.0), eps)
    assert result.nonzero == [left] and result.outputs == PIXELS
    assert torch.equal(result.images[:, 1:], picture(100.0)[:, 1:]), "what the network does not read stays"


@settings(max_examples=10)
@given(st.integers(0, 1000), st.integers(0, 60), st.integers(20, 230), st.booleans())
def test_the_number_left_is_the_known_one_for_any_image(seed: int, eps: int, level: int, random_start: bool) -> None:
    image = noise(seed=seed)
    result = attack(lowering(level + 0.5), image, eps, random_start=random_start, seed=seed)
    assert result.nonzero == [int((levels(image)[0, 0] - eps > level).sum())]


@pytest.mark.parametrize("eps, left", [(27, PIXELS), (28, 0)])
def test_a_narrow_corridor_is_found(eps: int, left: int) -> None:
    """Zero only between red 101 and 103: from 131 28 levels away, from 75 26."""
    result = attack(corridor(100.5, 103.5), picture(131.0, 75.0), eps, steps=100)
    assert result.nonzero == [left, 0]


def test_where_no_budget_helps_none_is_claimed() -> None:
    """Zero would need red above 140 and below 120 at once; the second output of the other network never ends."""
    empty = attack(corridor(140.5, 119.5), picture(100.0, 130.0, 160.0), 60)
    assert all(PIXELS <= left <= 2 * PIXELS for left in empty.nonzero) and max(empty.margin) < 0
    result = attack(wakeful(), picture(100.0), 20)
    assert (result.nonzero, result.outputs, result.margin) == ([PIXELS], 2 * PIXELS, [pytest.approx(-3)])


def test_features_are_counted_after_the_pooling_at_the_size_of_the_images() -> None:
    image = picture(50.0)
    image[0, 0, 0, 0] = image[0, 0, 0, 1] = image[0, 0, 7, 7] = 1  # two pools of four pixels
    result = attack(lowering(90.5, pool=True), image, 10)
    assert (result.nonzero, result.outputs) == ([2], PIXELS // 4)
    assert attack(random_net(), noise(size=2 * SIZE), steps=0).outputs == 5 * PIXELS


def test_a_flat_part_below_zero_is_reached() -> None:
    """A Hardswish is exactly zero from -3 down: here from red level 97 on."""
    base = Base(red_reader((1.0, -100.0)).body, nn.Hardswish(), size=SIZE)
    assert attack(base, picture(110.0), 12).nonzero == [PIXELS]
    assert attack(base, picture(110.0), 13).nonzero == [0]


@pytest.mark.parametrize("share, left", [(0.9, False), (1.01, True)])
def test_zero_is_reached_from_the_known_length_on(share: float, left: bool) -> None:
    enough = 10 * math.sqrt(PIXELS)  # red from 100 to 90 in every pixel
    result = attack(lowering(90.5), picture(100.0), share * enough, norm="l2", steps=150)
    assert (result.nonzero == [0]) is left
    assert torch.linalg.vector_norm(result.images - result.original) * 255 <= share * enough


def test_a_length_may_be_spent_on_few_pixels() -> None:
    """What no budget per pixel of 60 levels reaches: one pixel that has to go down by 160."""
    image = picture(50.0)
    image[0, 0, 3, 3] = 250 / 255
    assert attack(lowering(90.5), image, 60).nonzero == [1]
    result = attack(lowering(90.5), image, 165, norm="l2", steps=150)
    assert result.nonzero == [0] and (levels(result.images) != levels(image)).sum() == 1


def weighted(**options: object) -> Result:
    """An attack that may change the left half only, on an image of red level 100."""
    half = torch.zeros(SIZE, SIZE)
    half[:, : SIZE // 2] = 1
    return attack(lowering(90.5), picture(100.0), pixel_weight=half, **options)


@pytest.mark.parametrize("options", [{"eps": 12}, {"eps": 200, "norm": "l2"}, {"eps": None, "steps": 90}])
def test_pixels_without_weight_keep_their_value(options: dict[str, object]) -> None:
    result = weighted(**options)
    assert torch.equal(result.images[..., SIZE // 2 :], result.original[..., SIZE // 2 :])
    assert result.nonzero == [PIXELS // 2], "the others are zero"


def test_a_weight_is_a_share_of_the_budget() -> None:
    result = attack(lowering(90.5), picture(100.0), 20, pixel_weight=torch.tensor([0.5, 0.49, 1]).repeat(3)[:SIZE])
    assert result.nonzero == [SIZE * 3], "of each row, those columns that may change by 9 levels"


@pytest.mark.parametrize("level", [91.0, 100.0, 110.0])
def test_the_least_visible_change_is_as_short_as_it_can_be(level: float) -> None:
    """Red has to go down to 90; green and blue, which the network does not read, go no further than red."""
    result = attack(lowering(90.5), picture(level), None, steps=200)
    moved = levels(result.original) - levels(result.images)
    assert result.nonzero == [0] and result.steps == [200]
    assert moved[:, 0].max() <= level - 90 + 1 and moved.min() >= 0 and moved.max() <= level - 90 + 1


def test_more_steps_find_no_longer_change() -> None:
    image = picture(95.0)
    image[:, 1:] = noise()[:, 1:]  # texture, in colours that the network does not read
    ends = [attack(lowering(90.5), image, None, steps=steps) for steps in (90, 200)]
    changes = [(end.images - image).square().sum() for end in ends]
    assert [end.nonzero for end in ends] == [[0], [0]] and changes[1] <= changes[0]


# --- properties -----------------------------------------------------------------------------------

SETTINGS = st.fixed_dictionaries(
    {
        "norm": st.sampled_from(["linf", "l2"]),
        "steps": st.integers(0, 12),
        "step_size": st.sampled_from([0.0, 1 / 255, 16 / 255, 2.0]),
        "momentum": st.sampled_from([0.0, 0.9]),
        "margin": st.sampled_from([0.0, 1.0, 50.0]),
        "weight_growth": st.sampled_from([0.0, 1.0]),
        "random_start": st.booleans(),
        "seed": st.integers(0, 3),
        "batch": st.integers(1, 3),
    }
)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 40), SETTINGS)
def test_every_result_keeps_the_rules(seed: int, level: int, options: dict[str, object]) -> None:
    eps = level * (14 if options["norm"] == "l2" else 1)  # about as far, in all 192 values
    images, base = noise(2, seed=seed), random_net(seed % 5)
    images[0, :, :2] = torch.tensor([0.0, 1.0]).repeat(3, 2, SIZE // 2)  # where the budget leaves [0, 1]
    before = images.clone()
    result = attack(base, images, eps, **options)
    assert torch.equal(images, before) and torch.equal(result.original, before), "the input is never modified"
    assert on_grid(result.images) and result.images.min() >= 0 and result.images.max() <= 1
    change = (levels(result.images) - levels(images)).flatten(1).double()
    assert torch.linalg.vector_norm(change, math.inf if options["norm"] == "linf" else 2, dim=1).max() <= eps + 1e-4
    nonzero, margin = base.verdict(result.images)
    assert result.nonzero == nonzero.tolist() == [min(counts) for counts in result.history]
    assert result.margin == pytest.approx(margin.tolist(), abs=1e-4)
    assert result.steps == [len(counts) - 1 for counts in result.history] and max(result.steps) <= options["steps"]
    again = attack(base, images, eps, **options)
    assert torch.equal(again.images, result.images) and again.history == result.history, "repeatable"


@pytest.mark.parametrize("options", [{"eps": 0}, {"eps": 0, "random_start": True}, {"steps": 0}, {"step_size": 0.0}])
def test_without_budget_or_steps_nothing_changes(options: dict[str, float]) -> None:
    images = noise(2)
    assert torch.equal(attack(random_net(), images, **options).images, images)


@pytest.mark.parametrize("norm, eps", [("linf", 6), ("l2", 80)])
def test_a_longer_run_repeats_a_shorter_one_and_goes_on(norm: str, eps: int) -> None:
    runs = {steps: attack(random_net(3), noise(), eps, norm=norm, steps=steps) for steps in (4, 11, 60)}
    history = runs[60].history[0]
    assert all(run.history[0] == history[: steps + 1] for steps, run in runs.items())
    assert runs[4].nonzero[0] >= runs[11].nonzero[0] >= runs[60].nonzero[0]


def test_the_share_of_the_step_size_begins_with_all_and_is_never_nothing() -> None:
    assert schedule(0) == 1 and all(0 < schedule(step) <= 1 for step in range(500))


def test_images_in_one_batch_and_one_by_one_end_alike() -> None:
    images = torch.cat([ramp(), picture(100.0, 95.0, 20.0, 91.0), noise()])
    together, alone = (attack(lowering(90.5), images, 12, batch=batch) for batch in (16, 1))
    assert torch.equal(together.images, alone.images)
    assert together.history == alone.history and together.nonzero == alone.nonzero


def test_a_random_start_depends_on_the_seed_and_on_nothing_else() -> None:
    base = lowering(0.5)

    def start(seed: int) -> Tensor:
        return attack(base, picture(100.0), 20, random_start=True, steps=0, seed=seed).images

    first, state = start(0), torch.get_rng_state()
    assert torch.equal(start(0), first) and not torch.equal(start(1), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    change = levels(first) - 100
    assert change.min() < -15 and change.max() > 15


def test_the_network_stays_as_it_is() -> None:
    base = random_net().requires_grad_(True)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    attack(base, noise(), steps=5)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert all(p.grad is None for p in base.parameters())


FORMS = {
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "not contiguous": lambda x: x.mT.contiguous().mT,
    "requires a gradient": lambda x: x.clone().requires_grad_(),
    "made in inference mode": torch.inference_mode()(torch.clone),
}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_how_images_are_kept_and_where_gradients_are_off_does_not_matter(
    form: Callable[[Tensor], Tensor], context: Callable
) -> None:
    base, images = lowering(90.5), noise(2)
    usual, given = attack(base, images, steps=5), form(images)
    with context():
        result = attack(base, given, steps=5)
    assert torch.equal(result.images, usual.images) and result.history == usual.history
    assert not result.images.requires_grad and torch.equal(images, noise(2))


def test_two_threads_may_share_a_base() -> None:
    base, results = random_net(), {}

    def work(seed: int) -> None:
        results[seed] = attack(base, noise(seed=seed))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[seed].images, attack(base, noise(seed=seed)).images) for seed in range(2))


# --- when it stops, and what it tells -------------------------------------------------------------


def test_an_image_is_done_at_zero_with_a_part_of_the_margin() -> None:
    base = lowering(90.5)
    result, seen = observed(base, picture(95.0), 40, margin=20.0, step_size=1 / 255)
    verdicts = [base.verdict(images) for _, images, _ in seen]
    done = [left.item() == 0 and margin.item() >= result.margin_wanted for left, margin in verdicts]
    assert 0 < result.margin_wanted < 20 and done == [False] * result.steps[0] + [True]
    assert any(left == 0 for left, _ in verdicts[:-1]), "zero alone does not end it"


def test_a_margin_out_of_reach_is_pursued_to_the_edge_of_the_budget() -> None:
    result = attack(lowering(90.5), picture(100.0), 40, margin=1000.0)
    assert result.steps == [40] and result.margin == [pytest.approx(30.5, abs=1e-3)]


def test_images_that_are_done_leave_the_batch() -> None:
    """Black is zero at once, 100 after some steps, 120 never within 12 levels."""
    base = lowering(90.5, body=Counting)
    result, seen = observed(base, picture(120.0, 0.0, 100.0), 12, steps=20, step_size=4 / 255)
    assert result.nonzero == [PIXELS, 0, 0]
    assert result.steps == [20, 0, base.body.sizes.count(2)] and 0 < result.steps[2] < 20
    assert base.body.sizes == [3] + [2] * result.steps[2] + [1] * (20 - result.steps[2])
    assert all(torch.equal(images[1:2], picture(0.0)) for _, images, _ in seen), "shown as it ended"


def test_the_best_image_on_the_way_is_returned_and_all_are_shown() -> None:
    """Fewest features first, then the largest margin, wherever on the way that was."""
    base = random_net(2)
    result, seen = observed(base, noise(2, 2), 6, steps=25, step_size=40 / 255)
    assert [step for step, *_ in seen] == list(range(26))
    assert [list(counts) for counts in zip(*(counts for *_, counts in seen), strict=True)] == result.history
    verdicts = [base.verdict(images) for _, images, _ in seen]
    for i in range(2):
        best = min(range(26), key=lambda step: (verdicts[step][0][i], -verdicts[step][1][i]))
        assert torch.equal(result.images[i], seen[best][1][i])
        assert best < 25, "the last would have been worse"


def test_on_step_cannot_disturb_the_attack() -> None:
    usual = attack(random_net(), noise())
    result = attack(random_net(), noise(), on_step=lambda _, images, nonzero: (images.zero_(), nonzero.zero_()))
    assert torch.equal(result.images, usual.images) and result.history == usual.history


def test_a_result_says_what_was_reached() -> None:
    done = attack(lowering(90.5), picture(100.0, 200.0), 12)
    assert str(done) == "1 of 2 images zeroed; features left of 64: 0, 64"
    thin = str(attack(lowering(90.5), picture(100.0), 10, margin=5.0, on_step=lambda s, *_: interrupt() if s else None))
    assert thin.startswith("1 of 1 images zeroed") and "margin of 1 not reached by 1 of" in thin
    assert thin.endswith("; interrupted")


@pytest.mark.parametrize("at", [0, 3])
def test_stopping_by_hand_keeps_the_best_so_far(at: int) -> None:
    base = random_net()
    result = attack(base, noise(), on_step=lambda step, *_: interrupt() if step == at else None)
    assert result.interrupted and result.steps == [at] and len(result.history[0]) == at + 1
    assert result.nonzero == [min(result.history[0])] == base.verdict(result.images)[0].tolist()


def test_stopping_by_hand_keeps_images_whose_turn_never_came() -> None:
    """The first of three batches is done, the second begun; the network itself is interrupted before the third."""
    base = lowering(90.5)
    body, passes = base.body.forward, [None] * 5

    def forward(x: Tensor) -> Tensor:
        return body(x) if not x.requires_grad or passes.pop() is None else interrupt()

    passes[0], base.body.forward = "stop", forward
    result = attack(base, picture(80.0, 100.0, 100.0), 40, batch=1, margin=1000.0, steps=3)
    assert result.interrupted and result.steps == [3, 0, 0]
    assert result.nonzero == [0, PIXELS, PIXELS]
    assert torch.equal(result.images[1:], picture(100.0, 100.0))


def test_anything_else_that_on_step_raises_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        attack(random_net(), noise(), on_step=lambda *_: 1 / 0)


# --- losses and reduced precision -----------------------------------------------------------------


def test_the_hinge_in_closed_form() -> None:
    z = torch.tensor([-2.0, -1.0, -0.5, 0.0, 3.0], requires_grad=True)
    assert hinge(z, 1.0).tolist() == [0, 0, 0.0625, 0.25, 3]  # quadratic up to 2, then linear
    (grad,) = torch.autograd.grad(hinge(z, 1.0).sum(), z)
    assert grad.tolist() == [0, 0, 0.25, 0.5, 1], "also where a ReLU's output is flat"


def test_a_loss_sees_pre_activations_relative_to_the_threshold() -> None:
    seen = []
    base = Base(red_reader((1.0, -100.0)).body, nn.Hardswish(), size=SIZE)
    attack(base, picture(110.0), loss=lambda z, margin: seen.append((z.detach(), margin)) or hinge(z, margin), margin=2)
    assert torch.allclose(seen[0][0], torch.full((1, 1, SIZE, SIZE), 13.0), atol=1e-3)  # 110 - 100 - (-3)
    assert {margin for _, margin in seen} == {2}


def test_a_network_without_a_flat_part_needs_a_loss_of_its_own() -> None:
    """SiLU crosses zero at red 100.5 and is nowhere flat: a whole level comes as near as half a level."""
    base = Base(red_reader((0.01, -1.005)).body, nn.SiLU(), size=SIZE, name="smooth")
    result = attack(base, picture(160.0, 110.0, 70.0), 30, loss=lambda z, margin: z**2, steps=100)
    assert result.nonzero == [PIXELS] * 3, "near is not zero"
    assert result.margin == pytest.approx([-0.295, -0.005, -0.005], abs=1e-4)


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda z, margin: z.sqrt(), "gradient of the loss is not finite at step 0"),
        (lambda z, margin: 0 * z, "gradient of the loss is zero"),
        (lambda z, margin: torch.ones_like(z), "does not depend on the pre-activations"),
    ],
    ids=["NaN", "zero", "constant"],
)
def test_a_loss_that_leads_nowhere_is_named(loss: Callable[[Tensor, float], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attack(lowering(90.5), ramp(), loss=loss)


def test_verdicts_are_float32_even_where_the_search_is_not() -> None:
    """bfloat16 has 8 bits: beside 180 a quarter is lost. The search sees zero, in float32 all is active."""
    base, image = red_reader((-1.0, 180.25)), picture(180.0)
    result = attack(base, image, eps=0, steps=3, precision=torch.bfloat16)
    assert result.history == [[0] * 4], "it does not stop for a zero that is none"
    assert (result.nonzero, result.margin) == ([PIXELS], [pytest.approx(-0.25, abs=1e-3)])
    assert attack(lowering(90.5), picture(100.0), 12, precision=torch.bfloat16).nonzero == [0]


# --- bad input gives one clear error, before any work ---------------------------------------------


@pytest.fixture
def idle() -> Base:
    """A network that raises on every pass: another error than the expected one means that work was done."""
    return fused(AssertionError("the network ran before its input was checked"))


BAD_SETTINGS = {
    "eps": [8, -0.1, math.nan, 0.5 / 255, "8/255"],
    "norm": ["l1"],
    "steps": [-1, 10.0, True],
    "step_size": [-1 / 255, math.inf, 1e37],
    "momentum": [1.0, -0.1, [0.5, 0.9]],
    "margin": [-1.0, np.array([1.0, 2.0])],
    "weight_growth": [-0.5],
    "precision": [torch.float64, "bfloat16"],
    "batch": [0, 1.5],
    "pixel_weight": [torch.ones(5, 5), torch.zeros(SIZE, SIZE), -torch.ones(1), "much"],
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in BAD_SETTINGS.items() for value in values])
def test_bad_settings_are_named(name: str, value: object, idle: Base) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*[;,] ."):
        zero_out(idle, noise(), **{name: value})


def test_a_length_too_short_to_move_a_pixel_is_refused(idle: Base) -> None:
    """eps left at 8/255 is a sensible budget per pixel, and none for the whole change of a photo."""
    with pytest.raises(ValueError, match=r"^eps is 0.0313.* length of the whole change.* give for example 7.6"):
        zero_out(idle, noise(size=224), norm="l2")


@pytest.mark.parametrize(
    "images, error, message",
    [
        (noise() * 0.9, ValueError, "not on the 8-bit grid; give to_grid"),
        (noise()[0], ValueError, r"shape \(3, 8, 8\)"),
        (noise() * 255, ValueError, "before normalisation"),
        (levels(noise()).byte(), TypeError, "uint8; give float32"),
    ],
)
def test_bad_images_are_named(images: Tensor, error: type[Exception], message: str, idle: Base) -> None:
    with pytest.raises(error, match=message):
        zero_out(idle, images)


def test_a_network_that_cannot_be_attacked_is_named(idle: Base) -> None:
    with pytest.raises(TypeError, match=r"base is a Classifier, not a Base; give its \.base"):
        zero_out(Classifier(idle, nn.Flatten(), ["a"]), noise())
    idle.threshold = None
    with pytest.raises(ValueError, match="loss=lambda"):
        zero_out(idle, noise())
    idle.train()
    with pytest.raises(ValueError, match=r"training mode.*base\.eval\(\)"):
        zero_out(idle, noise())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried to ..."),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    ],
)
def test_too_little_memory_gets_one_sentence_with_the_remedy(error: Exception) -> None:
    base = fused(error)
    with pytest.raises(torch.OutOfMemoryError, match=r"2 images of 8 x 8 do not fit .* give a smaller batch="):
        zero_out(base, picture(100, 101))


# --- the real thing, once -------------------------------------------------------------------------


def test_every_feature_of_vgg16_is_zero_for_the_attacked_albatross(
    blinded: tuple[Result, object], vgg: Base, albatross: Tensor
) -> None:
    result, _ = blinded
    assert result.nonzero == [0] and result.outputs == 25_088
    assert 1 <= result.steps[0] < 80 and result.history[0][0] > 1000 and result.history[0][-1] == 0
