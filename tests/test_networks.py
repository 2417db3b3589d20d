"""Bases, heads, networks of timm and transfer learning."""

import copy
import math

import numpy as np
import pytest
import timm
import torch
from nets import SIZE, lowering, noise, picture, random_net
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from helpers import weights
from helpers.base import check_base
from helpers.networks import Base, Classifier, embed, from_timm, train_head
from helpers.splitting import TruncatedModule


def assert_frozen(network: nn.Module) -> None:
    assert list(network.parameters())
    assert not any(p.requires_grad for p in network.parameters())
    assert not any(module.training for module in network.modules())
    assert not any(getattr(module, "inplace", False) for module in network.modules())


# --- the two bundled networks -----------------------------------------------------------------


def test_vgg16_reads_pictures_as_it_was_trained(vgg: Base, albatross: Tensor) -> None:
    """Against the Caffe recipe by hand: times 255, minus the mean of red, green, blue."""
    assert_frozen(vgg)
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    with torch.no_grad():
        wanted = vgg.body(albatross * 255 - mean)
        z, features = vgg.pre_activations(albatross), vgg.features(albatross)
    assert z.shape == (1, 512, 14, 14) and torch.allclose(z, wanted, atol=1e-4 * wanted.abs().max().item())
    assert torch.equal(features, F.max_pool2d(z.relu(), 2)) and math.prod(vgg.feature_shape) == 25_088
    assert vgg.threshold == 0 and vgg.sha256 == weights.VGG16_BASE.digest


def test_lite0_reads_pictures_as_it_was_trained(lite0: Classifier, albatross: Tensor) -> None:
    assert_frozen(lite0)
    with torch.no_grad():
        z, features = lite0.base.pre_activations(albatross), lite0.base.features(albatross)
        wanted = lite0.head.model((albatross * 255 - 127) / 128)
    assert torch.equal(features, z.clamp(0, 6)) and math.prod(lite0.base.feature_shape) == 62_720
    assert torch.allclose(lite0(albatross), wanted, atol=1e-4)
    label, probability = lite0.predict(albatross)[0][0]
    assert label == "albatross" and probability > 0.9
    biases = lite0.head.model.get_classifier().bias.softmax(0)
    assert torch.allclose(lite0.blank(), biases, atol=1e-7), "zero features leave the biases alone"
    assert len(lite0.labels) == 1000 and lite0.labels[0] == "tench"
    assert all(label and "," not in label for label in lite0.labels)


# --- Base ---------------------------------------------------------------------------------------


def test_a_base_freezes_what_it_is_given() -> None:
    base = random_net()
    assert_frozen(base)
    before = base.pre_activations(noise())
    base.features(noise())
    assert before.min() < 0, "an in-place ReLU has overwritten the pre-activations"


@pytest.mark.parametrize("mean", [np.array([0.25] * 3), [np.float64(0.25)] * 3, 0.25])
def test_the_normalisation_may_be_any_kind_of_numbers(mean: object) -> None:
    base = Base(nn.Identity(), nn.ReLU(), mean=mean, std=(1, 1, 1), size=SIZE)
    assert base.mean.dtype == base.std.dtype == torch.float32
    assert torch.equal(base.pre_activations(noise()), noise() - 0.25)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mean": None}, "mean is None; give three numbers"),
        ({"mean": (123.68, 116.78, 103.94)}, r"mean is \(123\.68, .*in units of \[0, 1\], .*divide.*by 255"),
        ({"mean": (0.5, 0.5)}, r"mean is .*; give three numbers .*when the network normalises by itself"),
        ({"std": (0, 0, 0)}, r"std is \(0, 0, 0\); give three numbers"),
        ({"size": "8"}, "size is '8'; give one whole number"),
        ({"size": (8, 8)}, r"size is \(8, 8\); give one whole number"),
    ],
)
def test_each_bad_argument_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Base(nn.Identity(), nn.ReLU(), **settings)


@pytest.mark.parametrize(
    "rest, threshold",
    [
        (nn.Sequential(nn.ReLU6(), nn.MaxPool2d(2)), 0.0),
        (nn.Hardswish(), -3.0),
        (nn.GELU(), None),
        (nn.Sequential(nn.ReLU(), nn.Sigmoid()), None),
    ],
    ids=lambda value: str(value)[:24],
)
def test_the_threshold_is_where_features_become_exactly_zero(rest: nn.Module, threshold: float | None) -> None:
    base = Base(nn.Conv2d(3, 1, 1), rest, size=SIZE)
    assert base.threshold == threshold
    if threshold is not None:
        below = torch.full((1, 1, SIZE, SIZE), threshold)
        assert not rest(below).any() and rest(below + 0.2).all()


