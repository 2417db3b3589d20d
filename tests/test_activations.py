"""What is recorded of layers, on networks whose outputs can be worked out by hand."""

import pytest
import torch
from nets import Fuse
from torch import nn

from helpers.activations import LayerRecorder, layer_table, layers, record, strongest
from helpers.attack import zero_out
from helpers.base import Base
from helpers.images import to_grid
from helpers.networks import from_timm, vgg_layers

SETTINGS = {"eps": 60 / 255, "steps": 40, "margin": 0.02}


def small_base() -> Base:
    """Two convolutions of 1 x 1 that compute x - 0.5 and 1 - 4 x, and a pooling."""
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        for conv, scale, shift in ((first, 1.0, -0.5), (second, -4.0, 1.0)):
            conv.weight.copy_(scale * torch.eye(3).view(3, 3, 1, 1))
            conv.bias.fill_(shift)
    body = nn.Sequential(first, nn.ReLU(), second)
    return Base(body, nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), size=4, name="small")


def grey() -> torch.Tensor:
    return to_grid(torch.full((1, 3, 4, 4), 0.6))


def half_bright() -> torch.Tensor:
    """Left half 1, right half 0."""
    image = torch.zeros(1, 3, 4, 4)
    image[..., :2] = 1
    return image


def test_the_layers_of_vgg16_have_the_names_of_its_paper() -> None:
    chain = vgg_layers()
    names = list(layers(Base(chain[:29], chain[29:], size=32)))
    assert len(names) == 18 and names[0] == "conv1_1" and names[-2:] == ["conv5_3", "pool5"]
    assert names[6:10] == ["conv3_1", "conv3_2", "conv3_3", "pool3"]


def test_other_networks_list_the_activations_that_run() -> None:
    base = from_timm("resnet18", num_classes=4).base
    names = list(layers(base))
    assert "layer1.0.act1" in names and names[-1].startswith("layer4.1")
    assert not any("fc" in name or "global_pool" in name for name in names)


def test_a_record_holds_what_comes_out_of_each_layer() -> None:
    base, image = small_base(), half_bright()
    outputs = record(base, image)
    assert list(outputs) == list(layers(base))
    assert outputs["conv1_1"][..., 0].eq(0.5).all() and outputs["conv1_1"][..., 3].eq(0).all()
    assert outputs["pool1"].shape == (1, 3, 2, 2) and torch.equal(outputs["pool1"], base.features(image))


def test_a_network_that_raises_keeps_no_hooks() -> None:
    base = Base(Fuse(nn.Conv2d(3, 2, 1)), nn.ReLU(), size=4)
    base.body.error = MemoryError("too large")
    with pytest.raises(MemoryError):
        layers(base)
    assert not any(module._forward_hooks for module in base.modules())


def test_layers_are_recorded_on_the_device_of_the_network() -> None:
    recorded = record(small_base().to("meta"), half_bright())
    assert {output.device.type for output in recorded.values()} == {"meta"}


def test_the_table_counts_what_can_be_counted_by_hand() -> None:
    base, image = small_base(), half_bright()
    clean = record(base, image)
    table = layer_table(clean, clean)
    assert table.units.tolist() == [48, 48, 12]
    assert table.active.tolist() == [0.5, 0.5, 0.5]
    assert table["mean"]["conv1_1"] == 0.25
    assert table.norm["conv1_1"] == pytest.approx((24 * 0.25) ** 0.5)
    assert table.cosine.tolist() == pytest.approx([1, 1, 1])
    zeroed = layer_table(record(base, torch.ones_like(image)), clean)
    assert zeroed.active["pool1"] == zeroed.cosine["pool1"] == 0


def test_strongest_channels_come_first() -> None:
    output = torch.tensor([1.0, 3.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    assert strongest(output, 2) == [1, 2]
    assert strongest(output, 9) == [1, 2, 0]


def test_a_recorder_follows_an_attack_to_its_end() -> None:
    base, image = small_base(), grey()
    recorder = LayerRecorder(base, at=[2], keep=2)
    result = zero_out(base, image, on_step=recorder, **SETTINGS)
    assert result.nonzero == [0] and recorder.steps == [0, 2, result.steps[0]]
    share = recorder.over_steps("active")
    assert share.loc["pool1", 0] == 1 and share.loc["pool1", recorder.steps[-1]] == 0
    assert torch.equal(recorder.images[0], image)
    assert [maps.shape for maps in recorder.maps["conv1_2"]] == [(2, 4, 4)] * 3
    assert not recorder.maps["conv1_2"][-1].any()


def test_of_the_steps_outside_its_list_a_recorder_keeps_the_last_one() -> None:
    recorder = LayerRecorder(small_base(), at=[1], keep=1)
    for step, active in ((0, 3), (1, 3), (2, 3), (3, 0), (4, 0)):
        recorder(step, grey(), torch.tensor([active]))
    assert recorder.steps == [0, 1, 4]
    assert len(recorder.images) == len(recorder.tables) == len(recorder.maps["pool1"]) == 3
