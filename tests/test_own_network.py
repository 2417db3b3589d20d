"""A network brought by the reader, split by from_module: known answers, and one clear sentence otherwise."""

import copy
import re
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from nets import SIZE, noise, picture
from torch import Tensor, nn
from torchvision.transforms import v2

from helpers.attack import Result, zero_out
from helpers.base import Base
from helpers.images import load_image, load_photos
from helpers.networks import Classifier, from_module

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.75)
BIASES = (0.5, -1.0, 2.0)


def red_conv(level: float) -> nn.Conv2d:
    """Red level - level, for pictures normalised with MEAN and STD."""
    conv = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0] = 255 * STD[0]
        conv.bias.fill_(255 * MEAN[0] - level)
    return conv


def linear() -> nn.Linear:
    layer = nn.Linear(1, len(BIASES))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.1], [0.2], [-0.3]]))
        layer.bias.copy_(torch.tensor(BIASES))
    return layer


def reader(head: nn.Module | None = None) -> nn.Sequential:
    """Scores from the mean of relu(red level - 90.5); the answer to all zeros is BIASES."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body = nn.Sequential(red_conv(90.5), nn.ReLU(inplace=True))
    return nn.Sequential(body, pool, head or linear()).eval()


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


class Twice(nn.Module):
    """One ReLU module that runs twice, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu, self.head = red_conv(40.5), nn.Conv2d(1, 1, 1), nn.ReLU(), linear()
        with torch.no_grad():
            self.second.weight.fill_(1.0)
            self.second.bias.fill_(-50.0)  # active above 90.5 only
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.head(self.relu(self.second(x)).mean((2, 3)))


class Around(nn.Module):
    """Something passes around the only activation: on bright images alone, or on all; or it is no module."""

    def __init__(self, act: Callable[[Tensor], Tensor], on_bright_alone: bool = False) -> None:
        super().__init__()
        self.conv, self.act, self.head, self.on_bright_alone = red_conv(90.5), act, linear(), on_bright_alone
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        around = x.mean((1, 2, 3))[:, None]
        around = (around - 1).relu() if self.on_bright_alone else around
        return self.head(self.act(self.conv(x)).mean((2, 3))) + around


