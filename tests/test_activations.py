"""What is recorded of layers, on networks whose outputs can be worked out by hand."""

import pytest
import torch
from nets import Fuse
from torch import nn

from helpers.activations import Watch, layer_table, layers, record, strongest
from helpers.attack import zero_out
from helpers.base import Base, split
from helpers.images import to_grid


def small_base(*, inplace: bool = False) -> Base:
    """Two convolutions of 1 x 1 that compute x - 0.5 and 1 - 4 x, and a pooling."""
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        for conv, scale, shift in ((first, 1.0, -0.5), (second, -4.0, 1.0)):
            conv.weight.copy_(scale * torch.eye(3).view(3, 3, 1, 1))
            conv.bias.fill_(shift)
    body = nn.Sequential(first, nn.ReLU(inplace=inplace), second)
    return Base(body, nn.Sequential(nn.ReLU(inplace=inplace), nn.MaxPool2d(2)), size=4, name="small")


def half_bright() -> torch.Tensor:
    """Left half 1, right half 0."""
    image = torch.zeros(1, 3, 4, 4)
    image[..., :2] = 1
    return image


def test_layers_of_a_chain_are_named_by_block() -> None:
    assert list(layers(small_base())) == ["conv1_1", "conv1_2", "pool1"]


def test_vgg16_has_its_thirteen_convolutions_and_five_poolings() -> None:
    from helpers.networks import vgg_layers

    chain = vgg_layers()
    base = Base(chain[:29], chain[29:], size=32, name="random VGG-16")
    names = list(layers(base))
    assert len(names) == 18 and names[0] == "conv1_1" and names[-2:] == ["conv5_3", "pool5"]
    assert names[6:9] == ["conv3_1", "conv3_2", "conv3_3"]


def test_other_networks_list_the_activations_that_run() -> None:
    from helpers.networks import from_timm

    base = from_timm("resnet18", num_classes=4).base
    names = list(layers(base))
    assert "layer1.0.act1" in names and names[-1].startswith("layer4.1")
    assert not any("fc" in name or "global_pool" in name for name in names)
    table = layer_table(record(base, torch.rand(1, 3, 64, 64)))
    assert list(table.index) == names


def test_record_before_and_after_an_activation() -> None:
    base, image = small_base(), half_bright()
    z, y = record(base, image, before=True), record(base, image)
    assert z["conv1_1"][..., 0].eq(0.5).all() and z["conv1_1"][..., 3].eq(-0.5).all()
    assert y["conv1_1"][..., 3].eq(0).all() and y["pool1"].shape == (1, 3, 2, 2)
    assert torch.equal(z["conv1_2"], base.pre_activations(image))
    assert torch.equal(y["pool1"], base.features(image))


def test_records_are_clones_without_a_graph() -> None:
    base, image = small_base(), half_bright().requires_grad_()
    recorded = record(base, image.detach())
    assert not any(output.requires_grad for output in recorded.values())
    recorded["conv1_1"].fill_(7)
    assert record(base, image.detach())["conv1_1"].max() == 0.5
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.modules())


def test_a_network_that_raises_keeps_no_hooks() -> None:
    base = Base(Fuse(nn.Conv2d(3, 2, 1)), nn.ReLU(), size=4)
    base.body.error = MemoryError("too large")
    for look in (lambda: layers(base), lambda: split(base, base.features, size=4)):
        with pytest.raises(MemoryError):
            look()
        assert not any(module._forward_hooks for module in base.modules())


def test_only_the_named_layers_in_the_given_order() -> None:
    base = small_base()
    assert list(record(base, half_bright(), ["pool1", "conv1_1"])) == ["pool1", "conv1_1"]
    with pytest.raises(KeyError, match="conv9_9"):
        record(base, half_bright(), ["conv9_9"])
    with pytest.raises(ValueError, match="shape"):
        record(base, half_bright()[0])


def test_the_table_counts_what_can_be_counted_by_hand() -> None:
    base, image = small_base(), half_bright()
    clean = record(base, image)
    table = layer_table(clean, clean)
    assert table.units.tolist() == [48, 48, 12]
    assert table.active.tolist() == [0.5, 0.5, 0.5]
    assert table["mean"]["conv1_1"] == 0.25
    assert table.norm["conv1_1"] == pytest.approx((24 * 0.25) ** 0.5)
    assert table.alike.tolist() == pytest.approx([1, 1, 1])
    dark = layer_table(record(base, torch.ones_like(image)), clean)
    assert dark.active["pool1"] == dark.alike["pool1"] == 0


def test_strongest_channels_come_first() -> None:
    output = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert strongest(output, 2) == [1, 2]
    assert strongest(output, 9) == [1, 2, 0]


def test_watch_follows_an_attack_to_its_end() -> None:
    base, image = small_base(), to_grid(torch.full((1, 3, 4, 4), 0.6))
    watch = Watch(base, at=[2], keep=2)
    result = zero_out(base, image, eps=60 / 255, steps=40, margin=0.02, on_step=watch)
    assert result.nonzero == [0]
    assert result.steps[0] > 2 and watch.steps == [0, 2, result.steps[0]]
    share = watch.over_steps("active")
    assert list(share.columns) == watch.steps and list(share.index) == list(layers(base))
    assert share.loc["pool1", 0] == 1 and share.loc["pool1", watch.steps[-1]] == 0
    assert torch.equal(watch.images[0], image)
    assert len(watch.maps["conv1_2"]) == len(watch.steps) and watch.maps["conv1_2"][0].shape == (2, 4, 4)
    assert not watch.maps["conv1_2"][-1].any()


def test_watching_does_not_change_the_attack() -> None:
    base, image = small_base(), to_grid(torch.full((1, 3, 4, 4), 0.6))
    settings = {"eps": 60 / 255, "steps": 20, "margin": 0.02}
    plain = zero_out(base, image, **settings)
    watched = zero_out(base, image, on_step=Watch(base), **settings)
    assert torch.equal(plain.images, watched.images) and plain.history == watched.history


def test_watch_keeps_only_the_last_step_outside_its_list() -> None:
    base, image = small_base(), to_grid(torch.full((1, 3, 4, 4), 0.6))
    watch = Watch(base, at=[1], keep=1)
    for step, left in ((0, 3), (1, 3), (2, 3), (3, 0), (4, 0)):
        watch(step, image, torch.tensor([left]))
    assert watch.steps == [0, 1, 4]
    assert len(watch.images) == len(watch.tables) == len(watch.maps["pool1"]) == 3
