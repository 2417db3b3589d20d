"""A network split where the zero-out attack reads it: a frozen base and a head.

Networks take pictures in [0, 1]; the normalisation is inside, so a budget of 8/255
means 8 of 255 grey levels. All weights are frozen and no ReLU works in place.
"""

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from helpers.images import check_images
from helpers.runtime import full_float32

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardtanh, nn.ELU, nn.Mish)


class Base(nn.Module):
    """A frozen network up to its last layer.

    body: normalised pictures -> pre-activations, the last layer before its final ReLU;
    rest: pre-activations -> features, what a head receives. Both stay as given; their
    weights are frozen. threshold: pre-activations at or below it give outputs of exactly
    zero (0 for a ReLU, None where the last activation has no flat part).
    """

    def __init__(
        self,
        body: nn.Module,
        rest: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        size: int = 224,
        name: str = "network",
        sha256: str = "",
    ) -> None:
        super().__init__()
        self.body, self.rest, self.size, self.name = body, rest, size, name
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        for module in self.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # would overwrite the pre-activations
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)
        self._loaded = state_digest(self)
        self._source = sha256 or self._loaded
        with torch.no_grad():
            z = self.pre_activations(torch.zeros(1, 3, size, size))
            self.feature_shape = tuple(rest(z).shape[1:])
        self.threshold = flat_end(rest, z.shape)

    @property
    def sha256(self) -> str:
        """Hash of the weights as they are now: of the file they came from while they are as it holds them (a
        base that ends earlier has the hash of the whole file), else their `state_digest`."""
        now = state_digest(self)
        return self._source if now == self._loaded else now

    def pre_activations(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [0, 1] -> last layer before its final ReLU (VGG-16: N, 512, 14, 14)."""
        return self.body((x - self.mean) / self.std)

    def flat_below(self) -> float:
        """The threshold, or a ValueError where the last activation has none."""
        if self.threshold is None:
            raise ValueError(f"{self.name} does not end in an activation with a flat part; its output is never zero")
        return self.threshold

    def features(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [0, 1] -> what a head receives (VGG-16: N, 512, 7, 7)."""
        return self.rest(self.pre_activations(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)

    def margin_reached(self, z: Tensor) -> Tensor:
        """Distance of the largest pre-activation below the threshold; without one, minus the largest absolute output.

        z: pre-activations (N, ...). Returns (N,), negative where a feature may be active.
        """
        z = z.flatten(1)
        return -z.abs().amax(1) if self.threshold is None else self.threshold - z.amax(1)

    @torch.no_grad()
    @full_float32()
    def verdict(self, images: Tensor, batch: int = 8) -> tuple[Tensor, Tensor]:
        """Number of features that are not zero, and margin, of each image.

        images: (N, 3, H, W) in [0, 1], moved to the base's device. batch: images per forward pass.
        Returns two tensors (N,), computed without TF32.
        """
        counts, margins = [], []
        for piece in images.split(batch):
            z = self.pre_activations(piece.to(self.mean.device))
            counts.append(count_nonzero(self.rest(z)))
            margins.append(self.margin_reached(z))
        return torch.cat(counts), torch.cat(margins)


def count_nonzero(features: Tensor) -> Tensor:
    """Number of values that are not exactly 0.0 in each image's features (N, ...): (N,)."""
    return features.flatten(1).ne(0).sum(1)


def flat_end(rest: nn.Module, shape: Sequence[int]) -> float | None:
    """The largest level from -16 to 0, in tenths, up to which `rest` is flat and exactly zero; None: not even at -16.

    shape: of its inputs. Each level is tried on constant inputs, and on uneven ones, since LayerNorm turns
    constants into zeros. Zero means no slope either, in float64: GELU gives zeros only where its sums round.
    """
    rest = copy.deepcopy(rest).double()
    uneven = torch.randint(0, 2, (1, *shape[1:]), generator=torch.Generator().manual_seed(0)).double()
    end = None
    for level in torch.linspace(-16, 0, 161).tolist():
        if not all(_flat(rest, level - lower) for lower in (torch.zeros_like(uneven), uneven)):
            break
        end = level
    return end


@torch.enable_grad()
def _flat(rest: nn.Module, z: Tensor) -> bool:
    y = rest(z.requires_grad_())
    return not y.any() and not (y.requires_grad and torch.autograd.grad(y.sum(), z)[0].any())


def check_base(base: object) -> None:
    """Raise one clear error for what is no Base, or one in training mode."""
    if not isinstance(base, Base):
        remedy = "give its .base" if isinstance(getattr(base, "base", None), Base) else "make one with helpers.networks"
        raise TypeError(f"base is a {type(base).__name__}, not a Base; {remedy}")
    if base.training:
        raise ValueError("the network is in training mode, so that its output is random; call base.eval()")


class Classifier(nn.Module):
    """A base and a head trained on its features; forward returns logits (N, K)."""

    def __init__(self, base: Base, head: nn.Module, labels: Sequence[str]) -> None:
        super().__init__()
        self.base, self.head, self.labels = base, head.requires_grad_(False), list(labels)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base.features(x))

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) in [0, 1], on any device -> softmax probabilities (N, K), on the network's."""
        check_images(x)
        return self(x.to(self.base.mean.device)).softmax(1)

    def predict(self, x: Tensor, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each picture its `top` best (label, probability), the best first."""
        return [best_labels(row, self.labels, top) for row in self.probabilities(x)]

    @torch.no_grad()
    def blank(self) -> Tensor:
        """The probabilities (K,) when all features are zero: what the biases alone say."""
        zeros = torch.zeros(1, *self.base.feature_shape, device=self.base.mean.device, dtype=self.base.mean.dtype)
        return self.head(zeros).softmax(1)[0]


def best_labels(probabilities: Tensor, labels: Sequence[str], top: int = 5) -> list[tuple[str, float]]:
    """The `top` largest of probabilities (K,) with their labels."""
    values, places = probabilities.topk(min(top, len(labels)))
    return [(labels[i], p) for i, p in zip(places.tolist(), values.tolist(), strict=True)]


def state_digest(module: nn.Module) -> str:
    """sha256 over the weights and buffers of a module, in their order, as float32 bytes."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def watch_run(run: Callable[[Tensor], Any], x: Tensor, modules: Iterable[nn.Module]) -> tuple[list[nn.Module], Any]:
    """Those of the modules that run in run(x), in order, each as often as it runs; and what run(x) gives."""
    ran: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in modules]
    try:
        return ran, run(x)
    finally:
        for hook in hooks:
            hook.remove()