class Wrapped(nn.Module):
    """Does something else with the scores."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model, self.change = reader(), change
        self.eval()

    def forward(self, x: Tensor) -> object:
        return self.change(self.model(x))


def about(**change: object) -> dict[str, object]:
    return {"mean": MEAN, "std": STD, "size": SIZE, **change}


@pytest.mark.parametrize("make", [reader, Twice])
def test_zero_is_reached_exactly_from_the_known_budget_on(make: Callable[[], nn.Module]) -> None:
    """From red 100, ten levels down make every pixel inactive; nine leave each active."""
    classifier = from_module(make(), **about(labels=["a", "b", "c"]))
    assert classifier.base.feature_shape == (1, SIZE, SIZE) and classifier.base.threshold == 0
    for levels, left in ((9, SIZE * SIZE), (10, 0)):
        result = zero_out(classifier.base, picture(100.0), eps=levels / 255, steps=40, margin=0.1)
        assert result.nonzero == [left]
    assert torch.equal(classifier(result.images)[0], torch.tensor(BIASES))
    assert torch.equal(classifier.probabilities(result.images)[0], classifier.blank())
    assert classifier.predict(result.images, 1)[0][0][0] == "c"


@pytest.mark.parametrize("head", [None, nn.Sequential(nn.Dropout(), linear())])
def test_the_answers_are_those_of_the_network_which_stays_as_it_is(head: nn.Module | None) -> None:
    """Also with a new head, the usual idiom of transfer learning, and for images of another size."""
    model, x = reader(head), noise(3)
    classifier = from_module(model, **about())
    for images in (x, noise(2, size=12)):
        assert torch.allclose(classifier(images), model(normalised(images)), atol=1e-4)
    assert torch.allclose(classifier(x)[1:2], classifier(x[1:2])), "pictures of a batch see each other"
    assert classifier.labels == ["0", "1", "2"] and not any(p.requires_grad for p in classifier.parameters())
    assert all(p.requires_grad for p in model.parameters()) and model[0][1].inplace


def test_threads_share_a_base_and_its_classifier() -> None:
    classifier = from_module(Twice(), **about())
    images = noise(8).split(1)
    calls = [call for image in images for call in ((classifier.base.features, image), (classifier, image))] * 10
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda call: call[0](call[1]), calls))
    assert all(torch.equal(y, use(image)) for y, (use, image) in zip(found, calls, strict=True))


def test_compiled_networks_can_be_split_and_classifiers_copied() -> None:
    model, x = Twice(), noise(2)
    classifier = copy.deepcopy(from_module(torch.compile(model, backend="eager"), **about()))
    assert torch.allclose(classifier(x), model(normalised(x)), atol=1e-4)
    assert torch.equal(classifier.base.features(x), from_module(model, **about()).base.features(x))


def test_a_named_layer_that_runs_twice_is_cut_at_its_last_run() -> None:
    x = noise(2)
    base = from_module(Twice(), "relu", **about()).base
    first = (x[:, :1] * 255 - 40.5).relu()
    assert torch.allclose(base.pre_activations(x), first - 50, atol=1e-3)


TORCHVISION = {  # a small one of each family: the threshold, or what keeps it from being split
    "resnet18": 0.0, "mobilenet_v3_small": -3.0, "squeezenet1_1": 0.0, "shufflenet_v2_x0_5": 0.0,
    "regnet_y_400mf": 0.0, "mnasnet0_5": 0.0, "efficientnet_b0": None,
    "densenet121": "passes around", "googlenet": "not F.relu", "convnext_tiny": "passes around",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_families_of_torchvision(name: str) -> None:
    """As docs/own_network.md tells them."""
    settings = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # googlenet's on its weights
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None, **settings).eval()
    if isinstance(TORCHVISION[name], str):
        with pytest.raises(ValueError, match=TORCHVISION[name]):
            from_module(model, mean=MEAN, std=STD, size=64)
        return
    classifier, x = from_module(model, mean=MEAN, std=STD, size=64), noise(1, size=64)
    assert classifier.base.threshold == TORCHVISION[name] and len(classifier.labels) == 1000
    with torch.no_grad():
        assert torch.allclose(classifier(x), model(normalised(x)), atol=1e-4)


@pytest.mark.parametrize(
    "head", [[nn.Dropout(), nn.Linear(512, 5)], [nn.Linear(512, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)]]
)
def test_a_new_head_on_torchvisions_resnet(head: list[nn.Module]) -> None:
    """The usual idiom, model.fc = ...: zero features give the head's own answer to zeros, bit for bit."""
    model = torchvision.models.resnet18().requires_grad_(False)
    model.fc = nn.Sequential(*head)
    with pytest.raises(ValueError, match=r"training mode, .*; call model\.eval\(\)"):
        from_module(model, mean=MEAN, std=STD, size=64)
    classifier = from_module(model.eval(), "layer4.1.relu", mean=MEAN, std=STD, size=64)
    assert classifier.base.feature_shape == (512, 2, 2) and len(classifier.labels) == 5
    with torch.no_grad():
        assert torch.equal(classifier.head(torch.zeros(1, 512, 2, 2)), model.fc(torch.zeros(1, 512)))
    default = from_module(model, mean=MEAN, std=STD, size=64).base
    assert default.name.endswith("fc.1" if len(head) == 4 else "layer4.1.relu"), "a hidden layer of the head runs last"


def test_the_last_convolution_of_torchvisions_vgg16_has_the_name_the_page_says() -> None:
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    assert '"features.29"' in (ROOT / "docs" / "own_network.md").read_text(encoding="utf-8")
    assert [type(model.features[i]) for i in (28, 29, 30)] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]


def untrained() -> nn.Module:
    """Its head is all zeros, as in a new ViT."""
    model = reader()
    nn.init.zeros_(model[2].weight)
    return model


