"""Adaptive attacks: within the budget, through filters, towards a donor; and what is stored of them."""

import math
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from nets import SIZE, levels, lowering, noise, picture, random_net
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.base import Base
from helpers.defence.adaptive import feature_matching_loss, identity, minimise_loss, straight_through, zero_out_loss
from helpers.defence.filters import FILTERS, fewer_bits, shrink_and_pad
from helpers.defence.readouts import channel_means, extract_readouts
from helpers.images import DATA, load_folder, load_image, load_photos, on_grid


def to_black(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def test_a_plain_loss_is_met_at_the_edge_of_the_budget() -> None:
    image = picture(100, 3)
    with torch.no_grad():  # gradients are switched on where they are needed
        moved = minimise_loss(lowering(), to_black, image, eps=8 / 255, steps=20)
    assert levels(moved[0]).eq(92).all() and levels(moved[1]).eq(0).all() and on_grid(moved)
    assert torch.equal(image, picture(100, 3)), "not modified"
    assert torch.equal(minimise_loss(lowering(), to_black, image, steps=0), image)


def test_a_larger_budget_comes_nearer_to_the_donor() -> None:
    base, images, donor = random_net(), noise(3), noise(seed=9)
    loss, reached = feature_matching_loss(base, donor, ends=(2,)), []
    for eps in (0, 8, 32, 255):
        moved = minimise_loss(base, loss, images, eps=eps / 255, steps=60)
        assert (levels(moved) - levels(images)).abs().max() <= eps and moved.min() >= 0 and moved.max() <= 1
        reached.append(loss(moved).mean().item())
    assert reached == sorted(reached, reverse=True) and reached[-1] < reached[0] / 10


def test_feature_matching_is_the_distance_of_the_readouts_and_of_the_share_of_active_features() -> None:
    base, image, donor = random_net(), noise(), noise(seed=1)
    one, other = (vars(extract_readouts(base, x, ends=(2,))) for x in (image, donor))
    wanted = sum(((one[name] - b).square().sum() / b.square().sum()).item() for name, b in other.items())
    plain, more = (feature_matching_loss(base, donor, ends=(2,), match_active=active) for active in (False, True))
    assert plain(image).item() == pytest.approx(wanted, rel=1e-4)
    assert plain(donor).item() == pytest.approx(0, abs=1e-9)
    share, aim = (base.rest(base.pre_activations(x).sigmoid()).mean().item() for x in (image, donor))
    assert (more(image) - plain(image)).item() == pytest.approx((share / aim - 1) ** 2, rel=1e-3)
    with pytest.raises(ValueError, match="guide is 2 images; give one"):
        feature_matching_loss(base, noise(2), ends=())


def test_the_zero_out_loss_counts_from_the_threshold_of_the_activation() -> None:
    """A Hardswish is exactly zero from -3 down: red level 97 with no margin."""
    assert zero_out_loss(lowering(90.5))(picture(89, 92)).tolist() == pytest.approx([0, 2.5 * SIZE**2], abs=1e-2)
    base = Base(lowering(100).body, nn.Hardswish(), size=SIZE)
    assert zero_out_loss(base, margin=0)(picture(97, 98)).tolist() == pytest.approx([0, SIZE**2], abs=1e-2)


def test_transforms_are_taken_in_turn() -> None:
    seen = []

    def noting(name: str) -> Callable[[Tensor], Tensor]:
        return lambda x: [seen.append(name), x][1]

    minimise_loss(lowering(), to_black, picture(100), transforms=[noting("a"), noting("b")], steps=5)
    assert seen == ["a", "b", "a", "b", "a"]


def test_straight_through_has_the_gradient_of_the_identity() -> None:
    x = noise().requires_grad_()
    y = straight_through(fewer_bits)(x)
    assert torch.allclose(y, fewer_bits(x.detach()), atol=1e-6)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))


def test_attacking_through_a_filter_zeroes_behind_it() -> None:
    def brighter(x: Tensor) -> Tensor:
        return (x + 6 / 255).clamp(max=1)

    base, image = lowering(90.5), picture(94)
    loss = zero_out_loss(base)
    plain = minimise_loss(base, loss, image, steps=30)
    through = minimise_loss(base, loss, image, transforms=[identity, brighter], eps=12 / 255, steps=60)
    assert base.features(plain).eq(0).all() and base.features(brighter(plain)).any()
    assert base.features(brighter(through)).eq(0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": 8}, "eps is 8"),
        ({"step_size": math.inf}, "step_size is inf"),
        ({"loss": lambda x: (x - x).flatten(1).sum(1).sqrt()}, "not finite at step 0"),
    ],
)
def test_bad_input_gets_one_clear_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minimise_loss(lowering(), **({"loss": to_black, "images": picture(100)} | settings))


