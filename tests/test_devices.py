"""No CPU tensor hides in a network on another device. torch's fake tensors refuse to mix devices, without a GPU."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers import base as base_module
from helpers import networks
from helpers.base import Base, Classifier
from helpers.networks import average_over_positions, embed
from helpers.splitting import HeadFromLayer, TruncatedModule

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
            body = TruncatedModule(model.__call__, model, model[1])
            base = Base(body, model[1], mean=0.5, std=(0.2, 0.3, 0.4), size=SIZE)
            yield Classifier(base, HeadFromLayer(body, SIZE), list("abcde"))


USES = {
    "features": (lambda c, x: c.base(x.cuda()), "cuda"),
    "verdict": (lambda c, x: c.base.verdict(x)[1], "cuda"),
    "logits": (lambda c, x: c(x.cuda()), "cuda"),
    "probabilities": (lambda c, x: c.probabilities(x), "cuda"),
    "blank": (lambda c, x: c.blank(), "cuda"),
    "embed": (lambda c, x: embed(c.base, x), "cpu"),
    "averages": (lambda c, x: average_over_positions(c.base)[0](c.base(x.cuda())), "cuda"),
}


@pytest.mark.parametrize("use, device", USES.values(), ids=USES)
def test_networks_work_where_they_are(use: Callable[..., Tensor], device: str, classifier: Classifier) -> None:
    assert use(classifier, torch.rand(2, 3, SIZE, SIZE)).device.type == device


def test_a_hidden_cpu_tensor_is_found(classifier: Classifier) -> None:
    classifier.base.mean = classifier.base.mean.cpu()
    with pytest.raises(RuntimeError, match="device"):
        classifier.base.features(torch.rand(1, 3, SIZE, SIZE, device="cuda"))
