"""Bases, heads, splits and transfer learning."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from nets import corridor, lowering, noise, picture, random_net, red_reader
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import networks
from helpers.base import check_base
from helpers.networks import Base, Classifier, embed, from_timm, train_head
from helpers.splitting import TruncatedModule

# --- the two bundled networks -----------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> Tensor:
    """Two pictures of 64 x 64 pixels: enough to see which layers run, and quick."""
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def assert_frozen(network: nn.Module) -> None:
    assert list(network.parameters())
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(module.training for module in network.modules())
    assert not any(getattr(module, "inplace", False) for module in network.modules())


def test_vgg16_shapes(vgg: Base, albatross: Tensor) -> None:
    assert_frozen(vgg)
    with torch.no_grad():
        z = vgg.pre_activations(albatross)
        features = vgg.features(albatross)
    assert z.shape == (1, 512, 14, 14)
    assert features.shape == (1, 512, 7, 7)
    assert vgg.feature_shape == (512, 7, 7) and math.prod(vgg.feature_shape) == 25_088
    assert z.min() < 0 < z.max(), "these are not before their ReLU"
    assert torch.equal(features, F.max_pool2d(z.relu(), 2))
    assert torch.equal(vgg(albatross), features) and vgg.threshold == 0


def test_vgg16_layers_are_those_of_configuration_d(vgg: Base) -> None:
    convolutions = [m for m in vgg.modules() if isinstance(m, nn.Conv2d)]
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [c.out_channels for c in convolutions] == widths
    assert all((c.kernel_size, c.padding, c.stride) == ((3, 3), (1, 1), (1, 1)) for c in convolutions)
    assert isinstance(vgg.body[-1], nn.Conv2d) and len(vgg.body) == 29


def test_vgg16_takes_pictures_in_unit_range(vgg: Base, small: Tensor) -> None:
    """Against the Caffe recipe by hand: times 255, minus the mean of red, green, blue."""
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    with torch.no_grad():
        wanted = vgg.body(small * 255 - mean)
        found = vgg.pre_activations(small)
    assert torch.allclose(found, wanted, atol=1e-4 * wanted.abs().max().item())


def test_lite0_shapes(lite0: Classifier, albatross: Tensor) -> None:
    assert_frozen(lite0)
    with torch.no_grad():
        z, features = lite0.base.pre_activations(albatross), lite0.base.features(albatross)
    assert features.shape == z.shape == (1, 1280, 7, 7)
    assert math.prod(lite0.base.feature_shape) == 62_720
    assert z.min() < 0
    assert torch.equal(features, z.clamp(0, 6))
    assert lite0.base.threshold == 0


def test_lite0_normalises_as_it_was_trained(lite0: Classifier, albatross: Tensor) -> None:
    with torch.no_grad():
        wanted = lite0.head.model((albatross * 255 - 127) / 128)
        assert torch.allclose(lite0(albatross), wanted, atol=1e-4)


def test_lite0_sees_the_albatross(lite0: Classifier, albatross: Tensor) -> None:
    label, probability = lite0.predict(albatross)[0][0]
    assert label == "albatross"
    assert probability > 0.9


def test_lite0_knows_a_thousand_classes(lite0: Classifier) -> None:
    assert len(lite0.labels) == 1000
    assert lite0.labels[0] == "tench" and lite0.labels[146] == "albatross"
    assert all(label and "," not in label for label in lite0.labels)


def test_blank_is_the_head_of_zeros(lite0: Classifier) -> None:
    with torch.no_grad():
        wanted = lite0.head(torch.zeros(1, 1280, 7, 7)).softmax(1)[0]
        bias = lite0.head.model.get_classifier().bias.softmax(0)
    assert torch.equal(lite0.blank(), wanted)
    assert torch.allclose(lite0.blank(), bias, atol=1e-7), "zero features leave the biases alone"
    assert lite0.blank().shape == (1000,)
    assert lite0.blank().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_digest_names_the_weights(vgg: Base) -> None:
    assert vgg.sha256 == networks.files.VGG16_BASE.digest
    assert lowering(90.5).sha256 == lowering(90.5).sha256 != lowering(91.5).sha256


def test_the_digest_follows_weights_that_change() -> None:
    base = Base(nn.Conv2d(3, 2, 1), nn.ReLU(), size=8, sha256="that of a file")
    assert base.sha256 == base.double().sha256 == "that of a file"
    weight = base.body.weight.clone()
    base.body.weight.mul_(2)
    changed = base.sha256
    assert changed not in ("", "that of a file") and changed == base.sha256
    base.body.weight.copy_(weight)
    assert base.sha256 == "that of a file"


# --- Base ---------------------------------------------------------------------------------------


def test_a_base_freezes_what_it_is_given() -> None:
    base = random_net()
    assert_frozen(base)
    before = base.pre_activations(noise())
    base.features(noise())
    assert before.min() < 0, "an in-place ReLU has overwritten the pre-activations"


def test_normalisation_is_inside() -> None:
    body = nn.Conv2d(3, 2, 1)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    base = Base(body, nn.ReLU(), mean=mean, std=std, size=8)
    x = noise()
    by_hand = torch.stack([(x[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    assert torch.allclose(base.pre_activations(x), body(by_hand), atol=1e-6)


@pytest.mark.parametrize(
    "rest, threshold",
    [
        (nn.ReLU(), 0.0),
        (nn.ReLU6(), 0.0),
        (nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), 0.0),
        (nn.Hardswish(), -3.0),
        (nn.Hardsigmoid(), -3.0),
        (nn.Identity(), None),
        (nn.LeakyReLU(), None),
        (nn.SiLU(), None),
        (nn.GELU(), None),
        (nn.Sequential(nn.ReLU(), nn.BatchNorm2d(1)), 0.0),
        (nn.LayerNorm(8), None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_the_threshold_is_where_outputs_become_exactly_zero(rest: nn.Module, threshold: float | None) -> None:
    base = Base(nn.Conv2d(3, 1, 1), rest, size=8)
    assert base.threshold == (threshold if threshold is None else pytest.approx(threshold, abs=1e-6))
    if threshold is not None:
        below = torch.full((1, 1, 8, 8), base.threshold)
        assert (rest(below) == 0).all()
        assert (rest(below + 0.2) != 0).any()


def test_a_base_is_made_in_the_precision_of_its_body() -> None:
    base = Base(nn.Conv2d(3, 2, 1).double(), nn.ReLU(), size=8)
    assert base.features(noise()).dtype == torch.float64  # of float32 images
    with pytest.raises(ValueError, match=r"computes in torch\.float64; call base\.float\(\)"):
        check_base(base)
    assert copy.deepcopy(random_net()).double().features(noise()).dtype == torch.float64


def test_training_mode_is_found_in_any_part() -> None:
    base = random_net()
    base.body[1].train()
    with pytest.raises(ValueError, match=r"training mode, .*call base\.eval\(\)"):
        check_base(base)


@pytest.mark.parametrize("mean", [np.array([0.25] * 3), [np.float64(0.25)] * 3, torch.tensor([0.25]), 0.25])
def test_the_normalisation_may_be_any_kind_of_numbers(mean: object) -> None:
    base = Base(nn.Identity(), nn.ReLU(), mean=mean, std=1, size=8)
    assert base.mean.dtype == base.std.dtype == torch.float32
    assert torch.equal(base.pre_activations(noise()), noise() - 0.25)
    head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    assert Classifier(base, head, ["a", "b"]).blank().dtype == torch.float32


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mean": None}, "mean is None; give three numbers"),
        ({"std": "a"}, "std is a; give three numbers"),
        ({"size": "8"}, "size is '8'; give one whole number"),
        ({"size": (8, 8)}, r"size is \(8, 8\); give one whole number"),
    ],
)
def test_each_bad_argument_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Base(nn.Identity(), nn.ReLU(), **settings)


def test_images_that_a_network_cannot_read_are_named(vgg: Base) -> None:
    with pytest.raises(ValueError, match=r"vgg16 \(Oxford\) cannot read images of 8 x 8 .*; give 224 x 224"):
        vgg.features(noise())


def test_a_network_is_not_made_in_inference_mode() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="make it outside"):
        random_net()


@pytest.mark.parametrize("name", ["base", "networks"])
def test_slow_packages_are_not_imported_with_a_network(name: str) -> None:
    code = f"import sys, helpers.{name}; print(sys.modules.keys() & {{'sklearn', 'scipy', 'pandas', 'timm'}})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# --- Classifier ---------------------------------------------------------------------------------


def flat_head(base: Base, classes: int = 3) -> Classifier:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(base.feature_shape), classes))
    return Classifier(base, head, ["ant", "bee", "cat", "dog"][:classes])


def test_predictions_are_ordered_and_belong_to_their_labels() -> None:
    classifier = flat_head(random_net(), 4)
    x = noise(3)
    probabilities = classifier.probabilities(x)
    assert torch.equal(probabilities, classifier(x).softmax(1))
    for row, answer in zip(probabilities, classifier.predict(x, top=3), strict=True):
        values = [p for _, p in answer]
        assert len(answer) == 3 and values == sorted(values, reverse=True)
        assert dict(answer).items() <= dict(zip(classifier.labels, row.tolist(), strict=True)).items()
        assert values[0] == row.max().item()
    assert len(classifier.predict(x, top=10)[0]) == 4


def test_a_blinded_picture_gets_the_blank_answer() -> None:
    """Zero features leave head(0), to the last bit, whatever the picture shows."""
    classifier = flat_head(lowering(90.5))
    for dark in (picture(0.0), picture(90.0), noise() * 80 / 255):
        assert torch.equal(classifier.probabilities(dark)[0], classifier.blank())
    assert not torch.equal(classifier.probabilities(picture(92.0))[0], classifier.blank())


def test_predict_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 255; give \[0, 1\]"):
        flat_head(lowering()).predict(torch.tensor([0.0, 255.0]).repeat(1, 3, 8, 4))


# --- any network that timm knows ----------------------------------------------------------------

# name, outputs, threshold: small networks that end in a ReLU, a Hardswish and a LayerNorm
TIMM = [("test_resnet", (96, 5, 5), 0.0), ("mobilenetv3_small_050", (288, 7, 7), -3.0), ("test_vit", (101, 64), None)]


@pytest.mark.parametrize("name, shape, threshold", TIMM)
def test_from_timm_splits_at_the_last_activation(name: str, shape: tuple[int, ...], threshold: float | None) -> None:
    classifier = from_timm(name)
    base, model = classifier.base, classifier.head.model
    assert_frozen(classifier)
    assert base.feature_shape == shape
    assert base.threshold == (threshold if threshold is None else pytest.approx(threshold, abs=1e-6))
    x = noise(2, size=base.size)
    cfg = model.pretrained_cfg
    normalised = (x - torch.tensor(cfg["mean"]).view(1, 3, 1, 1)) / torch.tensor(cfg["std"]).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(base.features(x), model.forward_features(normalised), atol=1e-4)
        assert torch.allclose(classifier(x), model(normalised), atol=1e-4)
        assert torch.equal(base.rest(base.pre_activations(x)), base.features(x))
    if threshold is None:
        assert isinstance(base.rest, nn.Identity)
    else:
        assert isinstance(base.body, TruncatedModule)
        assert base.pre_activations(x).min() < 0


def test_from_timm_leaves_timms_weights_as_they_are() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        wanted = timm.create_model("test_resnet", num_classes=7).state_dict()
    state = torch.get_rng_state()
    found = from_timm("test_resnet", seed=3, num_classes=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found.head.model.state_dict()[k], v) for k, v in wanted.items())
    assert found.labels == [str(i) for i in range(7)]
    other = from_timm("test_resnet", seed=4, num_classes=7)
    assert found.base.sha256 != other.base.sha256


def test_from_timm_reads_pictures_of_the_size_it_is_asked_for() -> None:
    base = from_timm("test_vit", img_size=32, dynamic_img_size=False).base
    assert base.size == 32 and base.features(noise(size=32)).shape == (1, *base.feature_shape)
    with pytest.raises(ValueError, match=r"img_size is \(32, 48\); give one whole number of pixels"):
        from_timm("test_vit", img_size=(32, 48))


def test_from_timm_suggests_names() -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet_18'; close to it: .*resnet"):
        from_timm("resnet_18")
    with pytest.raises(ValueError, match=r"no model 'xyzzy'; close to it: see timm\.list_models"):
        from_timm("xyzzy")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"img_size": 64}, r"cannot make 'resnet10t' with .*'img_size'.*; change the settings"),
        ({"in_chans": 1}, "leave out in_chans and features_only"),
        ({"features_only": True}, "leave out in_chans and features_only"),
    ],
)
def test_from_timm_refuses_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_timm("resnet10t", **settings)


@pytest.mark.parametrize("name", ["timm/resnet18.a1_in1k", "hf-hub:timm/resnet18.a1_in1k"])
def test_trained_weights_without_the_internet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **_: object) -> nn.Module:
        assert name == "hf-hub:timm/resnet18.a1_in1k"
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ValueError, match=r"\(no route\); trained weights need the Internet"):
        from_timm(name)


def test_a_tap_that_does_not_run_says_so() -> None:
    model = nn.ModuleList([nn.Conv2d(3, 1, 1), nn.ReLU()])
    with pytest.raises(RuntimeError, match="did not run"):
        TruncatedModule(model[0], model, model[1])(noise())


# --- transfer learning --------------------------------------------------------------------------


def coloured(classes: int, each: int = 6) -> tuple[Tensor, list[str]]:
    """Noisy pictures of `classes` plain colours, and their labels."""
    generator = torch.Generator().manual_seed(0)
    colours = torch.rand(classes, 3, 1, 1, generator=generator)
    images = colours.repeat_interleave(each, 0).expand(-1, -1, 8, 8)
    images = (images + 0.3 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    return images, [f"class {i}" for i in range(classes) for _ in range(each)]


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_a_trained_head_agrees_with_scikit_learn(classes: int) -> None:
    base = random_net(scale=1.0)
    images, labels = coloured(classes)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    images, labels = images[order], [labels[i] for i in order]
    classifier = train_head(base, images, labels, c=2.0)
    vectors = base.features(images).mean((2, 3)).double()
    vectors = (vectors / vectors.norm(dim=1).mean()).numpy()
    model = LogisticRegression(C=2.0, max_iter=2000, tol=1e-6).fit(vectors, labels)
    assert classifier.labels == list(model.classes_) == sorted(set(labels))
    assert np.allclose(classifier.probabilities(images).numpy(), model.predict_proba(vectors), atol=1e-4)
    assert_frozen(classifier)


def test_a_trained_head_learns() -> None:
    """It has to tell colours apart that it has not seen exactly so."""
    base = red_reader((1.0, 0.0), (-1.0, 255.0))  # how red, and how little so
    images = picture(20.0, 40.0, 60.0, 190.0, 210.0, 230.0)
    classifier = train_head(base, images, ["dark"] * 3 + ["light"] * 3)
    assert [answer[0][0] for answer in classifier.predict(picture(30.0, 50.0, 200.0, 240.0))] == [
        "dark", "dark", "light", "light",
    ]  # fmt: skip


def test_a_trained_head_takes_features_that_are_known() -> None:
    base, (images, labels) = random_net(), coloured(3)
    features = embed(base, images)
    base.body.register_forward_pre_hook(lambda *_: pytest.fail("the features were computed again"))
    known = train_head(base, images, labels, features=features)
    means = features.unflatten(1, base.feature_shape).mean((2, 3))
    averaged = train_head(base, images, labels, features=means)
    base.body._forward_pre_hooks.clear()
    assert torch.allclose(averaged.probabilities(images), known.probabilities(images), atol=1e-4)
    assert torch.equal(known.probabilities(images), train_head(base, images, labels).probabilities(images))
    with pytest.raises(ValueError, match="18 images but features of 17; give embed"):
        train_head(base, images, labels, features=features[1:])


def flat(*ends: nn.Module) -> Base:
    """A base whose features are flat (8,), or what `ends` make of them."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Base(body, nn.Sequential(nn.ReLU(), *ends), size=8, name="flat")