class Stopped(Exception):
    """Carries the input of the tapped layer out of a forward pass."""


class UpTo(nn.Module):
    """Run a module only up to the input of one of its layers, and return that input.

    call: which call of the layer in one run, counted from 1 (torchvision's ResNets call one ReLU twice).
    """

    def __init__(self, run: Callable[[Tensor], Tensor], model: nn.Module, layer: nn.Module, call: int = 1) -> None:
        super().__init__()
        self.model, self.run, self.call = model, run, call
        self.layer = [layer]  # in a list: it is already a part of the model

    def forward(self, x: Tensor) -> Tensor:
        calls = 0

        def stop(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal calls
            calls += 1
            if calls == self.call:
                raise Stopped(inputs[0])

        handle = self.layer[0].register_forward_pre_hook(stop)
        try:
            self.run(x)
        except Stopped as stopped:
            return stopped.args[0]
        finally:
            handle.remove()
        raise RuntimeError("the tapped layer did not run")


class Head(nn.Module):
    """The head of a timm network."""

    def __init__(self, run: Callable[[Tensor], Tensor], model: nn.Module) -> None:
        super().__init__()
        self.run, self.model = run, model

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


@torch.no_grad()
def split(model: nn.Module, run: Callable[[Tensor], Tensor], *, size: int = 224, **about: object) -> Base:
    """Split a network at its last activation; run: normalised pictures -> features."""
    x = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    ran, features = watch_run(run, x, [module for module in model.modules() if isinstance(module, ACTIVATIONS)])
    for layer in ran[-1:]:
        if getattr(layer, "inplace", False):
            layer.inplace = False
        body = UpTo(run, model, layer)
        for rest in (layer, nn.Sequential(layer, nn.MaxPool2d(2))):
            y = rest(body(x))
            if y.shape == features.shape and torch.equal(y, features):
                return Base(body, rest, size=size, **about)
    return Base(Head(run, model), nn.Identity(), size=size, **about)
