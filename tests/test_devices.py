"""No CPU tensor hides in a network on another device. torch's fake tensors refuse to mix devices, without a GPU."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from experiments.universal import universal
from helpers import base as base_module
from helpers import networks
from helpers.attack import zero_out
from helpers.base import Base, Classifier
from helpers.networks import embed
from helpers.splitting import Method, TruncatedModule

SIZE = 8


@pytest.fixture
def classifier(monkeypatch: pytest.MonkeyPatch) -> Iterator[Classifier]:
    """A split network made on a fake GPU; what reads values, which fake tensors lack, is left out."""
    monkeypatch.setattr(base_module, "zero_threshold", lambda *_: 0.0)
    monkeypatch.setattr(Base, "to", lambda self, **_: self)  # fake parameters cannot always change their layout
    for module in (base_module, networks):
        monkeypatch.setattr(module, "check_images", lambda *_: None)
    with FakeTensorMode(), torch.device("cuda"):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        with torch.device("cpu"):
            body = TruncatedModule(model.__call__, model, model[1], 1, SIZE)
            base = Base(body, model[1], mean=0.5, std=(0.2, 0.3, 0.4), size=SIZE)
            yield Classifier(base, Method(body.resume, model), list("abcde"))


USES = {
    "features": (lambda c, x: c.base(x.cuda()), "cuda"),
    "verdict": (lambda c, x: c.base.verdict(x)[1], "cuda"),
    "logits": (lambda c, x: c(x.cuda()), "cuda"),
    "probabilities": (lambda c, x: c.probabilities(x), "cuda"),
    "blank": (lambda c, x: c.blank(), "cuda"),
    "embed": (lambda c, x: embed(c.base, x), "cpu"),
}


@pytest.mark.parametrize("use, device", USES.values(), ids=USES)
def test_networks_work_where_they_are(use: Callable[..., Tensor], device: str, classifier: Classifier) -> None:
    assert use(classifier, torch.rand(2, 3, SIZE, SIZE)).device.type == device


def test_a_hidden_cpu_tensor_is_found(classifier: Classifier) -> None:
    classifier.base.mean = classifier.base.mean.cpu()
    with pytest.raises(RuntimeError, match="device"):
        classifier.base.features(torch.rand(1, 3, SIZE, SIZE, device="cuda"))


class EverythingIsTrue(TorchDispatchMode):
    """Lets code that asks for values run on torch's meta device, which has none: numbers are 1, conditions hold."""

    def __torch_dispatch__(self, op: object, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        if op is torch.ops.aten._local_scalar_dense.default:
            return args[0].new_ones((), device="cpu").numpy().item()
        if op in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
            places = [i if i is None or i.dtype != torch.bool else i.long().cumsum(0) for i in args[1]]
            args = (args[0], places, *args[2:])
        return op(*args, **(kwargs or {}))


@pytest.fixture
def meta_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Base]:
    """On the meta device, autograd runs, and a CPU tensor or a copy to the CPU raises."""
    monkeypatch.setattr(Tensor, "tolist", lambda self: [0] * len(self))  # the one copy that is meant
    with EverythingIsTrue():
        base = Base(nn.Identity(), nn.ReLU(), mean=0.5, size=SIZE).to("meta")
        base.threshold = 0.0
        yield base


ATTACKS = {
    "linf": lambda base, x: zero_out(base, x, steps=2, eps=1.0).images,
    "l2": lambda base, x: zero_out(base, x, steps=2, eps=1.0, norm="l2").images,
    "least visible": lambda base, x: zero_out(base, x, steps=2, eps=None).images,
    "random start": lambda base, x: zero_out(base, x, steps=2, eps=1.0, random_start=True).images,
    "universal": lambda base, x: universal(base, x, steps=2, batch=2),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attacks_run_where_the_network_is(attack: Callable[..., Tensor], meta_base: Base) -> None:
    images = torch.empty(3, 3, SIZE, SIZE, device="meta")
    assert attack(meta_base, images).device.type == "meta"
    meta_base.std = torch.full((1, 3, 1, 1), 0.5)
    with pytest.raises(RuntimeError, match="device"):
        attack(meta_base, images)