def test_a_trained_head_takes_flat_features_as_they_are() -> None:
    base, (images, labels) = flat(), coloured(3)
    classifier = train_head(base, images, labels)
    assert torch.equal(classifier(images), classifier.head[-1](base.features(images)))
    assert [row[0][0] for row in classifier.predict(images)] == labels
    assert classifier.blank().shape == (3,)


@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 2, 1)])
def test_features_that_are_no_maps_are_refused_before_work(shape: tuple[int, ...]) -> None:
    base, (images, labels) = flat(nn.Unflatten(1, shape)), coloured(2)
    base.body.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=r"features of flat have shape \(.*, so give a base"):
        train_head(base, images, labels)


def test_maps_with_channels_last_are_averaged_over_positions() -> None:
    """As in Swin."""
    images, labels = coloured(3)
    first, last = (Base(nn.Conv2d(3, 5, 3), end, size=8) for end in (nn.ReLU(), nn.Sequential(nn.ReLU(), ToLast())))
    last.body = first.body
    wanted, found = (train_head(base, images, labels) for base in (first, last))
    assert last.feature_shape == (6, 6, 5) and found.head[-1].in_features == 5
    assert torch.allclose(found(images), wanted(images), atol=1e-3)


class ToLast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


def test_a_trained_head_gives_all_blind_pictures_its_biases() -> None:
    images, labels = coloured(3)
    base = corridor(100.5, 130.5)
    classifier = train_head(base, images, labels)
    linear = classifier.head[-1]
    assert torch.equal(classifier.probabilities(picture(115.0))[0], classifier.blank())
    assert torch.allclose(classifier.blank(), linear.bias.softmax(0))


@pytest.mark.parametrize(
    "number, labels, message",
    [
        (3, ["a", "b"], "3 images but 2 labels; give one label per image"),
        (3, ["a", "a", "a"], "all labels are the same.*at least two classes"),
    ],
)
def test_train_head_refuses(number: int, labels: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_head(random_net(), noise(number), labels)


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_embed_goes_in_batches_and_keeps_the_order(batch: int) -> None:
    base, images = random_net(), noise(5)
    found = embed(base, images, batch)
    assert found.shape == (5, math.prod(base.feature_shape))
    assert torch.allclose(found, base.features(images).flatten(1), atol=1e-5)
    assert not found.requires_grad
