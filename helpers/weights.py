"""Weight files: where they are, whether they are complete, and how to get them.

No file can run code when it is read: the bundled ones are safetensors, Keras' is HDF5, and torchvision's is read with
weights_only=True.
"""

import hashlib
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.decode import AGENT, user_path

BUNDLED = Path(__file__).resolve().parents[1] / "data" / "weights"
KAGGLE = Path("/kaggle/input")


@dataclass(frozen=True)
class WeightFile:
    """A file, known by its name and its sha256, or its md5 (32 digits) where only that is published."""

    name: str
    digest: str
    url: str = ""


VGG16_BASE = WeightFile(
    "vgg16_base_oxford.safetensors", "0c06e32a2a97e6f694a9cf205ad1cb0b0dd1ecd6a9e076b18fa91ffbcf63e4b6"
)
EFFICIENTNET_LITE0 = WeightFile(
    "efficientnet_lite0.safetensors", "4bcfdeff2781e11b57e0132dd6c310eba0ada74941d3bf6b78a6591f119bdcc0"
)
VGG16_HARDENED = WeightFile(
    "vgg16_hardened.safetensors", "19d6625c4c81286fd663ce15f5d7750bbff2753c1377c95ebc146a39c1984861"
)
KERAS_VGG16 = WeightFile(
    "vgg16_weights_tf_dim_ordering_tf_kernels.h5",
    "64373286793e3c8b2b4e3219cbf3544b",
    "https://storage.googleapis.com/tensorflow/keras-applications/vgg16/vgg16_weights_tf_dim_ordering_tf_kernels.h5",
)
TORCHVISION_VGG16 = WeightFile(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)


def load_bundled(file: WeightFile, folder: Path = BUNDLED) -> dict[str, Tensor]:
    """The tensors of a bundled file, in float32; its hash is checked.

    Raises FileNotFoundError, or ValueError for a file that is altered or cut short.
    """
    path = folder / file.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get the whole repository, data/weights/ included")
    return {name: tensor.float() for name, tensor in load_file(check_file(file, path)).items()}


def check_file(file: WeightFile, path: Path) -> Path:
    """Return the path if the file has the known hash; else raise ValueError."""
    digest = hashlib.new("md5" if len(file.digest) == 32 else "sha256")
    with open(path, "rb") as content:
        while piece := content.read(1 << 22):
            digest.update(piece)
    if digest.hexdigest() != file.digest:
        found = f"{digest.name} {digest.hexdigest()[:12]}..., expected {file.digest[:12]}..."
        raise ValueError(f"{path} is altered or cut short ({found}); delete it and get it again")
    return path


def find_or_download(file: WeightFile, path: str | Path | None = None) -> Path:
    """The path of a large weight file; its hash is checked. If it is not found, it is downloaded to torch's cache.

    path: the only place to look. (Default: all places of find_file)
    Raises FileNotFoundError if it cannot be had, or ValueError for a wrong hash.
    """
    found = find_file(file) if path is None else user_path(path)
    return _download(file) if found is None else check_file(file, found)


def find_file(file: WeightFile) -> Path | None:
    """The first place that holds the file, or None.

    Places: the folder named by the environment variable ZERO_OUT_WEIGHTS, torch's cache, Keras' cache, /kaggle/input.
    """
    return next((place for place in _places(file.name) if place.is_file()), None)


def _places(name: str) -> Iterator[Path]:
    if given := os.environ.get("ZERO_OUT_WEIGHTS"):
        yield user_path(given) / name
    yield Path(torch.hub.get_dir()) / "checkpoints" / name
    yield user_path(os.environ.get("KERAS_HOME") or "~/.keras") / "models" / name
    for depth in range(1, 6):  # /kaggle/input/<slug>/ or /kaggle/input/datasets/<owner>/<slug>/
        yield from KAGGLE.glob("*/" * depth + name)


def _download(file: WeightFile) -> Path:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        part = Path(folder) / file.name
        try:
            request = urllib.request.Request(file.url, headers=AGENT)
            with urllib.request.urlopen(request, timeout=20) as reply, open(part, "wb") as content:
                shutil.copyfileobj(reply, content)
        except (OSError, HTTPException) as error:
            raise FileNotFoundError(
                f"{file.name} is not on this machine and cannot be downloaded ({error}); "
                f"put it into a folder and name that in ZERO_OUT_WEIGHTS, or switch the Internet on. Source: {file.url}"
            ) from error
        return check_file(file, part).replace(cache / file.name)


def keras_head(path: Path) -> dict[str, Tensor]:
    """The dense layers fc1, fc2 and predictions of Keras' VGG-16 as torch weights.

    Keras flattens features in the order height, width, channel; torch puts the channel first.
    """
    import h5py

    state = {}
    with h5py.File(path, "r") as file:
        for layer in ("fc1", "fc2", "predictions"):
            arrays = [file[layer][name][()] for name in file[layer].attrs["weight_names"]]
            state[f"{layer}.weight"], state[f"{layer}.bias"] = (torch.from_numpy(array).t() for array in arrays)
    first = state["fc1.weight"].unflatten(1, (7, 7, 512))  # (4096, H, W, C)
    state["fc1.weight"] = first.permute(0, 3, 1, 2).flatten(1)
    return {name: tensor.contiguous() for name, tensor in state.items()}
