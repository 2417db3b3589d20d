"""Hardening: scales and shifts do what they say, and training makes a base move less."""

import pandas as pd
import pytest
import torch
from nets import SIZE, noise, random_net
from torch import Tensor, nn

from experiments.ch06_hardening import ScaleShift, harden
from helpers.base import Base
from helpers.defence.adaptive import minimise_loss, zero_out_loss
from helpers.defence.hardening import apply_channel_affine, vgg16_hardened
from helpers.images import DATA, load_folder, load_photos

State = dict[str, Tensor]


def state_of(base: Base, scale: float, shift: float) -> State:
    state = {}
    for i, layer in enumerate(layer for layer in base.body if isinstance(layer, nn.Conv2d)):
        state |= {f"scale.{i}": torch.full((layer.out_channels,), scale)}
        state |= {f"shift.{i}": torch.full((layer.out_channels,), shift)}
    return state


def test_a_convolution_is_scaled_and_shifted_and_the_base_stays() -> None:
    base = Base(nn.Sequential(nn.Conv2d(3, 2, 1)), nn.ReLU(), size=SIZE)
    before = base.pre_activations(noise())
    twice = apply_channel_affine(base, state_of(base, 2.0, 0.5), "twice")
    assert torch.allclose(twice.pre_activations(noise()), 2 * before + 0.5, atol=1e-6) and twice.name == "twice"
    assert torch.equal(base.pre_activations(noise()), before)
    assert apply_channel_affine(base, state_of(base, 1.0, 0.0), "same").sha256 == base.sha256


def test_what_is_trained_and_what_is_folded_agree() -> None:
    layer, y = ScaleShift(2, unit=3.0), torch.arange(8.0).view(1, 2, 2, 2)
    with torch.no_grad():
        layer.scale.copy_(torch.tensor([1.0, 2.0]))
        layer.shift.copy_(torch.tensor([0.5, -1.0]))
    assert torch.equal(layer(y)[0], torch.stack([y[0, 0] + 1.5, 2 * y[0, 1] - 3]))


@pytest.mark.parametrize("wrong", [{"scale.0": torch.ones(7)}, {"scale.2": torch.ones(5)}])
def test_scales_of_another_network_are_refused(wrong: State) -> None:
    base = random_net()
    with pytest.raises(ValueError, match="do not fit"):
        apply_channel_affine(base, state_of(base, 1.0, 0.0) | wrong, "wrong")


def test_a_hardened_base_moves_less_and_training_repeats() -> None:
    base, images = random_net(), noise(6)
    state = harden(base, images, side=SIZE, epochs=40, batch=3, lr=0.02, seed=1)
    hard = apply_channel_affine(base, state, "hardened")

    def moved(one: Base) -> float:
        """How far new images move, relative to how far they lie from each other."""
        new = noise(8, seed=7)
        clean = one.pre_activations(new)
        change = one.pre_activations(minimise_loss(one, zero_out_loss(one), new, steps=20)) - clean
        apart = (clean - clean.roll(1, 0)).flatten(1).norm(dim=1)
        return (change.flatten(1).norm(dim=1) / apart).mean().item()

    assert moved(hard) < moved(base)
    one, other = (harden(base, images, side=SIZE, epochs=2, batch=4, seed=3) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(images, noise(6)) and base.sha256 == random_net().sha256


def test_a_sample_of_the_stored_table_is_true() -> None:
    table = pd.read_csv(DATA / "defences" / "hardened.csv").set_index(["base", "attack", "photo"]).nonzero
    images = {"none": load_photos("test")[0][1:2], "zero-out of the original": load_folder(DATA / "defences/zero")[:1]}
    hard = vgg16_hardened()
    for attack, image in images.items():
        assert hard.verdict(image)[0].item() == pytest.approx(table["hardened", attack, 0], rel=0.01)