def test_a_base_is_made_in_the_precision_of_its_body() -> None:
    base = Base(nn.Conv2d(3, 2, 1).double(), nn.ReLU(), size=SIZE)
    assert base.features(noise()).dtype == torch.float64  # of float32 images
    with pytest.raises(ValueError, match=r"computes in torch\.float64; call base\.float\(\)"):
        check_base(base)
    assert copy.deepcopy(random_net()).double().features(noise()).dtype == torch.float64


def test_the_digest_follows_weights_that_change() -> None:
    base = Base(nn.Conv2d(3, 2, 1), nn.ReLU(), size=SIZE, sha256="that of a file")
    assert base.sha256 == base.double().sha256 == "that of a file"
    weight = base.body.weight.clone()
    base.body.weight.mul_(2)
    changed = base.sha256
    assert changed not in ("", "that of a file") and changed == base.sha256
    base.body.weight.copy_(weight)
    assert base.sha256 == "that of a file"


def test_images_that_a_network_cannot_read_are_named() -> None:
    base = Base(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 2)), nn.ReLU(), size=SIZE, name="tiny")
    with pytest.raises(ValueError, match=r"tiny cannot read images of 4 x 4 .*; give 8 x 8"):
        base.features(noise(size=4))


# --- Classifier ---------------------------------------------------------------------------------


def classifier_on(base: Base) -> Classifier:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        head = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(base.feature_shape), 4))
    return Classifier(base, head, ["ant", "bee", "cat", "dog"])


def test_predictions_are_ordered_and_belong_to_their_labels() -> None:
    classifier, x = classifier_on(random_net()), noise(3)
    for row, answer in zip(classifier(x).softmax(1), classifier.predict(x, top=3), strict=True):
        assert [p for _, p in answer] == sorted(row.tolist(), reverse=True)[:3]
        assert dict(answer).items() <= dict(zip(classifier.labels, row.tolist(), strict=True)).items()
    assert len(classifier.predict(x, top=10)[0]) == 4
    with pytest.raises(ValueError, match=r"from 0 to 255; give \[0, 1\], before normalisation"):
        classifier.predict(x / x.max() * 255)


def test_zeroed_pictures_get_the_blank_prediction() -> None:
    """Zero features leave head(0), to the last bit, whatever the picture shows."""
    classifier = classifier_on(lowering(90.5))
    for dark in (picture(0.0), picture(90.0), noise() * 80 / 255):
        assert torch.equal(classifier.probabilities(dark)[0], classifier.blank())
    assert not torch.equal(classifier.probabilities(picture(92.0))[0], classifier.blank())


# --- any network that timm knows ----------------------------------------------------------------

# name, outputs, threshold: small networks that end in a ReLU, a Hardswish and a LayerNorm
TIMM = [("test_resnet", (96, 5, 5), 0.0), ("mobilenetv3_small_050", (288, 7, 7), -3.0), ("test_vit", (101, 64), None)]


@pytest.mark.parametrize("name, shape, threshold", TIMM)
def test_from_timm_splits_at_the_last_activation(name: str, shape: tuple[int, ...], threshold: float | None) -> None:
    classifier = from_timm(name)
    base, model = classifier.base, classifier.head.model
    assert_frozen(classifier)
    assert base.feature_shape == shape and base.threshold == threshold
    x, cfg = noise(2, size=base.size), model.pretrained_cfg
    normalised = (x - torch.tensor(cfg["mean"]).view(1, 3, 1, 1)) / torch.tensor(cfg["std"]).view(1, 3, 1, 1)
    with torch.no_grad():
        assert torch.allclose(base.features(x), model.forward_features(normalised), atol=1e-4)
        assert torch.allclose(classifier(x), model(normalised), atol=1e-4)
    assert isinstance(base.rest, nn.Identity) if threshold is None else base.pre_activations(x).min() < 0


def test_from_timm_leaves_timms_weights_as_they_are() -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(3)
        wanted = timm.create_model("test_resnet", num_classes=7).state_dict()
    state = torch.get_rng_state()
    found = from_timm("test_resnet", seed=3, num_classes=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(found.head.model.state_dict()[k], v) for k, v in wanted.items())
    assert found.labels == [str(i) for i in range(7)]


