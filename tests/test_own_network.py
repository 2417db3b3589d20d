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

from helpers.attack import Result, zero_out
from helpers.networks import from_module

ROOT = Path(__file__).resolve().parents[1]
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.75)
BIASES = (0.5, -1.0, 2.0)


def red_conv(slope: float, level: float) -> nn.Conv2d:
    """slope * (red level - level), for pictures normalised with MEAN and STD."""
    conv = nn.Conv2d(3, 1, 1)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0] = slope * 255 * STD[0]
        conv.bias.fill_(slope * (255 * MEAN[0] - level))
    return conv


def linear(inputs: int = 1) -> nn.Linear:
    layer = nn.Linear(inputs, len(BIASES))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor(BIASES))
    return layer


def reader(level: float = 90.5) -> nn.Sequential:
    """Scores from the mean of relu(red level - level); the answer to all zeros is BIASES."""
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    body = nn.Sequential(red_conv(1.0, level), nn.ReLU(inplace=True))
    return nn.Sequential(body, pool, linear()).eval()


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


class Twice(nn.Module):
    """One ReLU module that runs twice, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu, self.head = red_conv(1.0, 40.5), nn.Conv2d(1, 1, 1), nn.ReLU(), linear()
        with torch.no_grad():
            self.second.weight.fill_(1.0)
            self.second.bias.fill_(-50.0)  # awake above 90.5 only

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        return self.head(self.relu(self.second(x)).mean((2, 3)))


class Around(nn.Module):
    """Something passes around the last activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = red_conv(1.0, 90.5), nn.ReLU(), linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.act(self.conv(x)) + x[:, :1]).mean((2, 3)))


class SilentBranch(Around):
    """What passes around the activation shows on bright images only."""

    def forward(self, x: Tensor) -> Tensor:
        bright = (normalised(x.new_ones(1, 3, 1, 1))[:, :1] - x[:, :1]).mean((2, 3)) < 0.1
        return self.head(self.act(self.conv(x)).mean((2, 3))) + bright


