"""Weight files: where they are, whether they are whole, and how to get them.

Nothing here unpickles code: bundled files are safetensors, Keras' file is HDF5, and
torchvision's checkpoint is read with weights_only=True.
"""

import hashlib
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import torch
from safetensors.torch import load
from torch import Tensor

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
    """The tensors of a bundled file in float32, after checking its sha256.

    Raises FileNotFoundError or ValueError (altered or cut short), with the remedy.
    """
    path = folder / file.name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; get the whole repository, data/weights/ included")
    content = path.read_bytes()
    check_digest(hashlib.sha256(content).hexdigest(), file, path)
    return {name: tensor.float() for name, tensor in load(content).items()}


def check_digest(digest: str, file: WeightFile, path: Path) -> None:
    """Raise ValueError unless the digest is the one known for this file."""
    if digest != file.digest:
        raise ValueError(
            f"{path} is altered or cut short ({file.algorithm} {digest[:12]}..., expected {file.digest[:12]}...); "
            "delete it and get it again"
        )


def find_or_download(file: WeightFile, path: str | Path | None = None) -> Path:
    """The path of a large weight file, its hash checked.

    Searched in this order: the explicit path, the folder or file named by the environment
    variable ZERO_OUT_WEIGHTS, torch's and Keras' caches, /kaggle/input; then downloaded into
    torch's cache. Raises FileNotFoundError with the remedy when it is nowhere to be had.
    """
    found = find_file(file, path)
    if found is None:
        found = _download(file)
    check_digest(file_digest(found, file.algorithm), file, found)
    return found


def find_file(file: WeightFile, path: str | Path | None = None) -> Path | None:
    """The first place that holds the file (same order as find_or_download), or None."""
    if path is not None:
        path = Path(path).expanduser()
        path = path / file.name if path.is_dir() else path
        if not path.is_file():  # an explicit path is never silently replaced
            raise FileNotFoundError(f"{path} does not exist; give the path of {file.name}")
        return path
    return next((place for place in _places(file) if place.is_file()), None)


def _places(file: WeightFile) -> Iterator[Path]:
    variable = os.environ.get(VARIABLE)
    if variable:
        given = Path(variable).expanduser()
        # One file may be named while another is looked for: .h5 is never a .pth, and of .safetensors there are several.
        one_kind = given.suffix == Path(file.name).suffix and given.suffix != ".safetensors"
        yield given if one_kind or given.name == file.name else given / file.name
    yield Path(torch.hub.get_dir()) / "checkpoints" / file.name
    keras = os.environ.get("KERAS_HOME")
    yield (Path(keras) if keras else Path.home() / ".keras") / "models" / file.name
    # Attached data sets appear as /kaggle/input/<slug>/ or /kaggle/input/datasets/<owner>/<slug>/.
    for depth in range(1, 6):
        yield from KAGGLE.glob("*/" * depth + file.name)


def _download(file: WeightFile) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / file.name
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        urllib.request.urlopen(file.url, timeout=10).close()  # fail before the long transfer
        torch.hub.download_url_to_file(file.url, str(part), progress=False)
        check_digest(file_digest(part, file.algorithm), file, part)
        part.replace(path)
    except OSError as error:
        raise FileNotFoundError(
            f"{file.name} is not on this machine and cannot be downloaded ({error}); "
            f"put it into a folder and name that in {VARIABLE}, or switch the Internet on. Source: {file.url}"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of a file, read in pieces."""
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    return digest.hexdigest()


def keras_head(path: Path, shape: tuple[int, int, int] = (512, 7, 7)) -> dict[str, Tensor]:
    """The three dense layers of Keras' VGG-16 as torch weights: fc1, fc2, predictions.

    shape: (C, H, W) of the features. Keras stores kernels as (in, out) and flattens
    features by height, width, channel; here the input order is channel, height, width.
    Only these three layers are read. Raises ValueError when one is missing or misshapen.
    """
    state = {}
    with h5py.File(path, "r") as file:
        groups = file.get("model_weights", file)
        for layer in ("fc1", "fc2", "predictions"):
            if layer not in groups:
                raise ValueError(f"{path} has no layer {layer}; give Keras' VGG-16 file with its top")
            arrays = [groups[layer][name][()] for name in groups[layer].attrs["weight_names"]]
            kernel, bias = (torch.from_numpy(array) for array in arrays)
            if layer == "fc1":
                c, h, w = shape
                if kernel.shape[0] != c * h * w:
                    raise ValueError(f"fc1 has {kernel.shape[0]} inputs, expected {c * h * w}")
                kernel = kernel.reshape(h, w, c, -1).permute(2, 0, 1, 3).reshape(c * h * w, -1)
            state[f"{layer}.weight"], state[f"{layer}.bias"] = kernel.T.contiguous(), bias
    return state