def test_from_timm_reads_pictures_of_the_size_it_is_asked_for() -> None:
    base = from_timm("test_vit", img_size=32, dynamic_img_size=False).base
    assert base.size == 32 and base.features(noise(size=32)).shape == (1, *base.feature_shape)


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("resnet_18", {}, r"cannot make 'resnet_18' .*; names are in timm\.list_models\(\)"),
        ("resnet10t", {"img_size": 64}, "cannot make 'resnet10t' with .*'img_size'"),
        ("test_vit", {"img_size": (32, 48)}, r"size is \(32, 48\); give one whole number of pixels"),
        ("resnet10t", {"in_chans": 1}, r"cannot make 'resnet10t' with {'in_chans': 1} \(.*3 channels"),
        ("resnet10t", {"features_only": True}, "cannot make 'resnet10t' with {'features_only': True}"),
    ],
)
def test_from_timm_names_what_cannot_be_made(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_timm(name, **settings)


def test_trained_weights_without_the_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **_: object) -> nn.Module:
        assert name == "hf-hub:timm/resnet18.a1_in1k"
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", create)
    with pytest.raises(ValueError, match=r"\(no route\); .*trained weights need the Internet"):
        from_timm("timm/resnet18.a1_in1k")


def test_a_layer_to_split_at_that_does_not_run_says_so() -> None:
    model = nn.ModuleList([nn.Conv2d(3, 1, 1), nn.ReLU()])
    with pytest.raises(RuntimeError, match="did not run"):
        TruncatedModule(model[0], model, model[1], 1, SIZE)(noise())


# --- transfer learning --------------------------------------------------------------------------


def coloured(classes: int, each: int = 6) -> tuple[Tensor, list[str]]:
    """Noisy pictures of `classes` plain colours, in a random order, and their labels."""
    generator = torch.Generator().manual_seed(0)
    places = torch.arange(classes).repeat(each)[torch.randperm(classes * each, generator=generator)]
    images = torch.rand(classes, 3, 1, 1, generator=generator)[places].expand(-1, -1, SIZE, SIZE)
    images = (images + 0.3 * torch.rand(images.shape, generator=generator)).clamp(0, 1)
    return images, [f"class {i}" for i in places.tolist()]


@pytest.mark.parametrize("classes", [2, 3])
def test_a_trained_head_agrees_with_scikit_learn(classes: int) -> None:
    base, (images, labels) = random_net(scale=1.0), coloured(classes)
    classifier = train_head(base, images, labels, c=2.0)
    vectors = base.features(images).mean((2, 3)).double()
    vectors = (vectors / vectors.norm(dim=1).mean()).numpy()
    model = LogisticRegression(C=2.0, max_iter=2000, tol=1e-6).fit(vectors, labels)
    assert classifier.labels == list(model.classes_) == sorted(set(labels))
    assert np.allclose(classifier.probabilities(images).numpy(), model.predict_proba(vectors), atol=1e-4)
    assert_frozen(classifier)


def test_a_trained_head_takes_features_that_are_known() -> None:
    base, (images, labels) = random_net(), coloured(3)
    wanted = train_head(base, images, labels).probabilities(images)
    features = embed(base, images)
    means = features.unflatten(1, base.feature_shape).mean((2, 3))
    hook = base.body.register_forward_pre_hook(lambda *_: pytest.fail("the features were computed again"))
    known, averaged = (train_head(base, images, labels, features=given) for given in (features, means))
    hook.remove()
    assert torch.equal(known.probabilities(images), wanted)
    assert torch.allclose(averaged.probabilities(images), wanted, atol=1e-4)


def flat(*ends: nn.Module) -> Base:
    """A base whose features are flat (8,), or what `ends` make of them."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Base(body, nn.Sequential(nn.ReLU(), *ends), size=SIZE, name="flat")


def test_a_trained_head_takes_flat_features_as_they_are() -> None:
    base, (images, labels) = flat(), coloured(3)
    classifier = train_head(base, images, labels)
    assert torch.equal(classifier(images), classifier.head[-1](base.features(images)))
    assert [row[0][0] for row in classifier.predict(images)] == labels


def test_features_that_are_no_maps_are_refused_before_work() -> None:
    base, (images, labels) = flat(nn.Unflatten(1, (4, 2))), coloured(2)  # tokens (N, T, C), as in a ViT
    base.body.register_forward_pre_hook(lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match=r"features of flat have shape \(4, 2\); .*, so give a base"):
        train_head(base, images, labels)


def test_embed_goes_in_batches_and_keeps_the_order() -> None:
    base, images = random_net(), noise(5)
    found = embed(base, images, batch=2)
    assert torch.allclose(found, base.features(images).flatten(1), atol=1e-5) and not found.requires_grad