# --- devices --------------------------------------------------------------------------------------


class EverythingHolds(TorchDispatchMode):
    """Where a tensor without data is asked for a number or a truth, the answer is 0.5, 1 or True."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func == torch.ops.aten.equal.default:
            return True
        if func == torch.ops.aten._local_scalar_dense.default:
            return 0.5 if args[0].is_floating_point() else args[0].dtype == torch.bool or 1
        return func(*args, **(kwargs or {}))


def test_an_attack_stays_on_the_device_of_the_base() -> None:
    """Tensors without data refuse those on the CPU."""
    base = random_net().to("meta")
    with EverythingHolds():
        for loss in (feature_matching_loss(base, noise(), ends=(2,), match_active=True), zero_out_loss(base)):
            moved = minimise_loss(base, loss, noise(), transforms=[shrink_and_pad], steps=1)
            assert moved.device.type == "meta"


def test_readouts_and_filters_stay_on_a_gpu() -> None:
    """Fake tensors that claim to be on a GPU refuse those on the CPU. (JPEG leaves torch, and returns.)"""
    base = random_net()
    with FakeTensorMode() as fake, EverythingHolds():
        for module in base.modules():
            for tensors in (module._parameters, module._buffers):
                tensors |= {n: fake.from_tensor(t).to("cuda") for n, t in tensors.items() if t is not None}
        images = torch.rand(2, 3, 32, 32, device="cuda")
        assert channel_means(base, images, ends=(2,))[0].features.device.type == "cuda"
        assert extract_readouts(base, images, ends=(2,)).features.device.type == "cpu"
        for name in FILTERS.keys() - {"JPEG 75"}:
            assert FILTERS[name](images).device.type == "cuda", name


# --- what is stored -------------------------------------------------------------------------------

STORED = DATA / "defences"
ROWS = {  # table: columns that identify a row, rows
    "sanity": (["eps", "steps", "photo"], 8 * 6),
    "sizes": (["seed", "photo"], 10 * 42),
    "donors": (["donor", "transform", "photo"], 3 * 7 * 5),
    "nonzero": (["attack", "transform", "photo"], 2 * 10 * 5),
    "matched_active": (["photo"], 42),
    "own_donors": (["photo"], 42),
    "own_donors_active": (["photo"], 42),
    "spatial": (["group", "photo"], 3 * 42),
    "pipeline": (["attack", "photo"], 7 * 14 + 3 * 28 + 2),
    "pipeline_memory": (["photo"], 42),
    "hardened": (["base", "attack", "photo"], 8 * 14),
    "hardened_eps": (["base", "attack", "eps", "start", "photo"], 3 * 6 * 14 + 2 * 2 + 4),
}


def test_stored_photos_stay_within_the_budget() -> None:
    photos = load_photos("test")[0][1::2]
    for folder, clean in {"matched": photos, "zero": photos, "zero_filtered": photos[::9]}.items():
        stored = load_folder(STORED / folder)
        assert on_grid(stored) and (levels(stored) - levels(clean)).abs().max() == 8, folder


def test_stored_tables_are_complete() -> None:
    for name, (key, rows) in ROWS.items():
        table = pd.read_csv(STORED / f"{name}.csv")
        assert len(table) == rows and not table.duplicated(key).any() and table.notna().all(axis=None), name
        if name.startswith("own_donors"):
            assert sorted(table.donor) == list(range(42)) and (table.photo != table.donor).all()


def test_a_sample_of_the_stored_tables_is_true(vgg: Base) -> None:
    loss = feature_matching_loss(vgg, load_image(DATA / "images" / "albatross.png"))
    sanity = pd.read_csv(STORED / "sanity.csv").set_index(["eps", "steps", "photo"]).loss
    with torch.no_grad():
        assert loss(load_photos("test")[0][1:2]).item() == pytest.approx(sanity[0, 0, 0], rel=1e-2)
    norm = pd.read_csv(STORED / "pipeline.csv").set_index(["attack", "photo"])["feature norm"]["none", 0]
    assert extract_readouts(vgg, load_photos("test")[0][1:2]).feature_norm.item() == pytest.approx(-norm, rel=1e-4)
    nonzero = pd.read_csv(STORED / "nonzero.csv").set_index(["attack", "transform", "photo"]).nonzero
    found = vgg.verdict(load_folder(STORED / "zero_filtered")[:1])[0].item()
    assert found == pytest.approx(nonzero["through filters", "no filter", 0], abs=2)
