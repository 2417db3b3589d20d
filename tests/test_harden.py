"""Hardening: the scales and shifts do what they say, training makes a base move less, bad input is refused."""

import numpy as np
import pandas as pd
import pytest
import torch
from nets import SIZE, lowering, noise, picture, random_net
from torch import Tensor, nn

from helpers.base import Base
from helpers.bypass import silent, steer
from helpers.harden import ScaleShift, harden, tuned, vgg16_hardened
from helpers.images import DATA, load_folder, load_photos

State = dict[str, Tensor]


def state_of(base: Base, scale: float, shift: float) -> State:
    convolutions = [layer for layer in base.body if isinstance(layer, nn.Conv2d)]
    state = {}
    for i, layer in enumerate(convolutions):
        state |= {f"scale.{i}": torch.full((layer.out_channels,), scale)}
        state |= {f"shift.{i}": torch.full((layer.out_channels,), shift)}
    return state


def trained(base: Base, images: Tensor, **settings: object) -> State:
    return harden(base, images, side=SIZE, autocast=False, **settings)


def test_scale_one_and_shift_nothing_change_nothing() -> None:
    base = random_net()
    same = tuned(base, state_of(base, 1.0, 0.0), "same")
    assert torch.equal(same.features(noise(2)), base.features(noise(2)))
    assert same.sha256 == base.sha256 and same.name == "same"


def test_one_convolution_is_scaled_and_shifted_and_the_base_stays() -> None:
    base = Base(nn.Sequential(nn.Conv2d(3, 2, 1)), nn.ReLU(), size=SIZE)
    before = base.pre_activations(noise())
    after = tuned(base, state_of(base, 2.0, 0.5), "twice").pre_activations(noise())
    assert torch.allclose(after, 2 * before + 0.5, atol=1e-6)
    assert torch.equal(base.pre_activations(noise()), before)


def test_what_is_trained_and_what_is_folded_agree() -> None:
    layer, y = ScaleShift(2, unit=3.0), torch.arange(8.0).view(1, 2, 2, 2)
    with torch.no_grad():
        layer.scale.copy_(torch.tensor([1.0, 2.0]))
        layer.shift.copy_(torch.tensor([0.5, -1.0]))
    expected = torch.stack([y[0, 0] + 1.5, 2 * y[0, 1] - 3])
    assert torch.equal(layer(y)[0], expected)


@pytest.mark.parametrize("wrong", ["missing", "shape", "more"])
def test_scales_of_another_network_are_refused(wrong: str) -> None:
    base = random_net()
    state = state_of(base, 1.0, 0.0)
    if wrong == "missing":
        del state["shift.1"]
    elif wrong == "shape":
        state["scale.0"] = torch.ones(7)
    else:
        state["scale.2"] = torch.ones(5)
    with pytest.raises(ValueError, match="do not fit"):
        tuned(base, state, "wrong")


def test_without_a_learning_rate_nothing_is_learnt() -> None:
    base = random_net()
    state = trained(base, noise(4), epochs=2, batch=2, rate=0.0)
    assert all(tensor.eq(1.0 if name.startswith("scale") else 0.0).all() for name, tensor in state.items())


def test_a_hardened_base_moves_less_and_still_tells_pictures_apart() -> None:
    base, images = random_net(), noise(6)
    state = trained(base, images, epochs=40, batch=3, rate=0.02, seed=1)
    hard = tuned(base, state, "hardened")

    def moved(one: Base) -> float:
        """How far new pictures are driven, in units of how far they lie from each other."""
        new = noise(8, seed=7)
        changed = steer(one, silent(one), new, eps=8 / 255, steps=20, autocast=False)
        clean = one.pre_activations(new)
        apart = (clean - clean.roll(1, 0)).flatten(1).norm(dim=1)
        return ((one.pre_activations(changed) - clean).flatten(1).norm(dim=1) / apart).mean().item()

    assert moved(hard) < moved(base)


def test_nothing_given_is_changed_and_a_seed_decides() -> None:
    base, images = random_net(), noise(4)
    digest, before = base.sha256, images.clone()
    runs = [trained(base, images, epochs=2, batch=2, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(images, before) and torch.equal(random_net().body[0].weight, base.body[0].weight)
    assert base.sha256 == digest and not any(p.requires_grad for p in base.parameters())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert any(not torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"eps": 8}, "eps is 8"), ({"side": 9}, "side is 9"), ({"epochs": 0}, "epochs is 0"), ({"batch": 1.5}, "batch")],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        harden(random_net(), noise(2), **({"side": SIZE} | settings))


def test_whole_numbers_of_numpy_are_as_good() -> None:
    plain = trained(random_net(), noise(3), epochs=1, batch=2)
    numpys = trained(random_net(), noise(3), epochs=np.int64(1), batch=np.int8(2))
    assert all(torch.equal(numpys[name], plain[name]) for name in plain)


def test_each_epoch_is_told() -> None:
    told: list[tuple[int, float]] = []
    trained(random_net(), noise(3), epochs=2, batch=2, on_epoch=lambda epoch, distance: told.append((epoch, distance)))
    assert [epoch for epoch, _ in told] == [0, 1] and all(distance > 0 for _, distance in told)


def test_a_base_without_a_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="no layers in sequence"):
        harden(lowering(), picture(1, 2), side=SIZE)


def test_a_convolution_without_a_bias_is_refused_before_training() -> None:
    base = Base(nn.Sequential(nn.Conv2d(3, 2, 1, bias=False)), nn.ReLU(), size=SIZE, name="unbiased")
    with pytest.raises(ValueError, match="a convolution of unbiased has no bias to take up a shift; give it one"):
        harden(base, noise(2), side=SIZE, on_epoch=lambda *_: pytest.fail("it was trained"))


def test_the_stored_table_is_complete_and_a_part_of_it_is_true() -> None:
    table = pd.read_csv(DATA / "defences" / "hardened.csv")
    assert not table.duplicated(["base", "attack", "photo"]).any()
    assert table.groupby(["base", "attack"]).photo.nunique().eq(14).all() and len(table) == 7 * 14
    hard, clean = vgg16_hardened(), load_photos("test")[0][1::2][:1]
    zeroed = load_folder(DATA / "defences" / "zero")[:1]
    for attack, image in {"none": clean, "zero-out of the base as it was": zeroed}.items():
        row = table[(table.base == "hardened") & (table.attack == attack) & (table.photo == 0)].iloc[0]
        assert int(hard.features(image).count_nonzero()) == pytest.approx(row.left, rel=0.01)