class Wrapped(nn.Module):
    """Does something else with the scores."""

    def __init__(self, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.model, self.change = reader(), change

    def forward(self, x: Tensor) -> object:
        return self.change(self.model(x))


class Functional(nn.Module):
    """No activation module at all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = red_conv(1.0, 90.5), linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


def untrained() -> nn.Module:
    """Its head is all zeros, as in a new ViT."""
    model = reader()
    nn.init.zeros_(model[2].weight)
    return model


def dropout_head() -> nn.Module:
    """The usual idiom of transfer learning: a new head on a network in eval mode."""
    model = reader()
    model[2] = nn.Sequential(nn.Dropout(), linear())
    return model


def about(**change: object) -> dict[str, object]:
    return {"mean": MEAN, "std": STD, "size": SIZE, **change}


@pytest.mark.parametrize("make", [reader, Twice])
@pytest.mark.parametrize("eps", [9, 10])
def test_zero_is_reached_exactly_from_the_known_budget_on(make: Callable[[], nn.Module], eps: int) -> None:
    """From red 100, ten levels down are silent; nine leave every pixel awake."""
    classifier = from_module(make().eval(), **about(labels=["a", "b", "c"]))
    assert classifier.base.feature_shape == (1, SIZE, SIZE) and classifier.base.threshold == 0
    result = zero_out(classifier.base, picture(100.0), eps=eps / 255, steps=40, margin=0.1)
    assert result.nonzero == [0 if eps == 10 else SIZE * SIZE]
    if eps == 10:
        assert torch.equal(classifier.probabilities(result.images)[0], classifier.blank())
        assert torch.equal(classifier(result.images)[0], torch.tensor(BIASES))
        assert classifier.predict(result.images, 1)[0][0][0] == "c"


@pytest.mark.parametrize("layer", [None, "0.1"])
def test_the_answers_are_those_of_the_network(layer: str | None) -> None:
    model, x = reader(), noise(3)
    classifier = from_module(model, layer, **about())
    assert torch.allclose(classifier(x), model(normalised(x)), atol=1e-4)
    assert classifier.labels == ["0", "1", "2"] and not any(p.requires_grad for p in classifier.parameters())
    assert torch.equal(classifier(x)[1:2], classifier(x[1:2])), "pictures of a batch do not see each other"


def test_threads_share_a_base_and_its_classifier() -> None:
    classifier = from_module(Twice().eval(), **about())
    images = noise(8).split(1)
    calls = [call for image in images for call in ((classifier.base.features, image), (classifier, image))] * 10
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda call: call[0](call[1]), calls))
    assert all(torch.equal(y, use(image)) for y, (use, image) in zip(found, calls, strict=True))


@pytest.mark.parametrize("change", [lambda m: torch.compile(m, backend="eager"), copy.deepcopy])
def test_compiled_and_copied_networks_can_be_split(change: Callable[[nn.Module], nn.Module]) -> None:
    model, x = Twice().eval(), noise(2)
    classifier = copy.deepcopy(from_module(change(model), mean=0, std=1, size=SIZE))
    assert torch.allclose(classifier(x), model(x), atol=1e-4)
    assert torch.equal(classifier.base.features(x), from_module(model, mean=0, std=1, size=SIZE).base.features(x))


@pytest.mark.parametrize("activation", [nn.PReLU, nn.CELU, nn.Tanh, nn.Softplus, nn.Hardsigmoid])
def test_activations_without_a_zero_part_split_too(activation: type[nn.Module]) -> None:
    model = reader()
    model[0][1] = activation().eval()
    base = from_module(model, **about()).base
    assert base.threshold == (-3 if activation is nn.Hardsigmoid else None)


def test_a_named_layer_that_runs_twice_is_cut_at_its_last_run() -> None:
    model, x = Twice().eval(), noise(2)
    base = from_module(model, "relu", **about()).base
    first = (x[:, :1] * 255 - 40.5).relu()
    assert torch.allclose(base.pre_activations(x), first - 50, atol=1e-3)


@pytest.mark.parametrize("name, shape", [("resnet18", (512, 7, 7)), ("mobilenet_v3_small", (1024,))])
def test_networks_of_torchvision(name: str, shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)(weights=None).eval()
    classifier = from_module(model, mean=MEAN, std=STD)
    assert classifier.base.feature_shape == shape and len(classifier.labels) == 1000
    x = noise(1, size=224)
    with torch.no_grad():
        assert torch.allclose(classifier(x), model(normalised(x)), atol=1e-4)
    assert classifier.blank().isfinite().all()


TORCHVISION = {  # a small one of each family, and what keeps it from being split
    "alexnet": "", "efficientnet_b0": "", "mnasnet0_5": "", "mobilenet_v2": "", "regnet_y_400mf": "",
    "shufflenet_v2_x0_5": "", "squeezenet1_1": "",
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
    if TORCHVISION[name]:
        with pytest.raises(ValueError, match=TORCHVISION[name]):
            from_module(model, mean=MEAN, std=STD, size=64)
    else:
        base = from_module(model, mean=MEAN, std=STD, size=64).base
        assert (base.threshold == 0) == (name != "efficientnet_b0")


def test_the_last_convolution_of_torchvisions_vgg16_has_the_name_the_page_says() -> None:
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    assert '"features.29"' in (ROOT / "docs" / "own_network.md").read_text(encoding="utf-8")
    assert [type(model.features[i]) for i in (28, 29, 30)] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]


def test_other_sizes_of_pictures_where_the_network_takes_them() -> None:
    classifier = from_module(reader(), **about())
    assert classifier(noise(2, size=12)).shape == (2, 3)


def half() -> nn.Module:
    return reader().half()


@pytest.mark.parametrize(
    "make, settings, message",
    [
        (dropout_head, {}, r"training mode, .*; call model\.eval\(\)"),
        (untrained, {}, r"Sequential gives every image the same scores; load weights or train its head"),
        (SilentBranch, {}, r"depend on more than act: something passes around it"),
        (half, {}, r"computes in torch\.float16; call model\.float\(\)"),
        (reader, {"layer": "0.3"}, r"layer '0\.3' does not exist; close to it: 0\.1"),
        (reader, {"layer": "features.relu"}, r"does not exist; close to it: 0\.1"),
        (reader, {"layer": "0"}, r"layer '0' is a Sequential, no activation; close to it: 0\.1"),
        (Functional, {}, r"no activation runs in it as a module \(nn\.ReLU, not F\.relu\); known are ReLU"),
        (Functional, {"layer": "relu"}, r"close to it: none, the network has none"),
        (Around, {}, r"the scores of Around depend on more than act: something passes around it"),
        (lambda: Wrapped(lambda y: {"logits": y}), {}, r"returns a dict; wrap it so that it returns scores \(N, K\)"),
        (lambda: Wrapped(lambda y: y[:, :, None]), {}, r"returns \(4, 3, 1\), not scores \(N, K\)"),
        (reader, {"labels": ["a", "b"]}, r"2 labels for 3 scores; give one for each"),
        (reader, {"mean": (123.68, 116.78, 103.94)}, r"mean is \(123\.68, .*in units of \[0, 1\], .*divide.*by 255"),
        (reader, {"std": (0, 0, 0)}, r"std is \(0, 0, 0\); give three numbers"),
        (reader, {"mean": (0.5, 0.5)}, r"mean is .*; give three numbers .*when the network normalises by itself"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()), {}, r"cannot read images .*; give size"),
    ],
)
def test_what_cannot_be_split_is_one_clear_sentence(
    make: Callable[[], nn.Module], settings: dict[str, object], message: str
) -> None:
    model = make() if make is dropout_head else make().eval()
    with pytest.raises(ValueError, match=message):
        from_module(model, **about(**settings))


def test_the_network_given_stays_as_it_is() -> None:
    model = reader()
    classifier = from_module(model, mean=MEAN, std=STD, size=SIZE)
    assert all(p.requires_grad for p in model.parameters()) and model[0][1].inplace
    assert not any(p.requires_grad for p in classifier.parameters())


def test_a_layer_that_does_not_run_is_named() -> None:
    model = reader()
    model.spare = nn.ReLU().eval()
    model.forward = lambda x: model[2](model[1](model[0](x)))
    with pytest.raises(ValueError, match="its layer 'spare' does not run"):
        from_module(model, "spare", **about())


def test_what_is_no_network_is_named() -> None:
    with pytest.raises(TypeError, match=r"model is a str; give a torch\.nn\.Module"):
        from_module("resnet18", **about())
    with pytest.raises(TypeError, match="'mean' and 'std'"):
        from_module(reader())  # the normalisation is never guessed


def test_pictures_that_are_normalised_already_are_refused() -> None:
    classifier = from_module(reader(), **about())
    with pytest.raises(ValueError, match="before normalisation"):
        classifier.predict(normalised(noise()))


# --- what the pages say ------------------------------------------------------------------------------

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("path", [path for path in PAGES if examples(path)], ids=lambda path: path.name)
def test_the_examples_of_the_pages_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With random weights in place of a download, one step in place of a hundred, and no files left in the project."""
    picture = tmp_path / "data" / "images" / "albatross.png"
    picture.parent.mkdir(parents=True)
    shutil.copy(ROOT / "data" / "images" / picture.name, picture)
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
