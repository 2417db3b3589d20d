"""Split a network at an activation, into a base and a head, without touching its code."""

import copy
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.base import ACTIVATIONS, Base, check_network, check_size, per_channel, watch_run

Run = Callable[[Tensor], Tensor]


class Method(nn.Module):
    """One method of a network, as a module."""

    def __init__(self, run: Run, model: nn.Module) -> None:
        super().__init__()
        self.run, self.model = run, model

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class ForwardStopped(Exception):
    """Carries the input of a layer out of a forward pass."""


@dataclass
class _Pass:
    """A forward pass that stops before a call of a layer or, given features, replaces the layer's output by them."""

    layer: nn.Module
    calls_left: int
    features: Tensor | None = None


# The hooks below stay on the layer and hold no state: each thread has its own pass, so threads can share a network.
_PASS: ContextVar[_Pass | None] = ContextVar("pass", default=None)


def _before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    current = _PASS.get()
    if current is not None and current.layer is layer:
        current.calls_left -= 1
        if current.calls_left == 0 and current.features is None:
            raise ForwardStopped(inputs[0])


def _after(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    current = _PASS.get()
    return current.features if current is not None and current.layer is layer and current.calls_left == 0 else None


def _run(run: Run, x: Tensor, current: _Pass) -> Tensor:
    token = _PASS.set(current)
    try:
        return run(x)
    finally:
        _PASS.reset(token)


class TruncatedModule(nn.Module):
    """A network up to the input of one of its layers.

    run: the network, or the method of it to call.
    call: which call of the layer in one run, counted from 1 (torchvision's ResNets call one ReLU twice).
    """

    def __init__(self, run: Run, model: nn.Module, layer: nn.Module, call: int = 1) -> None:
        super().__init__()
        self.run, self.model, self.call = run, model, call
        self.layer = [layer]  # in a list: it is already a part of the model
        if _before not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_before)
            layer.register_forward_hook(_after)

    def forward(self, x: Tensor) -> Tensor:
        try:
            _run(self.run, x, _Pass(self.layer[0], self.call))
        except ForwardStopped as stopped:
            return stopped.args[0]
        raise RuntimeError("the layer to split at did not run")


class HeadFromLayer(nn.Module):
    """The part of a network behind a layer: it runs on empty images, the layer's output replaced by the features."""

    def __init__(self, body: TruncatedModule, size: int) -> None:
        super().__init__()
        self.body, self.size = body, size

    def forward(self, features: Tensor) -> Tensor:
        empty = features.new_zeros(len(features), 3, self.size, self.size)
        return _run(self.body.model, empty, _Pass(self.body.layer[0], self.body.call, features))


def probe_images(size: int) -> Tensor:
    """Images (4, 3, size, size) to compare networks on: noise, a smooth one, black and white."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, size, size, generator=generator)
    smooth = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=(size, size), mode="bilinear")
    return torch.cat([noise, smooth, torch.zeros_like(noise), torch.ones_like(noise)])


@torch.no_grad()
def split(model: nn.Module, run: Run, *, size: int = 224, **about: object) -> Base:
    """Split a network at its last activation, where its features are the output of that, pooled or not.

    run: the method of the model that maps normalised images to features.
    about: settings of Base.
    """
    x = probe_images(size)
    ran, features = watch_run(run, x, [module for module in model.modules() if isinstance(module, ACTIVATIONS)])
    for layer in ran[-1:]:
        if getattr(layer, "inplace", False):
            layer.inplace = False
        body = TruncatedModule(run, model, layer)
        z = body(x)
        for rest in (layer, nn.Sequential(layer, nn.MaxPool2d(2))):
            y = rest(z)
            if y.shape == features.shape and torch.equal(y, features):
                return Base(body, rest, size=size, **about)
    return Base(Method(run, model), nn.Identity(), size=size, **about)


@torch.no_grad()
def split_scores(
    model: nn.Module, layer: str | None, *, mean: object, std: object, size: int
) -> tuple[Base, HeadFromLayer, int]:
    """Base and head of a network that returns scores, and the number of scores; see networks.from_module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; give a torch.nn.Module")
    check_network(model, "model")
    check_size("size", size)
    x = (probe_images(size) - per_channel("mean", mean)) / per_channel("std", std)
    model = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x = x.to(next(model.parameters(), x).device)
    name, module, call, scores = _find_layer(model, layer, x)
    body = TruncatedModule(model.__call__, model, module, call)  # bound, so that no weight is registered twice
    about = f"{type(model).__name__} until {name}"
    base = Base(body, module, mean=mean, std=std, size=size, name=about)
    head = HeadFromLayer(body, size)
    spread = (scores - scores[:1]).abs().max().item()  # scores: (4, K)
    if spread <= 1e-6 * scores.abs().max().item():
        raise ValueError(f"{type(model).__name__} gives every image the same scores; load weights or train its head")
    if not torch.allclose(head(module(body(x))), scores, rtol=1e-6, atol=1e-3 * spread):
        raise ValueError(
            f"the scores of {type(model).__name__} depend on more than {name}: something passes around it, so zeros "
            "there would not blind it; name an activation that everything passes, as a module (nn.ReLU, not F.relu)"
        )
    return base, head, scores.shape[1]


def _find_layer(model: nn.Module, layer: str | None, x: Tensor) -> tuple[str, nn.Module, int, Tensor]:
    """The activation to zero: name, module, number of its calls; and the scores of x."""
    modules = dict(model.named_modules())
    names = {module: name for name, module in modules.items() if isinstance(module, ACTIVATIONS)}
    if layer is not None and modules.get(layer) not in names:
        close = get_close_matches(layer, names.values(), 3, 0.3) or list(names.values())[-3:]
        what = f"is a {type(modules[layer]).__name__}, no activation" if layer in modules else "does not exist"
        raise ValueError(f"layer {layer!r} {what}; close to it: {', '.join(close) or 'none, the network has none'}")
    try:
        ran, scores = watch_run(model, x, names)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the network cannot read images of shape {tuple(x.shape)} ({reason}); give size") from error
    if not isinstance(scores, Tensor):
        raise ValueError(f"the network returns a {type(scores).__name__}; wrap it so that it returns scores (N, K)")
    if scores.ndim != 2:
        raise ValueError(f"the network returns {tuple(scores.shape)}, not scores (N, K); add a pooling and a head")
    module = modules[layer] if layer is not None else ran[-1] if ran else None
    if module not in ran:
        what = "no activation runs in it" if layer is None else f"its layer {layer!r} does not run"
        known = ", ".join(activation.__name__ for activation in ACTIVATIONS)
        raise ValueError(f"the network cannot be split: {what} as a module (nn.ReLU, not F.relu); known are {known}")
    return names[module], module, ran.count(module), scores