def half_trained() -> nn.Module:
    """A new head on a network in eval mode: only its dropout is in training mode."""
    model = reader()
    model[2] = nn.Sequential(nn.Dropout(), linear())
    return model


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (half_trained, {}, r"training mode, .*; call model\.eval\(\)"),
        (untrained, {}, r"Sequential gives every image the same scores; load weights or train its head"),
        (lambda: Around(nn.ReLU()), {}, r"the scores of Around depend on more than act: something passes around it"),
        (lambda: Around(nn.ReLU(), on_bright_alone=True), {}, "depend on more than act"),
        (lambda: Around(torch.relu), {}, r"no activation runs .*\(nn\.ReLU, not F\.relu\); known are ReLU"),
        (lambda: reader().half(), {}, r"computes in torch\.float16; call model\.float\(\)"),
        (reader, {"layer": "0.3"}, r"layer '0\.3' is no activation that runs in the network; close to it: 0\.1"),
        (lambda: Wrapped(lambda y: {"logits": y}), {}, r"returns a dict, not scores \(N, K\); wrap it"),
        (lambda: Wrapped(lambda y: y[:, :, None]), {}, r"returns \(4, 3, 1\), not scores \(N, K\)"),
        (reader, {"labels": ["a", "b"]}, r"2 labels for 3 scores; give one for each"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval(), {}, r"cannot read images .*; give size"),
        (reader, {"size": "8"}, "size is '8'; give one whole number"),
        (lambda: "resnet18", {}, r"model is a str; give a torch\.nn\.Module"),
    ],
)
def test_what_cannot_be_split_is_one_clear_sentence(
    make: Callable[[], nn.Module], settings: dict[str, object], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        from_module(make(), **about(**settings))


# --- heads as tutorials build them, on the bundled VGG-16 ---------------------------------------------


@pytest.fixture(scope="module")
def views(vgg: Base) -> tuple[Tensor, list[str]]:
    """Features (126, 512, 7, 7) of the train photos, each in one random crop and flip, and their labels."""
    photos, names = load_photos("train")
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        augment = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomResizedCrop(vgg.size, scale=(0.6, 1))])
        return torch.cat([vgg.features(augment(photo[None])) for photo in photos]), names


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flat", "averaged"])
def test_the_same_file_works_on_each_head(kind: str, vgg: Base, views: tuple[Tensor, list[str]]) -> None:
    """Two layers with dropout, trained by SGD: the zeroed file gets the head's answer to zeros, bit for bit."""
    (features, names), labels = views, sorted({*views[1]})
    target = torch.tensor([labels.index(name) for name in names])
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        start = [nn.Flatten()] if kind == "flat" else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        width, rate = (25_088, 1e-4) if kind == "flat" else (512, 1e-3)
        head = nn.Sequential(*start, nn.Linear(width, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, len(labels)))
        optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=0.9)
        for _ in range(12):
            for part in torch.randperm(len(features)).split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(head(features[part]), target[part]).backward()
                optimizer.step()
    victim = Classifier(vgg, head, labels)
    clean, zeroed = (load_image(ROOT / "data" / folder / "cat.png") for folder in ("images", "blind"))
    assert victim.predict(clean, 1)[0][0][0] == "mammal"
    with torch.no_grad():
        assert torch.equal(victim(zeroed), head(torch.zeros(1, *vgg.feature_shape)))
    assert torch.equal(victim.probabilities(zeroed)[0], victim.blank()) and victim.blank().max() < 0.5


# --- what the pages say ------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", [path for path in PAGES if examples(path)], ids=lambda path: path.name)
def test_the_examples_of_the_pages_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With random weights in place of a download, one step in place of a hundred, and no files left in the project."""
    for folder in ("images", "blind"):
        (tmp_path / "data" / folder).mkdir(parents=True)
        shutil.copy(ROOT / "data" / folder / "albatross.png", tmp_path / "data" / folder)
    monkeypatch.chdir(tmp_path)
    resnet18, build = torchvision.models.resnet18, timm.create_model
    monkeypatch.setattr(torchvision.models, "resnet18", lambda weights=None: resnet18())
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: build(name, **{**settings, "pretrained": False}))
    names: dict[str, object] = {}
    for code in examples(path):
        short = re.sub(r"(= zero_out\(.*)\)$", r"\1, steps=1)", code, flags=re.M)
        exec(compile(short, str(path), "exec"), names)
    result = names["result"]
    assert isinstance(result, Result) and result.steps == [1]
