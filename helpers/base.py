"""A network split where the zero-out attack reads it: a frozen base and a head.

Networks take images in [0, 1]; the normalisation is inside, so a budget of 8/255 means 8 of 255 grey levels.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from helpers.images import check_images, check_size
from helpers.runtime import full_float32

# Activations with a flat part: pre-activations at or below the number give outputs of exactly zero.
FLAT_UP_TO = {nn.ReLU: 0.0, nn.ReLU6: 0.0, nn.Hardswish: -3.0, nn.Hardsigmoid: -3.0}
ACTIVATIONS = (
    *FLAT_UP_TO,
    *(nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.SiLU, nn.GELU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.Tanh),
)


class Base(nn.Module):
    """A frozen network up to its last layer.

    body: normalised images (N, 3, H, W) -> pre-activations, the input of the last activation.
    rest: pre-activations -> features, what a head receives. The weights of both are frozen.
    mean, std: normalisation, three numbers or one, in units of [0, 1]. (Default: none)
    size: side of the images, in pixels. (Default: 224)
    name: for messages and certificates.
    sha256: hash of the file that holds the weights. (Default: a hash of the weights)
    Its attribute threshold: pre-activations at or below it give features of exactly zero (0 for a ReLU), None where
    the last activation has no flat part.
    Raises ValueError for a bad mean, std or size.
    """

    @torch.no_grad()
    def __init__(
        self,
        body: nn.Module,
        rest: nn.Module,
        *,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        size: int = 224,
        name: str = "network",
        sha256: str = "",
    ) -> None:
        super().__init__()
        check_size(size)
        self.body, self.rest, self.size, self.name = body, rest, int(size), name
        weight = next(self.parameters(), torch.zeros(())).new_zeros(())  # of the network's device and precision
        self.register_buffer("mean", per_channel("mean", mean).to(weight))
        self.register_buffer("std", per_channel("std", std).to(weight))
        for module in self.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # would overwrite the pre-activations
        self.requires_grad_(False).eval()
        self.to(memory_format=torch.channels_last)
        self._source, self._loaded = sha256, sha256 and state_digest(self)
        z = self.pre_activations(torch.zeros(1, 3, self.size, self.size).to(weight))
        self.feature_shape = tuple(rest(z).shape[1:])
        self.threshold = zero_threshold(rest, z)

    @property
    def sha256(self) -> str:
        """Hash of the file that the weights came from while they are as loaded, else their state_digest."""
        now = state_digest(self)
        return self._source if now == self._loaded else now

    def pre_activations(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> the input of the last activation (VGG-16: N, 512, 14, 14)."""
        try:
            return self.body((x.to(self.mean.dtype) - self.mean) / self.std)
        except (RuntimeError, AssertionError) as error:
            if x.shape[-2:] == (self.size, self.size) or "memory" in str(error):
                raise
            raise ValueError(
                f"{self.name} cannot read images of {x.shape[-1]} x {x.shape[-2]} pixels "
                f"({str(error).splitlines()[0]}); give {self.size} x {self.size}"
            ) from error

    def features(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> what a head receives (VGG-16: N, 512, 7, 7)."""
        return self.rest(self.pre_activations(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)

    def flat_below(self) -> float:
        """The threshold, or a ValueError where the last activation has none."""
        if self.threshold is None:
            raise ValueError(f"{self.name} does not end in an activation with a flat part; its output is never zero")
        return self.threshold

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


class Classifier(nn.Module):
    """A base and a head trained on its features; forward returns logits (N, K).

    labels: K class names.
    """

    def __init__(self, base: Base, head: nn.Module, labels: Sequence[str]) -> None:
        super().__init__()
        self.base, self.head, self.labels = base, head.requires_grad_(False), list(labels)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.base.features(x))

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], on any device -> softmax probabilities (N, K), on the network's."""
        check_images(x)
        return self(x.to(self.base.mean.device)).softmax(1)

    def predict(self, x: Tensor, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each image its `top` best (label, probability), the best first."""
        return [best_labels(row, self.labels, top) for row in self.probabilities(x)]

    @torch.no_grad()
    def blank(self) -> Tensor:
        """The probabilities (K,) when every feature is zero: those of the biases alone."""
        zeros = self.base.mean.new_zeros(1, *self.base.feature_shape)
        if zeros.ndim == 4:  # laid out as a base gives them: else sums in the head may round differently
            zeros = zeros.contiguous(memory_format=torch.channels_last)
        return self.head(zeros).softmax(1)[0]


def best_labels(probabilities: Tensor, labels: Sequence[str], top: int = 5) -> list[tuple[str, float]]:
    """The `top` largest of probabilities (K,) with their labels."""
    values, places = probabilities.topk(min(top, len(labels)))
    return [(labels[i], p) for i, p in zip(places.tolist(), values.tolist(), strict=True)]


def count_nonzero(features: Tensor) -> Tensor:
    """Number of values that are not exactly 0.0 in each image's features (N, ...): (N,)."""
    return features.flatten(1).ne(0).sum(1)


def zero_threshold(rest: nn.Module, z: Tensor) -> float | None:
    """The level at or below which all pre-activations give features of exactly zero, None if there is none.

    z: pre-activations of one image, for their shape.
    """
    levels = [FLAT_UP_TO[type(module)] for module in rest.modules() if type(module) in FLAT_UP_TO]
    return levels[0] if levels and not rest(torch.full_like(z, levels[0])).any() else None


def check_base(base: object) -> None:
    """Raise TypeError unless base is a Base, ValueError unless it is in eval mode and in float32."""
    if not isinstance(base, Base):
        raise TypeError(f"base is a {type(base).__name__}, not a Base; give its .base, or see helpers.networks")
    check_network(base, "base")


def check_network(model: nn.Module, name: str) -> None:
    """Raise ValueError unless all of the network is in eval mode and in float32; name: of the variable."""
    if any(module.training for module in model.modules()):
        raise ValueError(f"the network is in training mode, so its output is random; call {name}.eval()")
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ValueError(f"the network computes in {tensor.dtype}; call {name}.float()")


def per_channel(name: str, values: object) -> Tensor:
    """The mean or std, given as three numbers or one, as a float32 tensor (1, 3, 1, 1)."""
    try:
        numbers = np.asarray(values, dtype=float).ravel().tolist()
    except (TypeError, ValueError):
        numbers = []
    least = 1e-6 if name == "std" else 0
    if len(numbers) not in (1, 3) or not all(least <= number <= 1 for number in numbers):
        raise ValueError(
            f"{name} is {values}; give three numbers in units of [0, 1], red first (divide those for 0 to 255 by 255), "
            "or mean=0, std=1 when the network normalises by itself"
        )
    return torch.tensor(numbers).view(1, -1, 1, 1).repeat(1, 3 // len(numbers), 1, 1)


def state_digest(module: nn.Module) -> str:
    """sha256 of the weights and buffers of a module, in their order, as float32 bytes."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
