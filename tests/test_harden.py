"""Hardening: scales and shifts do what they say, and training makes a base move less."""

import pandas as pd
import pytest
import torch
from nets import noise, random_net

from experiments.ch06_hardening import backward, convolved, distance, harden, unchanged
from helpers.base import Base
from helpers.defence.adaptive import minimise_loss, zero_out_loss
from helpers.defence.hardening import apply_channel_affine, vgg16_hardened
from helpers.images import DATA, load_folder, load_photos


def test_convolutions_are_scaled_and_shifted_as_in_training_and_the_base_stays() -> None:
    base, images = random_net(), noise(2)
    before = base.pre_activations(images)
    state = {name: torch.rand(len(tensor)) + 0.5 for name, tensor in unchanged(base).items()}
    *_, trained = convolved(base, images, state)
    made = apply_channel_affine(base, state, "made")
    assert torch.allclose(made.pre_activations(images), trained, rtol=1e-4, atol=1e-4) and made.name == "made"
    assert torch.equal(base.pre_activations(images), before) and not torch.allclose(trained, before)
    twice = apply_channel_affine(base, unchanged(base) | {"scale.1": torch.full((5,), 2.0)}, "twice")
    assert torch.allclose(twice.pre_activations(images), 2 * before, rtol=1e-4, atol=1e-4)
    assert made.sha256 != base.sha256 == apply_channel_affine(base, unchanged(base), "same").sha256


def test_one_half_of_the_perturbations_goes_to_zero_the_other_away_from_the_clean_images() -> None:
    base, clean = random_net(), noise(4)
    x = (clean * 0.9 + 0.1 * noise(4, seed=1)).clamp(0, 1)
    direction, mean = backward(base, unchanged(base), clean, x)
    target, before, after = (base.pre_activations(y) for y in (clean, x, x + 1e-3 * direction.sign()))
    assert distance(before, target).mean().item() == pytest.approx(mean, rel=1e-4)
    assert (distance(after, target) > distance(before, target))[2:].all()
    assert (torch.relu(after + 1).flatten(1).sum(1) < torch.relu(before + 1).flatten(1).sum(1))[:2].all()
    direction, _ = backward(base, unchanged(base), clean, x, attack=False)
    after = base.pre_activations(x + 1e-3 * direction.sign())
    assert (distance(after, target) > distance(before, target)).all(), "without an attack all move away"


def test_a_hardened_base_moves_less_and_training_repeats() -> None:
    base, images = random_net(), noise(6)
    state = harden(base, images, side=8, epochs=40, batch=3, lr=0.02, seed=1)

    def moved(one: Base) -> float:
        """How far new images move, relative to how far they lie from each other."""
        new = noise(8, seed=7)
        clean = one.pre_activations(new)
        change = one.pre_activations(minimise_loss(one, zero_out_loss(one), new, steps=20)) - clean
        apart = (clean - clean.roll(1, 0)).flatten(1).norm(dim=1)
        return (change.flatten(1).norm(dim=1) / apart).mean().item()

    assert moved(apply_channel_affine(base, state, "hardened")) < moved(base)
    one, other = (harden(base, images, side=8, epochs=2, batch=4, seed=3) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(images, noise(6)) and base.sha256 == random_net().sha256


def test_the_control_learns_to_move_less_under_noise() -> None:
    base, images = random_net(), noise(6)
    control = apply_channel_affine(base, harden(base, images, side=8, epochs=40, batch=3, attack=False), "control")
    new = noise(8, seed=7)
    noisy = (new + 8 / 255 * (noise(8, seed=8) - 0.5).sign()).clamp(0, 1)

    def moved(one: Base) -> float:
        return distance(one.pre_activations(noisy), base.pre_activations(new)).mean().item()

    assert moved(control) < moved(base)


def test_a_sample_of_the_stored_table_is_true() -> None:
    table = pd.read_csv(DATA / "defences" / "hardened.csv").set_index(["base", "attack", "photo"]).nonzero
    images = {"none": load_photos("test")[0][1:2], "zero-out of the original": load_folder(DATA / "defences/zero")[:1]}
    hard = vgg16_hardened()
    for attack, image in images.items():
        assert hard.verdict(image)[0].item() == pytest.approx(table["hardened", attack, 0], rel=0.01)
