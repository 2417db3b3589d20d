"""Readouts, heads and filters on networks and numbers that can be checked by hand; the stored readouts."""

import numpy as np
import pytest
import torch
from nets import SIZE, encoded, levels, lowering, noise, picture, random_net
from torch import Tensor, nn

from experiments.readouts import SETS, key_of, stored_key
from helpers.base import Base
from helpers.defence.filters import FILTERS, fewer_bits, filtered, jpeg, median, shrink_and_pad, smaller
from helpers.defence.hardening import vgg16_hardened
from helpers.defence.readers import fit_readers, probe, top_labels
from helpers.defence.readouts import READERS, Readout, extract_readouts, stored_readouts
from helpers.heads import as_linear, fit_head
from helpers.images import load_image
from helpers.networks import vgg16_base


def readout(features: Tensor) -> Readout:
    return Readout(features * 0 + 1, features - 1, features, features.norm(dim=1))


def cloud(seed: int, number: int = 60) -> tuple[Readout, list[str]]:
    """Two classes of vectors around (9, 1) and (1, 9)."""
    centres = torch.tensor([[9.0, 1.0], [1.0, 9.0]]).repeat(number // 2, 1)
    spread = torch.randn(number, 2, generator=torch.Generator().manual_seed(seed))
    return readout(centres + spread), ["a", "b"] * (number // 2)


# --- readouts -------------------------------------------------------------------------------------


def test_a_readout_holds_the_channel_means() -> None:
    """relu(red level - 90.5), as a sequence of two layers."""
    base = Base(nn.Sequential(nn.Identity(), lowering().body), nn.ReLU(), size=SIZE, name="tiny")
    found = extract_readouts(base, picture(80, 100.5), ends=(1,))
    assert torch.allclose(found.pre_activation[:, 0], torch.tensor([-10.5, 10.0]), atol=1e-3)
    assert torch.allclose(found.features[:, 0], torch.tensor([0.0, 10.0]), atol=1e-3)
    assert torch.allclose(found.feature_norm, torch.tensor([0.0, 10.0 * SIZE]), atol=1e-2)
    assert torch.allclose(found.intermediate.norm(dim=1), torch.ones(2))


def test_a_readout_agrees_with_the_base_in_every_batch_size() -> None:
    base, images = random_net(), noise(5)
    features = base.features(images)
    for batch in (1, 5):
        found = extract_readouts(base, images, ends=(2,), batch=batch)
        assert torch.allclose(found.features, features.mean((2, 3)), atol=1e-5)
        assert torch.allclose(found.feature_norm, features.flatten(1).norm(dim=1), atol=1e-4)
        assert found.intermediate.shape == (5, 6)


@pytest.mark.parametrize(
    ("base", "ends", "message"),
    [
        (random_net(), (17, 24), r"random has 3 layers, not \(17, 24\); give other ends"),
        (lowering(), (), r"no layers in sequence; give vgg16_base\(\)"),
    ],
)
def test_what_cannot_be_read_is_refused(base: Base, ends: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        extract_readouts(base, noise(), ends=ends)


def test_readers_keep_zero_at_zero_and_scale_the_faintest_features_up() -> None:
    found = readout(torch.tensor([[0.0, 0.0], [3e-9, 4e-9]]))
    assert READERS["unit length"](found).tolist() == [[0, 0], pytest.approx([0.6, 0.8])]
    assert READERS["pre-activations"](found).norm(dim=1).allclose(torch.ones(2))
    assert READERS["several depths"](found).shape == (2, 4)


def test_stored_readouts_belong_to_the_stored_images(vgg: Base) -> None:
    """If not: python -m experiments readouts."""
    bases = {vgg16_base: vgg, vgg16_hardened: vgg16_hardened()}
    for name, (load, filters, make_base) in SETS.items():
        assert stored_key(name) == key_of(load(), bases[make_base], filters), name
        stored = stored_readouts(name)
        assert set(stored) == {"no filter", *filters} and stored["no filter"].features.dtype == torch.float32, name


def test_a_sample_of_the_stored_readouts_is_true(vgg: Base) -> None:
    image = SETS["zeroed"].load()[:1]
    found, stored = extract_readouts(vgg, dict(filtered(image))["160 pixels"]), stored_readouts("zeroed")["160 pixels"]
    for field, exact in vars(found).items():
        assert (getattr(stored, field)[0] - exact[0]).abs().max() <= 2e-3 * exact.abs().max(), field


# --- heads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [["a", "b", "c"] * 4, ["a", "b"] * 6])
def test_as_linear_is_the_head_in_torch(labels: list[str]) -> None:
    features = extract_readouts(random_net(), noise(12), ends=()).features
    head = fit_head(features, labels)
    given = head.predict_proba(features.numpy())
    assert np.allclose(as_linear(head)(features).softmax(1).numpy(), given, atol=1e-5)


def test_top_labels_are_ordered() -> None:
    found, labels = cloud(0)
    (first, second), *_ = top_labels(fit_head(found.features, labels), torch.tensor([[1.0, 9.0]]))
    assert first[0] == "b" and second[0] == "a" and first[1] + second[1] == pytest.approx(1)


def test_every_reader_gets_a_head() -> None:
    found, labels = cloud(0)
    heads = fit_readers(found, labels)
    assert list(heads) == list(READERS)
    for name in ("features", "unit length", "pre-activations"):
        assert (heads[name].predict(READERS[name](found).numpy()) == np.array(labels)).mean() > 0.95


def test_a_probe_finds_what_is_there_and_else_the_majority() -> None:
    labels = np.array(["a"] * 12 + ["b"] * 8)
    there = torch.tensor([[1.0, 0.0]] * 12 + [[0.0, 1.0]] * 8)
    assert (probe(there, labels) == labels).all() and (probe(there * 0, labels) == "a").all()


# --- filters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILTERS)
def test_filters_give_images_and_leave_theirs_alone(name: str) -> None:
    images = noise(2, size=32)
    found = FILTERS[name](images)
    assert torch.equal(images, noise(2, size=32)) and found.shape[:2] == (2, 3)
    assert found.dtype == torch.float32 and found.min() >= 0 and found.max() <= 1
    assert torch.equal(found, FILTERS[name](images)), "the random one has a fixed seed"
    if name != "shrink and pad":
        plain = picture(0, 119, 255, size=32)
        assert (FILTERS[name](plain).mean((2, 3)) - plain.mean((2, 3))).abs().max() <= 1 / 255


def test_jpeg_is_that_of_a_file() -> None:
    image = noise(size=32)
    file = encoded(levels(image)[0].byte().permute(1, 2, 0).numpy(), "JPEG", quality=50)
    assert torch.equal(jpeg(image, 50), load_image(file, 32))


def test_each_filter_does_what_it_says() -> None:
    levels = torch.arange(256).view(1, 1, 16, 16).expand(1, 3, 16, 16) / 255
    assert len(fewer_bits(levels, 4).unique()) == 16 and len(fewer_bits(levels, 1).unique()) == 2
    single = picture(100, size=9)
    single[0, :, 4, 4] = 1
    assert torch.equal(median(single), picture(100, size=9))
    assert smaller(noise(size=32), 20).shape == (1, 3, 20, 20)
    torch.manual_seed(0)
    drawn = [shrink_and_pad(noise(size=64)) for _ in range(5)]
    assert any(not torch.equal(drawn[0], other) for other in drawn[1:])
    assert all(one.shape == (1, 3, 64, 64) for one in drawn)
