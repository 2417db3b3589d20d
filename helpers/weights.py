"""Weight files: where they are, whether they are whole, how to get them.

None of them is unpickled: the bundled ones are safetensors, that of Keras is HDF5, and torchvision's is read
with weights_only=True.
"""

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from helpers.decode import user_path

BUNDLED = Path(__file__).resolve().parents[1] / "data" / "weights"
KAGGLE = Path("/kaggle/input")
VARIABLE = "ZERO_OUT_WEIGHTS"  # a folder or a file, searched before the caches


@dataclass(frozen=True)
class WeightFile:
    """A file known by its name and its hash (sha256, or md5 where only that is published)."""

    name: str
    digest: str
    url: str = ""
    algorithm: str = "sha256"


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
    "md5",
)
TORCHVISION_VGG16 = WeightFile(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)


def load_bundled(file: WeightFile, folder: Path = BUNDLED) -> dict[str, Tensor]:
    """The tensors of a bundled file in float32, its hash checked.

    Raises FileNotFoundError, or ValueError for a file that is altered or cut short.
    """
    path = folder / file.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get the whole repository, data/weights/ included")
    check_file(file, path)
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def check_file(file: WeightFile, path: Path) -> Path:
    """Return the path if what lies there has the known hash, else raise ValueError."""
    digest = hashlib.new(file.algorithm)
    with open(path, "rb") as content:
        while piece := content.read(1 << 22):
            digest.update(piece)
    if digest.hexdigest() != file.digest:
        found = f"{file.algorithm} {digest.hexdigest()[:12]}..., expected {file.digest[:12]}..."
        raise ValueError(f"{path} is altered or cut short ({found}); delete it and get it again")
    return path


def find_or_download(file: WeightFile, path: str | Path | None = None) -> Path:
    """The path of a large weight file, its hash checked; where find_file finds none, torch's cache gets it.

    Raises FileNotFoundError where it is not to be had, ValueError for a wrong hash.
    """
    found = find_file(file, path)
    return _download(file) if found is None else check_file(file, found)


def find_file(file: WeightFile, path: str | Path | None = None) -> Path | None:
    """The first place that holds the file, or None.

    path: a file or folder that is tried instead of all others; by default the file or folder named by the
    environment variable ZERO_OUT_WEIGHTS, torch's cache, Keras' cache, /kaggle/input.
    """
    if path is not None:
        path = user_path(path)
        path = path / file.name if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give the path of {file.name}")
        return path
    return next((place for place in _places(file) if place.is_file()), None)


def _places(file: WeightFile) -> Iterator[Path]:
    if variable := os.environ.get(VARIABLE):
        given = user_path(variable)
        # Another network's file is passed over: .h5 is never .pth, and of .safetensors there are several.
        one_kind = given.suffix == Path(file.name).suffix and given.suffix != ".safetensors"
        yield given if one_kind or given.name == file.name else given / file.name
    yield Path(torch.hub.get_dir()) / "checkpoints" / file.name
    yield user_path(os.environ.get("KERAS_HOME") or "~/.keras") / "models" / file.name
    for depth in range(1, 6):  # /kaggle/input/<slug>/ or /kaggle/input/datasets/<owner>/<slug>/
        yield from KAGGLE.glob("*/" * depth + file.name)


def _download(file: WeightFile) -> Path:
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        part = Path(folder) / file.name
        try:
            urllib.request.urlopen(file.url, timeout=10).close()  # download_url_to_file has no timeout
            torch.hub.download_url_to_file(file.url, str(part), progress=False)
        except OSError as error:
            raise FileNotFoundError(
                f"{file.name} is not on this machine and cannot be downloaded ({error}); "
                f"put it into a folder and name that in {VARIABLE}, or switch the Internet on. Source: {file.url}"
            ) from error
        return check_file(file, part).replace(cache / file.name)


def keras_head(path: Path, shape: tuple[int, int, int] = (512, 7, 7)) -> dict[str, Tensor]:
    """The dense layers fc1, fc2 and predictions of Keras' VGG-16 as torch weights.

    shape: (C, H, W) of the features. Keras flattens them by height, width, channel; torch by channel first.
    Raises ValueError where a layer is missing or has another shape.
    """
    import h5py

    c, h, w = shape
    state = {}
    with h5py.File(path, "r") as file:
        groups = file.get("model_weights", file)
        for layer in ("fc1", "fc2", "predictions"):
            if layer not in groups:
                raise ValueError(f"{path} has no layer {layer}; give Keras' VGG-16 file with its top")
            arrays = [groups[layer][name][()] for name in groups[layer].attrs["weight_names"]]
            state[f"{layer}.weight"], state[f"{layer}.bias"] = (torch.from_numpy(array).t() for array in arrays)
    first = state["fc1.weight"]  # (4096, H * W * C)
    if first.shape[1] != c * h * w:
        raise ValueError(f"fc1 has {first.shape[1]} inputs, expected {c * h * w}")
    state["fc1.weight"] = first.reshape(-1, h, w, c).permute(0, 3, 1, 2).flatten(1)
    return {name: tensor.contiguous() for name, tensor in state.items()}
