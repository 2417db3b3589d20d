"""Split a network at an activation into a base and a head, without changing its code."""

import copy
from collections.abc import Callable
from contextlib import ExitStack
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.base import ACTIVATIONS, Base, check_network
from helpers.images import check_size

Run = Callable[[Tensor], Any]

# Who started this forward pass, how many calls of its layer are still to come, and the features to continue with.
# It is a context variable, so that threads can share a network.
_PASS: ContextVar[tuple[nn.Module | None, int, Tensor | None]] = ContextVar("pass", default=(None, 0, None))


class Method(nn.Module):
    """One method of a network, as a module."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        super().__init__()
        self.run, self.model = run, model

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class ForwardStopped(Exception):
    """Carries the input of a layer out of a forward pass."""


class TruncatedModule(Method):
    """A network up to the input of one of its layers.

    run: the network, or the method of it to call.
    layer: where to stop.
    call: which call of the layer in one run, from 1 (torchvision's ResNets call one ReLU twice).
    size: side of the images, in pixels.
    """

    def __init__(self, run: Run, model: nn.Module, layer: nn.Module, call: int, size: int) -> None:
        super().__init__(run, model)
        self.call, self.size = call, size
        if getattr(layer, "inplace", False):
            layer.inplace = False  # would overwrite the input that is returned
        layer.register_forward_hook(self._at_layer)

    def forward(self, x: Tensor) -> Tensor:
        try:
            self._start(x, None)
        except ForwardStopped as stopped:
            return stopped.args[0]
        raise RuntimeError("the layer to split at did not run")

    def resume(self, features: Tensor) -> Tensor:
        """The scores for given features: the network runs on an empty image, and they replace the layer's output."""
        return self._start(features.new_zeros(len(features), 3, self.size, self.size), features)

    def _start(self, x: Tensor, features: Tensor | None) -> Any:
        token = _PASS.set((self, self.call, features))
        try:
            return self.run(x)
        finally:
            _PASS.reset(token)

    def _at_layer(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        owner, calls_left, features = _PASS.get()
        if owner is not self:
            return None
        _PASS.set((owner, calls_left - 1, features))
        if calls_left != 1:
            return None
        if features is None:
            raise ForwardStopped(inputs[0])
        return features


def probe_images(size: int) -> Tensor:
    """Images (4, 3, size, size) to compare networks on: noise, a smooth image, black and white."""
    check_size(size)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, size, size, generator=generator)
    smooth = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=(size, size), mode="bilinear")
    return torch.cat([noise, smooth, torch.zeros_like(noise), torch.ones_like(noise)])


def activations_run(model: nn.Module, run: Run, x: Tensor) -> tuple[list[str], Any]:
    """The names of the activations that run(x) calls, in order and as often as they run, and its result."""
    ran: list[str] = []
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if isinstance(module, ACTIVATIONS):
                hooks.enter_context(module.register_forward_hook(lambda *_, name=name: ran.append(name)))
        return ran, run(x)


@torch.no_grad()
def split(model: nn.Module, run: Run, *, size: int = 224, **about: object) -> Base:
    """Split a network at its last activation if its features are the output of that, pooled or not.

    Otherwise the features are their own pre-activations.
    run: the method of the model that maps normalised images to features.
    size: side of the images, in pixels. (Default: 224)
    about: other settings of Base.
    """
    x = probe_images(size)
    ran, features = activations_run(model, run, x)
    if ran:
        layer = model.get_submodule(ran[-1])
        body = TruncatedModule(run, model, layer, ran.count(ran[-1]), size)
        z = body(x)
        for rest in (layer, nn.Sequential(layer, nn.MaxPool2d(2))):
            if torch.equal(rest(z), features):
                return Base(body, rest, size=size, **about)
    return Base(Method(run, model), nn.Identity(), size=size, **about)


@torch.no_grad()
def split_scores(
    model: nn.Module, layer: str | None, *, mean: object, std: object, size: int
) -> tuple[Base, Method, int]:
    """The base and the head of a network that returns scores, and their number; see networks.from_module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    check_network(model, "model")
    model, kind = copy.deepcopy(model), type(model).__name__
    x = probe_images(size).to(next(model.parameters(), torch.zeros(())).device)
    name, call = _find_layer(model, layer, x)
    activation = model.get_submodule(name)
    body = TruncatedModule(model.__call__, model, activation, call, size)  # bound: the weights are registered once
    base = Base(body, activation, mean=mean, std=std, size=size, name=f"{kind} until {name}")
    head = Method(body.resume, model)
    scores = model((x - base.mean) / base.std)  # (4, K)
    spread = (scores - scores[:1]).abs().max().item()
    if spread <= 1e-6 * scores.abs().max().item():
        raise ValueError(f"{kind} gives every image the same scores; load weights or train its head")
    if not torch.allclose(head(base.features(x)), scores, rtol=1e-6, atol=1e-3 * spread):
        raise ValueError(
            f"the scores of {kind} depend on more than {name}: something passes around it, so zeros "
            "there would not blind it; name an activation that everything passes, as a module (nn.ReLU, not F.relu)"
        )
    return base, head, scores.shape[1]


def _find_layer(model: nn.Module, layer: str | None, x: Tensor) -> tuple[str, int]:
    """The name of the activation to zero, and how often it runs."""
    try:
        ran, scores = activations_run(model, model, x)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network cannot read images of shape {tuple(x.shape)} ({reason}); give size") from error
    if not isinstance(scores, Tensor) or scores.ndim != 2:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise ValueError(f"the network returns {found}, not scores (N, K); wrap it so that it does")
    if not ran:
        known = ", ".join(activation.__name__ for activation in ACTIVATIONS)
        raise ValueError(f"no activation runs as a module of the network (nn.ReLU, not F.relu); known are {known}")
    name = ran[-1] if layer is None else layer
    if name not in ran:
        close = ", ".join(get_close_matches(name, dict.fromkeys(ran), cutoff=0))
        raise ValueError(f"layer {name!r} is no activation that runs in the network; close to it: {close}")
    return name, ran.count(name)
